"""predict.py and blank rows: labels, explanations and masks. Vectors, cosines and hits, entities and answers to questions
stand with their tasks."""

import json
import re

import pytest

from tests.scripts.launch import as_flags, call, complaint

HEAD = "ForSequenceClassification"
ROWS = "房间干净\n\n早餐差\n \t \n"


@pytest.fixture
def predict(monkeypatch, capsys, tmp_path):
    """``predict(rows, **flags)`` -> the lines of standard output, and what was logged, of a call that went well."""

    def answer(rows, name="rows.tsv", **flags):
        (tmp_path / name).write_text(rows, encoding="utf-8")
        capsys.readouterr()
        code = call("predict.py", as_flags(device="cpu", input_file=tmp_path / name, **flags), monkeypatch)
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out.split("\n")[:-1], found.err

    return answer


def test_labels(predict, tiny_model):
    """The same rows as without the blank ones; those have empty cells, and a null in json lines."""
    model = {"model_dir": tiny_model("bert", HEAD, num_labels=3), "probabilities": True}
    first, second = predict("房间干净\n早餐差\n", **model)[0]
    assert re.fullmatch(r"LABEL_\d(\t0\.\d{6}){3}", first)
    found, said = predict(ROWS, **model)
    assert found == [first, "\t\t\t", second, "\t\t\t"]
    assert "rows.tsv: 2 blank rows (the first in line 2) keep their places, with empty answers" in said
    lines = [json.loads(line) for line in predict(ROWS, **model, output_format="jsonl")[0]]
    assert lines[1] == lines[3] == {"label": None}
    assert [line["label"] for line in lines[::2]] == [first.split("\t")[0], second.split("\t")[0]]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("rows.csv", '房间干净\n\n早餐差\n""\n'),
        ("rows.jsonl", '{"text": "房间干净"}\n\n{"text": "早餐差"}\n{"text": " "}\n'),
    ],
)
def test_labels_of_other_formats(predict, tiny_model, name, rows):
    expected, _ = predict(ROWS, model_dir=tiny_model("bert", HEAD, num_labels=3))
    assert expected[1] == expected[3] == "" and expected[0] and expected[2]
    assert predict(rows, name, model_dir=tiny_model("bert", HEAD, num_labels=3))[0] == expected


def test_a_pair_with_a_blank_side(predict, tiny_model):
    found, _ = predict("好\t差\n\t差\n好\t \n的\t一\n", model_dir=tiny_model("bert", HEAD, num_labels=3), is_text_pair=True)
    assert [bool(line) for line in found] == [True, False, False, True]


def test_figures_are_the_same_whether_answers_are_written_or_not(predict, tiny_model, tmp_path, monkeypatch, capsys):
    flags = {"model_dir": tiny_model("bert", HEAD, num_labels=3), "evaluate": True}
    rows, out = "房间干净\tLABEL_0\n\n早餐差\tLABEL_1\n", tmp_path / "out.txt"
    printed, _ = predict(rows, **flags)
    assert predict(rows, **flags, output_file=out)[0] == printed
    assert [bool(line) for line in out.read_text(encoding="utf-8").split("\n")] == [True, False, True, False]
    bad = tmp_path / "rows.tsv"
    bad.write_text(rows + "\tLABEL_1\n", encoding="utf-8")
    for more in ({}, {"output_file": out}):  # as in training
        assert call("predict.py", as_flags(device="cpu", input_file=bad, **flags, **more), monkeypatch) == 2
        assert "rows.tsv:4: an empty text" in capsys.readouterr().err


def test_explanations(predict, tiny_model, tmp_path):
    model = {"model_dir": tiny_model("bert", HEAD, num_labels=3), "explain": True, "explain_steps": 2}
    lines = [json.loads(line) for line in predict(ROWS, **model, output_format="jsonl")[0]]
    assert lines[1] == lines[3] == {"label": None} and all(line["label"] for line in lines[::2])
    found, _ = predict(ROWS, **model)
    assert found[1] == found[3] == "\t\t\t" and found[0].startswith("LABEL_")
    page = tmp_path / "page.html"
    predict(ROWS, **model, output_file=page)
    assert re.findall(r"line (\d+): no text", page.read_text(encoding="utf-8")) == ["2", "4"]


def test_masks(predict, tiny_model):
    model = {"model_dir": tiny_model("bert", "ForMaskedLM"), "top_k": 1}
    rows = "房间[MASK]净\n\n早餐\n  \n"
    found, _ = predict(rows, **model)
    assert found[1:] == ["", "早餐", ""] and re.fullmatch(r"房间.+净\t\S+:0\.\d{4}", found[0])
    lines = [json.loads(line) for line in predict(rows, **model, output_format="jsonl")[0]]
    assert [len(line["masks"]) for line in lines] == [1, 0, 0, 0]


@pytest.mark.parametrize("head", [HEAD, "ForMaskedLM"])
def test_nothing_but_blank_lines(tiny_model, head, tmp_path, monkeypatch, capsys):
    path = tmp_path / "blank.tsv"
    path.write_text("\n \n", encoding="utf-8")
    capsys.readouterr()
    assert (
        call(
            "predict.py",
            as_flags(model_dir=tiny_model("bert", head, **({"num_labels": 3} if head == HEAD else {})), input_file=path),
            monkeypatch,
        )
        == 2
    )
    assert "blank.tsv: no rows in it; every row is blank" in complaint(capsys.readouterr().err)
