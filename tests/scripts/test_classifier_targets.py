"""run_classifier.py --target labels and score, through the scripts; transformers is the judge, both ways."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bertorch import load_predictor
from tests.scripts.launch import DATA, REVIEWS, as_flags, call, complaint, journal, training_flags

NAMES = ["negative", "positive", "long"]


@pytest.fixture(scope="module")
def labels_data(tmp_path_factory):
    """Reviews that are negative or positive, long, or nothing of it."""
    directory = tmp_path_factory.mktemp("labels")
    for name in ("train", "dev", "test"):
        lines = (REVIEWS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[:120]
        rows = []
        for text, label in (line.split("\t") for line in lines):
            labels = [label] * (len(text) > 12) + ["long"] * (len(text) > 20)
            rows.append(f"{text}\t{'|'.join(labels)}\n")
        (directory / f"{name}.tsv").write_text("".join(rows), encoding="utf-8")
    (directory / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    return directory


def trained(encoder, saved_dir, data, **more):
    flags = {
        "train_data_file": data / "train.tsv", "dev_data_file": data / "dev.tsv", "test_data_file": data / "test.tsv",
        "do_test": True, "learning_rate": 3e-3, "max_steps": 30, "save_steps": 10, "save_best_model": True, **more,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert call("run_classifier.py", training_flags(encoder, saved_dir, **flags), patch) == 0
    return saved_dir


@pytest.fixture(scope="module")
def labels_model(small_encoder, labels_data, tmp_path_factory):
    more = {"target": "labels", "label_file": labels_data / "labels.txt", "class_weights": "balanced", "r_drop_weight": 1.0}
    return trained(small_encoder, tmp_path_factory.mktemp("run") / "checkpoint", labels_data, **more)


@pytest.fixture(scope="module")
def score_model(small_encoder, tmp_path_factory):
    more = {"target": "score", "label_file": None, "is_text_pair": True}
    return trained(small_encoder, tmp_path_factory.mktemp("run") / "checkpoint", DATA / "graded", **more)


def logits_of_transformers(directory, *texts):
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokens = AutoTokenizer.from_pretrained(directory)(*texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        return model, model(**tokens).logits


def columns(path, count=None):
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [list(column) for column in zip(*rows, strict=True)]


def test_several_labels_are_saved_as_transformers_has_them(labels_model, labels_data):
    texts = columns(labels_data / "test.tsv")[0]
    model, logits = logits_of_transformers(labels_model, texts)
    assert model.config.problem_type == "multi_label_classification"
    assert list(model.config.id2label.values()) == NAMES
    expected = logits.sigmoid()
    answers = load_predictor(labels_model, device="cpu")(texts)
    found = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    thresholds = json.loads((labels_model / "bertorch.json").read_text())["thresholds"]
    given = [[name for name, p, t in zip(NAMES, row, thresholds, strict=True) if p >= t] for row in expected.tolist()]
    assert [answer["labels"] for answer in answers] == given
    predictions = (labels_model / "test_predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert predictions == ["|".join(row) for row in given]
    assert len({len(row) for row in given}) > 1  # rows differ in how many labels they have


def test_the_kept_thresholds_are_those_of_the_best_evaluation(labels_model, labels_data, monkeypatch, capsys):
    """predict.py with the saved thresholds gives the figures of the evaluation that found them."""
    best = max(journal(labels_model, "eval"), key=lambda line: line["micro_f1"])
    capsys.readouterr()
    values = {"model_dir": labels_model, "input_file": labels_data / "dev.tsv", "evaluate": True, "device": "cpu"}
    assert call("predict.py", as_flags(**values), monkeypatch) == 0
    first, *table = capsys.readouterr().out.splitlines()
    figures = dict(part.split(": ") for part in first.split(", "))
    for name in ("micro_f1", "macro_f1", "samples_f1", "subset_accuracy"):
        assert float(figures[name]) == pytest.approx(best[name], abs=1e-5)
    assert [line.split()[0] for line in table[1:]] == NAMES


def test_answers_of_several_labels(labels_model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "texts.jsonl"
    rows = [{"text": "房间很干净"}, {"text": " "}, {"text": "早餐差", "label": ["other"]}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    values = {
        "model_dir": labels_model,
        "input_file": path,
        "probabilities": True,
        "output_format": "jsonl",
        "device": "cpu",
    }
    capsys.readouterr()
    assert call("predict.py", as_flags(**values), monkeypatch) == 0
    first, blank, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert blank == {"labels": None}
    for answer in (first, last):
        assert list(answer["probabilities"]) == NAMES and isinstance(answer["labels"], list)
    assert load_predictor(labels_model, device="cpu")([" "]) == [{"labels": None}]
    assert call("predict.py", as_flags(**{**values, "explain": True}), monkeypatch) == 2


def test_a_score_is_saved_as_transformers_has_it(score_model, monkeypatch, capsys):
    first, second, labels = columns(DATA / "graded" / "test.tsv")
    model, logits = logits_of_transformers(score_model, first, second)
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    answers = load_predictor(score_model, device="cpu")(list(zip(first, second, strict=True)))
    found = torch.tensor([answer["score"] for answer in answers])
    torch.testing.assert_close(found, logits[:, 0], rtol=0, atol=1e-4)
    predictions = (score_model / "test_predictions.tsv").read_text().split()
    assert list(map(float, predictions)) == pytest.approx(found.tolist(), abs=1e-5)
    test = journal(score_model, "test")[-1]
    error = logits[:, 0].double().numpy() - np.array(labels, dtype=float)
    assert test["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
    capsys.readouterr()
    values = {"model_dir": score_model, "input_file": DATA / "graded" / "test.tsv", "evaluate": True, "device": "cpu"}
    assert call("predict.py", as_flags(**values), monkeypatch) == 0
    figures = dict(part.split(": ") for part in capsys.readouterr().out.strip().split(", "))
    assert float(figures["rmse"]) == pytest.approx(test["rmse"], abs=1e-5)
    assert call("predict.py", as_flags(**{**values, "probabilities": True}), monkeypatch) == 2


def test_the_report_shows_them(labels_model, score_model):
    for directory, words in ((labels_model, ("threshold", "Furthest off")), (score_model, ("By score", "Furthest off"))):
        report = (directory / "report.html").read_text(encoding="utf-8")
        assert all(word in report for word in words) and "Left out" not in report


@pytest.mark.parametrize("kind", ["labels", "score", "score without a problem_type"])
def test_checkpoints_of_transformers_answer(kind, tiny_model, monkeypatch, tmp_path, capsys):
    config = {
        "labels": {"num_labels": 3, "problem_type": "multi_label_classification", "initializer_range": 0.9},
        "score": {"num_labels": 1, "problem_type": "regression"},
    }.get(kind, {"num_labels": 1})
    directory = tiny_model("bert", "ForSequenceClassification", **config)
    texts = ["房间干净", "早餐差", "价格贵"]
    model, logits = logits_of_transformers(directory, texts)
    answers = load_predictor(directory, device="cpu")(texts)
    path = tmp_path / "texts.tsv"
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    capsys.readouterr()
    assert call("predict.py", as_flags(model_dir=directory, input_file=path, device="cpu"), monkeypatch) == 0
    lines = capsys.readouterr().out.split("\n")[:-1]
    if kind == "labels":
        expected = [
            [model.config.id2label[place] for place in np.flatnonzero(row > 0.5)] for row in logits.sigmoid().numpy()
        ]
        assert [answer["labels"] for answer in answers] == expected
        assert lines == ["|".join(row) for row in expected]
    else:
        assert [answer["score"] for answer in answers] == pytest.approx(logits[:, 0].tolist(), abs=1e-5)
        assert list(map(float, lines)) == pytest.approx(logits[:, 0].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"target": "score", "focal_gamma": 2.0}, "--focal_gamma is for labels"),
        ({"target": "score", "metric": "accuracy"}, "--metric accuracy: --target score has spearman, pearson, r2"),
        ({"target": "score", "label_file": None}, "score 'negative' is not a number"),
    ],
)
def test_mistakes_are_one_line(flags, says, small_encoder, tmp_path, monkeypatch, capsys):
    assert call("run_classifier.py", training_flags(small_encoder, tmp_path / "out", **flags), monkeypatch) == 2
    assert says in capsys.readouterr().err


def test_thresholds_for_other_labels_are_refused(labels_model, tmp_path, monkeypatch, capsys):
    directory = tmp_path / "copy"
    directory.mkdir()
    for path in labels_model.iterdir():
        if path.is_file():
            (directory / path.name).write_bytes(path.read_bytes())
    for thresholds in ([0.5], [0.5, 0.5, 2.0], "0.5"):
        description = json.loads((labels_model / "bertorch.json").read_text())
        (directory / "bertorch.json").write_text(json.dumps({**description, "thresholds": thresholds}))
        capsys.readouterr()
        assert call("predict.py", as_flags(model_dir=directory, input_file=REVIEWS / "dev.tsv"), monkeypatch) == 2
        assert "thresholds" in complaint(capsys.readouterr().err)


def test_several_development_files(small_encoder, labels_data, tmp_path, monkeypatch):
    """The first decides, and finds the thresholds; of the others their figures are logged under their names."""
    second = tmp_path / "other.tsv"
    second.write_bytes((labels_data / "test.tsv").read_bytes())
    more = {
        "target": "labels",
        "label_file": labels_data / "labels.txt",
        "max_steps": 4,
        "save_steps": 4,
        "save_best_model": True,
    }
    flags = {
        "train_data_file": labels_data / "train.tsv",
        "test_data_file": labels_data / "test.tsv",
        "do_test": True,
        **more,
    }
    given = [*training_flags(small_encoder, tmp_path / "out", dev_data_file=None, **flags), "--dev_data_file"]
    files = [str(labels_data / "dev.tsv"), str(second)]
    assert call("run_classifier.py", [*given, *files], monkeypatch) == 0
    evaluation, test = (journal(tmp_path / "out", kind)[-1] for kind in ("eval", "test"))
    for figure in ("loss", "micro_f1", "subset_accuracy"):
        assert evaluation[f"other_{figure}"] == pytest.approx(test[figure])
    assert evaluation["micro_f1"] != evaluation["other_micro_f1"]
    assert "other" in json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert call("run_classifier.py", [*given, files[0], files[0], "--overwrite"], monkeypatch) == 2
