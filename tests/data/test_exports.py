"""Exports of annotation tools, in each script's reader: Label Studio's JSON and JSON-MIN, doccano's JSONL."""

import json

import pytest

from bertorch.data.exports import plain_row
from bertorch.data.rows import find_labels, read_rows
from bertorch.errors import UnusableRow, UserError
from bertorch.tasks.entities.rows import find_types, read_documents
from bertorch.tasks.reading.rows import read_questions
from bertorch.tasks.sentences.rows import read_scored_pairs

TEXT = "小明😀在北京"
PLACES = [(0, 2, "PER"), (4, 6, "LOC")]


def choice(*names, control="sentiment"):
    return {"id": "c", "from_name": control, "to_name": "text", "type": "choices", "value": {"choices": list(names)}}


def span(text, start, end, label):
    """As a browser counts: what lies beyond U+FFFF is two characters."""
    start, end = (len(text[:place].encode("utf-16-le")) // 2 for place in (start, end))
    surface = text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")
    value = {"start": start, "end": end, "text": surface, "labels": [label]}
    return {"id": label, "from_name": "label", "to_name": "text", "type": "labels", "value": value}


RELATION = {"type": "relation", "from_id": "PER", "to_id": "LOC", "direction": "right", "labels": ["in"]}
SPANS = [*(span(TEXT, *place) for place in PLACES), RELATION]


def task(data, *results, **more):
    annotations = [{"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": list(results)}]
    return {"id": 7, "annotations": annotations, "drafts": [], "predictions": [], "data": data, "meta": {}, **more}


@pytest.fixture
def write(tmp_path):
    def make(rows, name="project-1-at-2022-05-25.json"):
        path = tmp_path / name
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(lines if name.endswith("l") else json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return path

    return make


def test_choices_of_label_studio(write):
    path = write([task({"text": "很好"}, choice("pos")), task({"text": "很差"}, choice("neg"))])
    assert [(*row.texts, row.label) for row in read_rows(path)] == [("很好", "pos"), ("很差", "neg")]
    assert find_labels(path) == ["neg", "pos"]
    path = write([task({"review": "很好", "rating": 5}, choice("pos"))])
    assert read_rows(path)[0].texts == ("很好",), "the only text of the data"
    path = write([task({"a": "x", "b": "y"}, choice("pos"))])
    assert read_rows(path, True, columns="a,b,label")[0].texts == ("x", "y")


def test_several_choices(write):
    path = write([task({"text": "好"}, choice("room", "food")), task({"text": "嗯"})])
    rows = read_rows(path, label_columns=["food", "room", "view"])
    assert [row.label for row in rows] == [["room", "food"], []]
    with pytest.raises(UserError, match="2 labels where one is expected; --target labels takes any number"):
        read_rows(path)


def test_several_controls_are_named(write):
    path = write([task({"text": "好"}, choice("pos"), choice("room", control="topic"))])
    assert read_rows(path, columns="text,topic")[0].label == "room"
    with pytest.raises(UserError, match="no label under key 'label'"):
        read_rows(path)


def test_a_rating_is_a_score(write):
    rating = {"from_name": "grade", "type": "rating", "value": {"rating": 4}}
    path = write([task({"text1": "a", "text2": "b"}, rating)])
    assert read_scored_pairs(path) == [(1, ("a", "b"), 4.0)]


@pytest.mark.parametrize("small", [False, True], ids=["JSON", "JSON-MIN"])
def test_entities_of_label_studio(write, small, messages):
    """Places that a browser counted are those of the text; a task without entity has none."""
    rows = [task({"text": TEXT}, *SPANS), task({"text": "好"})]
    if small:
        rest = {"annotator": 1, "annotation_id": 1, "created_at": "2022", "updated_at": "2022", "lead_time": 1.5}
        rows = [{"id": 1, "text": TEXT, "label": [one["value"] for one in SPANS[:2]], **rest}, {"text": "好", **rest}]
    path = write(rows)
    documents = read_documents(path, None)
    found = [(kind, document.text[start:end]) for document in documents for kind, start, end in document.entities]
    assert found == [("PER", "小明"), ("LOC", "北京")]
    assert [len(document.entities) for document in documents] == [2, 0]
    assert find_types(path) == ["LOC", "PER"]
    assert any("1 relations between entities, left out" in message for message in messages) is not small


def test_choices_of_json_min(write):
    rest = {"id": 1, "annotator": 1, "annotation_id": 1, "created_at": "2022", "updated_at": "2022", "lead_time": 1.5}
    path = write([{"text": "好", "sentiment": "pos", **rest}, {"text": "差", "sentiment": "neg", **rest}])
    assert [row.label for row in read_rows(path)] == ["pos", "neg"]
    path = write([{"text": "好", "source": "web", "topic": {"choices": ["room", "food"]}, **rest}])
    assert read_rows(path, columns="text,topic", label_columns=["food", "room"])[0].label == ["room", "food"]


def test_answers_of_label_studio(write):
    passage = "我在北京。"
    path = write([task({"text": passage, "question": "在哪？"}, span(passage, 2, 4, "Answer"))])
    question = read_questions(path)[0]
    assert (question.answers, question.start, question.end, question.context) == (["北京"], 2, 4, passage)
    assert question.id == "7"
    assert read_questions(write([task({"text": passage, "question": "谁？"})]))[0].kind == "none"


def test_annotators_who_differ(write):
    row = task({"text": "好"}, choice("pos"))
    other = {**row["annotations"][0], "result": [choice("neg")]}
    with pytest.raises(UserError, match=r":1: 2 annotations that differ; mark one as ground truth"):
        read_rows(write([{**row, "annotations": [*row["annotations"], other]}]))
    for more in ({"ground_truth": True}, {"result": row["annotations"][0]["result"]}):
        chosen = [*row["annotations"], {**other, **more}]
        assert read_rows(write([{**row, "annotations": chosen}]))[0].label == ("neg" if "ground_truth" in more else "pos")
    skipped = [*row["annotations"], {**other, "was_cancelled": True}]
    assert read_rows(write([{**row, "annotations": skipped}]))[0].label == "pos"
    with pytest.raises(UserError, match="no label under key 'label'"):
        read_rows(write([{**row, "annotations": []}]))
    assert read_rows(write([{**row, "annotations": []}]), label_needed=False)[0].texts == ("好",)


def test_a_span_that_is_not_where_it_says():
    with pytest.raises(UnusableRow) as error:
        plain_row(task({"text": "小明"}, {"value": {"start": 0, "end": 1, "text": "明", "labels": ["PER"]}}))
    assert error.value.problem == "'明' is not at 0 to 1 of its text"


@pytest.mark.parametrize(
    "row", [{"data": [], "annotations": []}, {"data": {}, "other": 1}, {"text": "a", "label": {"b": 1}}]
)
def test_other_rows_are_left_alone(row):
    assert plain_row(row) is row


@pytest.mark.parametrize("key", ["label", "labels"])
def test_doccano(write, key):
    rows = [{"id": 1, "text": "很好", key: ["pos"]}, {"id": 2, "text": "很差", key: ["neg"]}]
    path = write(rows, "all.jsonl")
    assert [row.label for row in read_rows(path)] == ["pos", "neg"]
    path = write([{**rows[0], key: ["room", "food"]}, {**rows[1], key: []}], "all.jsonl")
    assert [row.label for row in read_rows(path, label_columns=["food", "room"])] == [["room", "food"], []]
    path = write([{"id": 1, "text": "小明在", key: [[0, 2, "PER"]]}], "all.jsonl")
    assert read_documents(path, ["PER"])[0].entities == [("PER", 0, 2)]
    path = write([{"id": 1, "text": "小明", key: []}, rows[0]], "all.jsonl")
    with pytest.raises(UserError, match=r":1: 0 labels where one is expected"):
        read_rows(path)


UER = "text_a\tlabel\n当 希 望\tO B-LOC I-LOC\n好\tO\n"
MSRA = "text_a\tlabel\n当\x02 \x02望\tO\x02B-LOC\x02I-LOC\n好\tO\n"


@pytest.mark.parametrize("content", [UER, MSRA], ids=["UER", "PaddleNLP"])
def test_entities_a_text_a_line_behind_a_header(tmp_path, content):
    path = tmp_path / "train.tsv"
    path.write_text(content, encoding="utf-8")
    documents = read_documents(path, None)
    assert [document.entities for document in documents] == [[("LOC", 1, 3)], []]
    assert len(documents[0].text) == 3
