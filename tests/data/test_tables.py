"""Parquet, arrow, xlsx and directories of save_to_disk: their rows, their classes, and what they cannot hold."""

import json
import sys
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from bertorch.data.files import BadRows, find_format, read_cells, read_lines
from bertorch.data.rows import read_rows
from bertorch.errors import UserError
from bertorch.tasks.entities.rows import read_documents
from bertorch.tasks.reading.rows import read_questions
from bertorch.tasks.sentences.rows import read_positives, read_scored_pairs

TEXTS, LABELS = ["房间很干净", "早餐很差\u2028真的", "一般"], [1, 0, 1]
CLASS = {"names": ["neg", "pos"], "_type": "ClassLabel"}
ROWS = [("房间很干净", "pos"), ("早餐很差\u2028真的", "neg"), ("一般", "pos")]


def with_features(columns: dict, features: dict) -> pyarrow.Table:
    """A table that carries its features as the datasets library writes them."""
    info = json.dumps({"info": {"features": features}})
    return pyarrow.table(columns).replace_schema_metadata({"huggingface": info})


def write_stream(table: pyarrow.Table, path: Path, rows: int = 2) -> None:
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def save_to_disk(table: pyarrow.Table, directory: Path, parts: int = 1, old: bool = False) -> Path:
    """What ``Dataset.save_to_disk`` leaves: from datasets 2 on numbered parts, before that one dataset.arrow."""
    directory.mkdir(parents=True)
    names = ["dataset.arrow"] if old else [f"data-{part:05d}-of-{parts:05d}.arrow" for part in range(parts)]
    share = -(-len(table) // len(names))
    for place, name in enumerate(names):
        write_stream(table.slice(place * share, share), directory / name)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "a", "_split": "train"}
    (directory / "state.json").write_text(json.dumps({**state, **({"_indices_data_files": []} if old else {})}))
    (directory / "dataset_info.json").write_text(json.dumps({"features": {}, "description": ""}))
    return directory


REVIEWS = with_features({"text": TEXTS, "label": LABELS}, {"text": {"dtype": "string", "_type": "Value"}, "label": CLASS})


@pytest.mark.parametrize("kind", ["a.parquet", "stream.arrow", "file.arrow", "a.feather", "directory", "parts", "old"])
def test_reviews_with_names_of_classes(tmp_path, kind):
    path = tmp_path / kind
    if kind == "a.parquet":
        pyarrow.parquet.write_table(REVIEWS, path, row_group_size=2)
    elif kind == "stream.arrow":
        write_stream(REVIEWS, path)
    elif kind == "file.arrow":
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, REVIEWS.schema) as writer:
            writer.write_table(REVIEWS, max_chunksize=2)
    elif kind == "a.feather":
        pyarrow.feather.write_feather(REVIEWS, str(path))
    else:
        save_to_disk(REVIEWS, path, parts=2 if kind == "parts" else 1, old=kind == "old")
    rows = read_rows(path)
    assert [(*row.texts, row.label) for row in rows] == ROWS
    assert [row.line for row in rows] == [1, 2, 3]


def test_features_that_only_the_directory_names(tmp_path):
    directory = save_to_disk(REVIEWS.replace_schema_metadata(None), tmp_path / "a")
    assert [row.label for row in read_rows(directory)] == ["1", "0", "1"]
    (directory / "dataset_info.json").write_text(json.dumps({"features": {"label": CLASS}}))
    assert [row.label for row in read_rows(directory)] == ["pos", "neg", "pos"]


def test_a_data_set_of_several_splits_names_them(tmp_path):
    save_to_disk(REVIEWS, tmp_path / "set" / "train")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(UserError, match="several splits; name one: .*set/train, .*set/validation"):
        read_rows(tmp_path / "set")
    assert len(read_rows(tmp_path / "set" / "train")) == 3


def test_other_directories_and_files_that_lie_elsewhere(tmp_path):
    with pytest.raises(UserError, match="a directory, but not of Dataset.save_to_disk"):
        read_rows(tmp_path)
    directory = save_to_disk(REVIEWS, tmp_path / "a")
    (directory / "state.json").write_text('{"_data_files": [{"filename": "../secret.arrow"}]}')
    with pytest.raises(UserError, match="'../secret.arrow', which does not belong to the directory"):
        read_rows(directory)
    (directory / "state.json").write_text('{"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}')
    with pytest.raises(UserError, match="flatten_indices"):
        read_rows(directory)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.xlsx"])
def test_files_that_are_not_what_their_ending_says(tmp_path, name):
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK\x03\x04 nothing of it" * 10)
    with pytest.raises(UserError, match=rf"{name}:1: not readable as {name[2:]}"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("a.xlsx", "openpyxl")])
def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)
    with pytest.raises(UserError, match=f"pip install {package}$"):
        read_rows(tmp_path / name)


def test_rows_that_cannot_be_used_are_numbered(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"sentence": ["a", None, "c"], "label": ["x", "y", None]}), path)
    with pytest.raises(UserError, match=r"a\.parquet:2: an empty text.*\n.*a\.parquet:3: no label under key 'label'"):
        read_rows(path)
    kept = read_rows(path, label_needed=False, keep_all=True)
    assert [row.texts for row in kept] == [("a",), (), ("c",)]


def test_a_test_set_without_labels(tmp_path):
    """GLUE's test sets have -1 where the label is kept secret."""
    path = tmp_path / "a.parquet"
    table = with_features({"sentence1": ["a"], "sentence2": ["b"], "label": [-1]}, {"label": CLASS})
    pyarrow.parquet.write_table(table, path)
    assert read_rows(path, True, label_needed=False)[0].label is None
    with pytest.raises(UserError, match="no label under key 'label'"):
        read_rows(path, True)


def test_several_labels(tmp_path):
    path = tmp_path / "a.parquet"
    features = {"labels": {"feature": CLASS, "_type": "Sequence"}}
    pyarrow.parquet.write_table(with_features({"text": ["a", "b"], "labels": [[0, 1], []]}, features), path)
    assert [row.label for row in read_rows(path, label_columns=["pos", "neg"])] == [["neg", "pos"], []]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "pos": [1, 0], "neg": [False, True]}), path)
    rows = read_rows(path, columns="text", label_columns=["pos", "neg"])
    assert [row.label for row in rows] == [["pos"], ["neg"]]


@pytest.mark.parametrize("feature", ["Sequence", "List", "list"])
def test_entities_of_tokens_and_class_numbers(tmp_path, feature):
    names = {"names": ["O", "B-PER", "I-PER"], "_type": "ClassLabel"}
    features = {"ner_tags": [names] if feature == "list" else {"feature": names, "_type": feature}}
    table = with_features({"tokens": [["小", "明", "好"], ["好"]], "ner_tags": [[1, 2, 0], [0]]}, features)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    documents = read_documents(tmp_path / "a.parquet", None)
    assert [(document.text, document.entities) for document in documents] == [("小明好", [("PER", 0, 2)]), ("好", [])]
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet:1: '1' is not a tag"):
        read_documents(tmp_path / "b.parquet", None)


@pytest.mark.parametrize("layout", ["struct of lists", "list of structs"])
def test_questions(tmp_path, layout):
    answers = [{"text": ["北京", "京"], "answer_start": [2, 3]}, {"text": [], "answer_start": []}]
    if layout == "list of structs":
        answers = [[{"text": "北京", "answer_start": 2}, {"text": "京", "answer_start": 3}], []]
    columns = {"id": ["1", "2"], "context": ["我在北京"] * 2, "question": ["在哪？", "何时？"], "answers": answers}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    first, second = read_questions(tmp_path / "a.parquet")
    assert (first.id, first.answers, first.start, first.end, first.line) == ("1", ["北京", "京"], 2, 4, 1)
    assert (second.kind, second.answers, second.line) == ("none", [""], 2)


def test_pairs_and_triplets(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"sentence1": ["a"], "sentence2": ["b"], "score": [0.5]}), path)
    assert read_scored_pairs(path) == [(1, ("a", "b"), 0.5)]
    pyarrow.parquet.write_table(pyarrow.table({"anchor": ["a"], "positive": ["b"], "negative": ["c"]}), path)
    assert read_positives(path, 1)[0].texts == ("a", "b", "c")
    pyarrow.parquet.write_table(pyarrow.table({"query": ["a"], "pos": [["b", "c"]], "neg": [["d"]]}), path)
    assert [row.texts for row in read_positives(path)] == [("a", "b"), ("a", "c")]


def test_lines_of_documents(tmp_path):
    """A row of several lines is a document; rows of one line stand together."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2, 3, 4], "text": ["a\r\nb", "c", "d", None]}), path)
    assert list(read_lines(path)) == [(1, "a"), (1, "b"), (1, ""), (2, "c"), (3, "d"), (4, "")]
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "name": ["a"]}), path)
    with pytest.raises(UserError, match="no column text or sentence or content, but id, name"):
        list(read_lines(path))


def sheet(path: Path, rows: list[list], others: int = 0) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for _ in range(others):
        book.create_sheet()
    book.save(path)
    return path


def test_a_sheet_is_read_like_csv(tmp_path, messages):
    path = sheet(tmp_path / "a.xlsx", [["评论", "标签", "id"], ["很,好\n吃", 1, None], [None], ["差", 0.0, 2.5]], others=2)
    assert find_format(path) == "xlsx"
    rows = read_rows(path, columns="评论,标签")
    assert [(row.line, *row.texts, row.label) for row in rows] == [(2, "很,好\n吃", "1"), (4, "差", "0")]
    assert any("sheet 'Sheet' is read, the other 2 are not" in message for message in messages)
    with pytest.raises(UserError, match=r"a\.xlsx:1: this looks like a header row \(评论, 标签, id\)"):
        read_rows(path)
    kept = list(read_cells(path, BadRows(path), keep_all=True))
    assert [line for line, _ in kept] == [1, 2, 3, 4] and kept[2][1] is None


def test_a_sheet_of_questions_and_one_of_tags(tmp_path):
    path = sheet(tmp_path / "a.xlsx", [["Question", "Context", "Answer"], ["在哪？", "我在北京", "北京"], ["?", "无", None]])
    first, second = read_questions(path)
    assert (first.answers, first.start, first.id) == (["北京"], 2, "1")
    assert second.answers == [""]
    path = sheet(tmp_path / "b.xlsx", [["小", "B-PER"], ["明", "I-PER"], [None, None], ["好", "O"]])
    assert [document.entities for document in read_documents(path, None)] == [[("PER", 0, 2)], []]
