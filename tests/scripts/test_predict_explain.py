"""predict.py --explain, as a user calls it."""

import json

import pytest

from tests.scripts.launch import DATA, as_flags, call, complaint

TEXTS = ["房间很干净，但是早餐１２差！", " x😀 好", "", "的" * 70]
HEAD = "ForSequenceClassification"


@pytest.fixture
def predict(monkeypatch, capsys):
    """``predict(code, **flags)`` -> standard output; or, of a call that goes wrong, the one line that says why."""

    def run(code=0, **flags):
        capsys.readouterr()
        assert call("predict.py", as_flags(device="cpu", **flags), monkeypatch) == code
        found = capsys.readouterr()
        if code == 0:
            return found.out
        assert found.out == ""
        return complaint(found.err)

    return run


def write(path, rows):
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def spans_are_their_text(answer):
    for one in answer["texts"]:
        assert all(one["text"][start:end] == surface for start, end, surface, _ in one["attributions"])


def test_every_row_has_its_label_and_its_spans(predict, tiny_model, tmp_path):
    how = {"model_dir": tiny_model("roberta", HEAD, num_labels=3), "input_file": write(tmp_path / "texts.tsv", TEXTS)}
    labels = predict(**how, probabilities=True).splitlines()
    cells = [line.split("\t") for line in predict(**how, probabilities=True, explain=True).splitlines()]
    assert ["\t".join([row[0], *row[2:5]]) for row in cells] == labels
    assert [row[5] for row in cells] == [TEXTS[0], TEXTS[1].strip(), "", TEXTS[3]]
    assert len(cells[0][6].split()) == 10 and cells[2][6] == ""
    out = tmp_path / "out.jsonl"
    assert predict(**how, explain=True, output_file=out, max_seq_length=60) == ""
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert answers.pop(2) == {"label": None}  # a blank line
    assert [one["label"] for one in answers] == [row[0] for row in cells if row[0]]
    for one in answers:
        spans_are_their_text(one)
        total = sum(value for *_, value in one["texts"][0]["attributions"])
        assert total == pytest.approx(one["logit"] - one["baseline_logit"], rel=0.01, abs=1e-3) and one["gap"] < 0.01
    assert "".join(span[2] for span in answers[0]["texts"][0]["attributions"]) == TEXTS[0]
    assert [one["texts"][0]["left_out"] for one in answers] == [None, None, [58, 70]]
    page = tmp_path / "out.html"
    assert predict(**how, explain=True, output_file=page) == ""
    assert page.read_text(encoding="utf-8").count("<section>") == 4


def test_pairs_and_bad_rows(predict, tiny_model, tmp_path):
    how = {"model_dir": tiny_model("bert", HEAD, num_labels=3), "is_text_pair": True, "bad_rows": "skip"}
    path = write(tmp_path / "pairs.tsv", ["好 房间\t差<b>早餐", "one", "的\t一"])
    first, lost, _ = (json.loads(line) for line in predict(
        **how, input_file=path, explain=True, output_format="jsonl", explain_steps=4
    ).splitlines())  # fmt: skip
    assert [one["text"] for one in first["texts"]] == ["好 房间", "差<b>早餐"] and lost == {"label": None}
    spans_are_their_text(first)
    assert [len(one["attributions"]) for one in first["texts"]] == [3, 6]
    assert [len(line.split("\t")) for line in predict(**how, input_file=path, explain=True).splitlines()] == [6, 6, 6]


@pytest.fixture(scope="module")
def sentence_classes(small_encoder, tmp_path_factory):
    saved_dir = tmp_path_factory.mktemp("classes") / "checkpoint"
    flags = as_flags(
        pretrained_model_name_or_path=small_encoder, train_data_file=DATA / "nli" / "train.tsv", saved_dir=saved_dir,
        label_file=DATA / "nli" / "labels.txt", pooling_mode="mean", max_steps=2, learning_rate=3e-3, max_seq_length=16,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert call("run_sentencebert.py", flags, patch) == 0
    return saved_dir


def test_classes_of_sentence_vectors(predict, sentence_classes, tmp_path):
    path = write(tmp_path / "pairs.tsv", ["一个人在走路。\t有人在走路", "狗\t" + "猫" * 40])
    how = {"model_dir": sentence_classes, "input_file": path}
    labels = predict(**how).splitlines()
    out = tmp_path / "out.jsonl"
    predict(**how, explain=True, output_file=out, explain_steps=64)
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [one["label"] for one in answers] == labels
    for one in answers:
        spans_are_their_text(one)
    assert [one["left_out"] for one in answers[1]["texts"]] == [None, [14, 40]]


def test_what_has_no_label_to_explain_is_refused_in_one_line(predict, tiny_model, sentence_classes, tmp_path):
    path = write(tmp_path / "texts.tsv", ["好"])
    how = {"input_file": path, "explain": True}
    score = tiny_model("bert", HEAD, num_labels=1)
    assert "is a model for --target score" in predict(2, **how, model_dir=score)
    tagger = tiny_model("bert", "ForTokenClassification")
    assert "is a model for entities" in predict(2, **how, model_dir=tagger)
    assert "is a model for reading" in predict(2, **how, model_dir=tiny_model("bert", "ForQuestionAnswering"))
    vectors = {"model_dir": tiny_model("bert"), "pooling_mode": "mean"}
    assert "not classes of pairs" in predict(2, **how, **vectors)
    pairs = write(tmp_path / "pairs.tsv", ["好\t差"])
    assert "the answers here are cosines" in predict(2, input_file=pairs, explain=True, **vectors)
    assert "not classes of pairs" in predict(2, **how, model_dir=sentence_classes, corpus=path)
    assert "leave out --precision bf16" in predict(2, **how, model_dir=score, precision="bf16")
    assert "add --output_file" in predict(2, **how, model_dir=score, evaluate=True)


def test_evaluated_and_explained(predict, tiny_model, tmp_path):
    labels = write(tmp_path / "labels.txt", ["no", "yes"])
    path, out = write(tmp_path / "rows.tsv", ["好\tyes", "差\tno"]), tmp_path / "out.html"
    how = {"model_dir": tiny_model("bert", HEAD, num_labels=2), "label_file": labels, "input_file": path}
    assert "accuracy" in predict(**how, evaluate=True, explain=True, explain_steps=2, output_file=out)
    assert out.read_text(encoding="utf-8").count("<section>") == 2
