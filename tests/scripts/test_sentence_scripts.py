"""The scripts for sentence vectors, used as a user would; sentence_transformers is the judge of what they save."""

import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

from bertorch.training.run import Run
from tests.closeness import assert_same_course
from tests.scripts.launch import DATA, as_flags, call, complaint, journal, run

NLI = {"train_data_file": DATA / "nli" / "train.tsv", "dev_data_file": DATA / "nli" / "dev.tsv"}
LABELS = {"label_file": DATA / "nli" / "labels.txt"}
GRADED = {"train_data_file": DATA / "graded" / "train.tsv", "dev_data_file": DATA / "graded" / "dev.tsv"}
SENTENCES = {"train_data_file": DATA / "sentences" / "train.txt", "dev_data_file": DATA / "graded" / "dev.tsv"}
PARAPHRASES = {"train_data_file": DATA / "paraphrases" / "train.tsv", "dev_data_file": DATA / "graded" / "dev.tsv"}
TRIPLES = {"train_data_file": DATA / "paraphrases" / "triples.jsonl", "dev_data_file": DATA / "graded" / "dev.tsv"}


def flags_of(encoder, saved_dir, **flags):
    values = {"pretrained_model_name_or_path": encoder, "saved_dir": saved_dir, "pooling_mode": "mean", "max_steps": 1}
    return as_flags(**{**values, "max_seq_length": 32, "device": "cpu", **flags})


def table(path):
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def write_table(path, rows):
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def their_vectors(directory, texts):
    model = SentenceTransformer(str(directory), device="cpu")
    return model.encode(list(texts), show_progress_bar=False).astype(np.float64)


def cosine(u, v):
    return (u * v).sum(axis=-1) / (np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1))


class Figures:
    """What a saved directory answers for pairs of texts, computed by sentence_transformers, scipy and scikit-learn."""

    def __init__(self, saved_dir, rows):
        texts = [text for row in rows for text in row[:2]]
        vectors = their_vectors(saved_dir, texts)
        self.u, self.v = vectors[::2], vectors[1::2]
        self.cosines = cosine(self.u, self.v)
        self.weights = load_file(saved_dir / "model.safetensors")

    def similarity(self, scores):
        scores = np.array(scores, dtype=float)
        found = {
            "spearman": spearmanr(self.cosines, scores).statistic,
            "pearson": pearsonr(self.cosines, scores).statistic,
        }
        if set(scores) == {0, 1}:
            claims = [self.cosines >= bound for bound in [*self.cosines, math.inf]]
            found["best_accuracy"] = max((claim == scores).mean() for claim in claims)
            found["best_f1"] = max(f1_score(scores, claim, zero_division=0) for claim in claims)
        return found

    def log_probabilities(self, concat_multiply):
        parts = [self.u, self.v, abs(self.u - self.v)] + [self.u * self.v] * concat_multiply
        weight, bias = (self.weights[f"classifier.{name}"].double().numpy() for name in ("weight", "bias"))
        return log_softmax(np.concatenate(parts, axis=1) @ weight.T + bias, axis=1)

    def classes(self, labels, answers, concat_multiply):
        scores = self.log_probabilities(concat_multiply)
        truth, predicted = np.array([labels.index(answer) for answer in answers]), scores.argmax(axis=1)
        found = {
            "loss": -scores[np.arange(len(truth)), truth].mean(),
            "accuracy": (predicted == truth).mean(),
            "macro_f1": f1_score(truth, predicted, labels=range(len(labels)), average="macro"),
            "weighted_f1": f1_score(truth, predicted, average="weighted"),
            "balanced_accuracy": balanced_accuracy_score(truth, predicted),
            "matthews": matthews_corrcoef(truth, predicted),
        }
        return {**found, "f1": f1_score(truth, predicted)} if len(labels) == 2 else found


CASES = {
    "softmax": ("run_sentencebert.py", {
        **NLI, **LABELS, "is_nli": True, "test_data_file": DATA / "nli" / "test.tsv",
    }),
    "softmax of 0 and 1": ("run_sentencebert.py", {
        "train_data_file": "binary-train.tsv", "dev_data_file": "binary-dev.tsv", "test_data_file": "binary-test.tsv",
        "concat_multiply": True, "output_emb_size": 24, "metric": "macro_f1",
    }),
    "cosent": ("run_sentencebert.py", {**GRADED, "objective": "cosent", "pooling_mode": "first_last"}),
    "cosine_mse": ("run_sentencebert.py", {
        **GRADED, "objective": "cosine_mse", "pooling_mode": "cls", "output_emb_size": 24, "metric": "pearson",
    }),
    "triplet": ("run_sentencebert.py", {**TRIPLES, "objective": "triplet", "pooling_mode": "max"}),
    "simcse": ("run_simcse.py", {
        **SENTENCES, "pooling_mode": None, "output_emb_size": 24, "dev_data_file": "binary-dev.tsv",
        "metric": "best_accuracy", "learning_rate": 1e-3,
    }),
    "batchneg": ("run_batchneg.py", {**PARAPHRASES, "output_emb_size": 24, "normalize": True, "mean_loss": True}),
}  # fmt: skip


class Trained:
    """A run with every stage: training, best model, test predictions."""

    def __init__(self, name, encoder, directory):
        self.name = name
        self.saved_dir = directory / "checkpoint"
        for part in ("train", "dev", "test"):  # 0: the second text begins in an own way, mostly
            rows = table(DATA / "graded" / f"{part}.tsv")
            pairs = [(a, b, 1) if place % 5 < 3 else (a, f"不不不{b}", 0) for place, (a, b, _) in enumerate(rows)]
            wrong = [(a, b, 1 - label) if place % 7 == 0 else (a, b, label) for place, (a, b, label) in enumerate(pairs)]
            write_table(directory / f"binary-{part}.tsv", wrong)
        self.script, flags = CASES[name]
        flags = {"test_data_file": DATA / "graded" / "test.tsv", "learning_rate": 2e-3, **flags}
        files = {key: directory / value for key, value in flags.items() if str(value).startswith("binary-")}
        self.flags = {**flags, **files}
        how = {"max_steps": 12, "eval_steps": 4, "save_steps": 6, "logging_steps": 1, "max_seq_length": 14}
        flags = flags_of(encoder, self.saved_dir, **how, **self.flags | {"save_best_model": True, "do_test": True})
        with pytest.MonkeyPatch.context() as patch:
            assert call(self.script, flags, patch) == 0
        self.labels = None
        if name.startswith("softmax"):
            self.labels = ["entailment", "neutral", "contradiction"] if name == "softmax" else ["0", "1"]

    def figures(self, rows):
        """What the run should have logged for ``rows`` of two texts and a label or score."""
        found, answers = Figures(self.saved_dir, rows), [row[2] for row in rows]
        if self.labels is None:
            return found.similarity(answers)
        figures = found.classes(self.labels, answers, self.flags.get("concat_multiply", False))
        return figures if self.name == "softmax" else {**figures, **found.similarity(answers)}


@pytest.fixture(scope="module", params=CASES)
def trained(request, small_encoder, tmp_path_factory):
    return Trained(request.param, small_encoder, tmp_path_factory.mktemp("trained"))


def figures_of(line):
    return {key: value for key, value in line.items() if key not in ("kind", "global_step")}


def agree(found, expected):
    """Thresholds are left out; a cosine that rounding carries over its neighbour moves a correlation by 1e-5."""
    found = {name: value for name, value in found.items() if not name.endswith("_threshold")}
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_development_figures_are_those_of_the_saved_model(trained):
    """The best model is the one saved, and what was logged for it is what others compute from the directory."""
    evaluations = journal(trained.saved_dir, "eval")
    assert [line["global_step"] for line in evaluations] == [4, 8, 12]
    metric = trained.flags.get("metric", "accuracy" if trained.labels else "spearman")
    best = max(evaluations, key=lambda line: line[metric])  # the first of equals
    description = json.loads((trained.saved_dir / "bertorch.json").read_text())
    assert description["global_step"] == best["global_step"]
    assert description["metrics"] == figures_of(best)
    agree(figures_of(best), trained.figures(table(trained.flags["dev_data_file"])))


def test_the_thresholds_do_what_is_said_of_them(trained):
    figures = json.loads((trained.saved_dir / "bertorch.json").read_text())["metrics"]
    graded = trained.name not in ("softmax of 0 and 1", "simcse")
    assert ("accuracy_threshold" in figures) == ("f1_threshold" in figures) == (not graded)
    if not graded:
        rows = table(trained.flags["dev_data_file"])
        cosines, truth = Figures(trained.saved_dir, rows).cosines, np.array([row[2] == "1" for row in rows])
        assert ((cosines >= figures["accuracy_threshold"]) == truth).mean() == pytest.approx(figures["best_accuracy"])
        assert f1_score(truth, cosines >= figures["f1_threshold"]) == pytest.approx(figures["best_f1"])


def test_the_test_set_is_predicted_with_the_saved_model(trained):
    rows = table(trained.flags["test_data_file"])
    answers = (trained.saved_dir / "test_predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert len(answers) == len(rows) == 120
    found = Figures(trained.saved_dir, rows)
    if trained.labels is None:
        np.testing.assert_allclose([float(answer) for answer in answers], found.cosines, rtol=0, atol=1e-5)
    else:
        best = found.log_probabilities(trained.flags.get("concat_multiply", False)).argmax(axis=1)
        assert answers == [trained.labels[index] for index in best]
        assert len(set(answers)) > 1
    (line,) = journal(trained.saved_dir, "test")
    agree(figures_of(line), trained.figures(rows))


def test_what_the_directory_says_of_itself(trained):
    description = json.loads((trained.saved_dir / "bertorch.json").read_text())
    flags = trained.flags
    assert description["task"] == "sentence_vectors"
    assert description["pooling_mode"] == (flags.get("pooling_mode", "mean") or "linear")
    assert description["max_seq_length"] == SentenceTransformer(str(trained.saved_dir), device="cpu").max_seq_length == 14
    if trained.script == "run_sentencebert.py":
        assert description["objective"] == flags.get("objective", "softmax")
    assert description.get("labels") == trained.labels
    names = {path.name for path in trained.saved_dir.iterdir()}
    assert {"metrics.jsonl", "test_predictions.tsv", "modules.json", "model.safetensors"} <= names
    assert not [path for path in trained.saved_dir.rglob("*") if path.name.endswith(".tmp")]
    assert [path.name for path in (trained.saved_dir / "training_state").iterdir()] == ["step-00000012"]


def test_the_label_file_decides_how_many_classes_there_are(small_encoder, tmp_path, monkeypatch, capsys):
    rows = [row for row in table(DATA / "nli" / "train.tsv") if row[2] != "neutral"]
    train, saved_dir = write_table(tmp_path / "train.tsv", rows), tmp_path / "out"
    flags = flags_of(small_encoder, saved_dir, **{**NLI, **LABELS, "train_data_file": train})
    assert call("run_sentencebert.py", flags, monkeypatch) == 0
    assert "train: no row with label neutral" in capsys.readouterr().err
    assert load_file(saved_dir / "model.safetensors")["classifier.weight"].shape == (3, 3 * 64)
    names = ["entailment", "neutral", "contradiction"]
    assert json.loads((saved_dir / "bertorch.json").read_text())["labels"] == names
    config = json.loads((saved_dir / "config.json").read_text())
    assert config["id2label"] == {"0": names[0], "1": names[1], "2": names[2]}


@pytest.mark.parametrize("script", ["run_sentencebert.py", "run_simcse.py", "run_batchneg.py"])
def test_a_test_set_without_scores(script, small_encoder, tmp_path, monkeypatch):
    """Answers and no figures."""
    rows = [row[:2] for row in table(DATA / "graded" / "test.tsv")[:9]]
    test = write_table(tmp_path / "test.tsv", rows)
    train = {"run_sentencebert.py": GRADED, "run_simcse.py": SENTENCES, "run_batchneg.py": PARAPHRASES}[script]
    flags = {**train, "dev_data_file": None, "test_data_file": test, "do_test": True}
    if script == "run_sentencebert.py":
        flags["objective"] = "cosent"
    assert call(script, flags_of(small_encoder, tmp_path / "out", **flags), monkeypatch) == 0
    answers = (tmp_path / "out" / "test_predictions.tsv").read_text().splitlines()
    expected = Figures(tmp_path / "out", rows).cosines
    np.testing.assert_allclose([float(answer) for answer in answers], expected, rtol=0, atol=1e-5)
    assert journal(tmp_path / "out", "test") == journal(tmp_path / "out", "eval") == []


# A batch that holds the whole training set.
TEXTS = ["房间很干净", "早餐太差了", "电影好看极了", "我想取消订单", "外面在下大雨", "他会弹钢琴"]
PARTNERS = ["屋里一尘不染", "早饭不好吃", "这部片子值得一看", "订单怎么撤销", "雨下得很大", "他学过钢琴"]
NEGATIVES = ["房间太小", "", "电影院在哪里", "怎么下订单", "外面有人", ""]
SCORES = [4, 0, 3, 3, 1, 2]
CLASSES = [1, 0, 1, 1, 0, 0]


def in_batch(u, v, candidates, scale, margin, same=()):
    """Rows ``same`` have a text in common."""
    total = 0.0
    for row, anchor in enumerate(u):
        logits = scale * cosine(anchor, candidates)
        logits[row] -= scale * margin
        kept = [place for place in range(len(logits)) if place == row or not {row, place} <= set(same)]
        total += np.log(np.exp(logits[kept]).sum()) - logits[row]
    return total / len(u)


def both_directions(u, v, n):
    return (in_batch(u, v, np.concatenate([v, n]), 20, 0.2) + in_batch(v, u, u, 20, 0.2)) / 2


def cosent(cosines, scale):
    places = range(len(SCORES))
    pairs = [(i, j) for i in places for j in places if SCORES[i] < SCORES[j]]
    return math.log(1 + sum(math.exp(scale * (cosines[i] - cosines[j])) for i, j in pairs))


def triplet(u, v, n, margin):
    owners = [row for row, text in enumerate(NEGATIVES) if text]
    near, far = (np.linalg.norm(u[owners] - other, axis=1) for other in (v[owners], n))
    return np.maximum(near - far + margin, 0).mean()


def cosine_mse(u, v, highest):
    return ((cosine(u, v) - np.array(SCORES) / highest) ** 2).mean()


def softmax(saved_dir, rows):
    return Figures(saved_dir, rows).classes(["0", "1"], [str(row[2]) for row in rows], concat_multiply=True)["loss"]


# script, third column, flags, the loss from the vectors of texts, partners and negatives.
LOSSES = {
    "simcse": ("run_simcse.py", None, {"dropout": 0, "scale": 7, "margin": 0.1}, lambda u, v, n: in_batch(u, u, u, 7, 0.1)),
    "batchneg": ("run_batchneg.py", NEGATIVES, {"scale": 9, "margin": 0.3}, lambda u, v, n: in_batch(u, v, v, 9, 0.3)),
    "batchneg, both directions, hard negatives": (
        "run_batchneg.py", NEGATIVES, {"mean_loss": True, "num_hard_negatives": 1}, both_directions,
    ),
    "batchneg with a text that stands there twice": (
        "run_batchneg.py", None, {"margin": 0}, lambda u, v, n: in_batch(u, v, v, 20, 0, same=(0, 1)),
    ),
    "batchneg with a text twice that is not looked for": (
        "run_batchneg.py", None, {"margin": 0, "no-mask_duplicates": True}, lambda u, v, n: in_batch(u, v, v, 20, 0),
    ),
    "cosent": (
        "run_sentencebert.py", SCORES, {"objective": "cosent", "scale": 5}, lambda u, v, n: cosent(cosine(u, v), 5),
    ),
    "cosine_mse": (
        "run_sentencebert.py", SCORES, {"objective": "cosine_mse"}, lambda u, v, n: cosine_mse(u, v, max(SCORES)),
    ),
    "cosine_mse of 0 to 10": (
        "run_sentencebert.py", SCORES, {"objective": "cosine_mse", "max_score": 10}, lambda u, v, n: cosine_mse(u, v, 10),
    ),
    "triplet": (
        "run_sentencebert.py", NEGATIVES, {"objective": "triplet", "triplet_margin": 0.5, "bad_rows": "skip"},
        lambda u, v, n: triplet(u, v, n, 0.5),
    ),
    "softmax": ("run_sentencebert.py", CLASSES, {"concat_multiply": True}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSES)
def test_the_loss_of_a_batch_and_that_it_falls(case, small_encoder, still_encoder, tmp_path, monkeypatch):
    """The logged loss is the formula, over the vectors that sentence_transformers computes; then training lowers it."""
    script, third, flags, formula = LOSSES[case]
    texts = [*TEXTS[:1] * 2, *TEXTS[2:]] if "twice" in case else TEXTS
    columns = [texts] if script == "run_simcse.py" else [texts, PARTNERS] if third is None else [texts, PARTNERS, third]
    rows = list(zip(*columns, strict=True))
    flags = {**flags, "train_data_file": write_table(tmp_path / "train.tsv", rows)}
    encoder = small_encoder if "dropout" in flags else still_encoder

    start = flags_of(encoder, tmp_path / "start", learning_rate=0, **flags)
    assert call(script, start, monkeypatch) == 0
    (line,) = journal(tmp_path / "start", "train")
    if formula is None:
        expected = softmax(tmp_path / "start", rows)
    else:
        expected = formula(
            *(their_vectors(tmp_path / "start", filter(None, column)) for column in (texts, PARTNERS, NEGATIVES))
        )
    assert line["loss"] == pytest.approx(expected, rel=1e-4)

    training = flags_of(encoder, tmp_path / "end", learning_rate=1e-3, max_steps=8, logging_steps=1, **flags)
    assert call(script, training, monkeypatch) == 0
    losses = [line["loss"] for line in journal(tmp_path / "end", "train")]
    assert losses[0] == pytest.approx(line["loss"], rel=1e-6)
    assert losses[-1] < 0.9 * losses[0]


def test_simcse_has_dropout_of_its_own(still_encoder, tmp_path, monkeypatch):
    """Two views of a sentence differ though the encoder's configuration has no dropout."""
    train = write_table(tmp_path / "train.txt", [[text] for text in TEXTS])
    flags = flags_of(still_encoder, tmp_path / "out", train_data_file=train, learning_rate=0)
    assert call("run_simcse.py", flags, monkeypatch) == 0
    u = their_vectors(tmp_path / "out", TEXTS)
    (line,) = journal(tmp_path / "out", "train")
    assert line["loss"] != pytest.approx(in_batch(u, u, u, 20, 0.2), rel=1e-4)  # which the test above finds with --dropout 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_dropout_prob"] == 0  # which stays as it was


MISTAKES = {
    "classes for scores": (
        "run_sentencebert.py", {**GRADED, **LABELS, "objective": "cosent"}, "--objective cosent has no classes",
    ),
    "nli for triplets": (
        "run_sentencebert.py", {**TRIPLES, **LABELS, "objective": "triplet", "is_nli": True}, "leave out --is_nli",
    ),
    "accuracy of scores": (
        "run_sentencebert.py", {**GRADED, "objective": "cosent", "metric": "accuracy"}, "--metric accuracy is for classes",
    ),
    "a threshold for graded scores": (
        "run_sentencebert.py", {**GRADED, "objective": "cosine_mse", "metric": "best_f1"},
        "dev.tsv: --metric best_f1 is for scores 0 and 1",
    ),
    "correlation of words": (
        "run_sentencebert.py", {**NLI, **LABELS, "metric": "spearman"}, "needs classes that are numbers, not 'entailment'",
    ),
    "f1 of three classes": ("run_sentencebert.py", {**NLI, **LABELS, "metric": "f1"}, "use macro_f1"),
    "a threshold for classes that are no 0 and 1": (
        "run_sentencebert.py", {"train_data_file": "grades.tsv", "dev_data_file": "grades.tsv", "label_file": "grades.txt",
                                "metric": "best_accuracy"}, "grades.tsv: --metric best_accuracy is for scores 0 and 1",
    ),
    "equal classes to correlate with": (
        "run_sentencebert.py", {"train_data_file": "ones.tsv", "dev_data_file": "ones.tsv", "metric": "pearson"},
        "ones.tsv: all scores are 1",
    ),
    "equal scores": (
        "run_sentencebert.py", {**GRADED, "dev_data_file": "ones.tsv", "objective": "cosent"}, "ones.tsv: all scores are 1",
    ),
    "triplets without negatives": (
        "run_sentencebert.py", {**PARAPHRASES, "objective": "triplet"}, "train.tsv: no hard negatives in it",
    ),
    "equal scores for SimCSE": ("run_simcse.py", {**SENTENCES, "dev_data_file": "ones.tsv"}, "ones.tsv: all scores are 1"),
    "a threshold for graded scores, SimCSE": (
        "run_simcse.py", {**SENTENCES, "metric": "best_accuracy"}, "--metric best_accuracy is for scores 0 and 1",
    ),
    "nothing but dropout": ("run_simcse.py", {**SENTENCES, "dropout": 1}, "--dropout: must be at least 0 and below 1"),
    "no score above 0": ("run_sentencebert.py", {**GRADED, "objective": "cosine_mse", "max_score": 0}, "give --max_score"),
    "labels where negatives are expected": ("run_batchneg.py", GRADED, "train.tsv:1: the third column holds labels"),
    "no hard negatives": (
        "run_batchneg.py", {**PARAPHRASES, "num_hard_negatives": 1}, "train.tsv: no hard negatives in it",
    ),
    "no row with the label": (
        "run_batchneg.py", {**GRADED, "positive_label": 7}, "no row has the label '7' of --positive_label",
    ),
    "labels of json lines": ("run_batchneg.py", {**TRIPLES, "positive_label": 1}, "--positive_label is for a third column"),
    "chunks of nothing": ("run_batchneg.py", {**PARAPHRASES, "chunk_size": 0}, "--chunk_size: must be at least 1"),
    "classes for batchneg": ("run_batchneg.py", {**PARAPHRASES, "metric": "accuracy"}, "--metric: invalid choice"),
}  # fmt: skip


@pytest.mark.parametrize(("script", "flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_costs_nothing(script, flags, message, small_encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "ones.tsv", [("房间", "屋子", 1), ("电影", "早餐", 1)])
    write_table(tmp_path / "grades.tsv", [("房间", "屋子", 2), ("电影", "早餐", 1), ("电影", "片子", 0)])
    write_table(tmp_path / "grades.txt", [(0,), (1,), (2,)])
    assert call(script, flags_of(small_encoder, tmp_path / "out", **flags), monkeypatch) == 2
    error = complaint(capsys.readouterr().err)
    assert error.startswith(f"{script}: ") and message in error
    assert not (tmp_path / "out").exists()


def tensors_of(directory):
    return {
        f"{path.parent.relative_to(directory)}/{name}": tensor
        for path in [directory / "model.safetensors", *directory.glob("[0-9]_*/model.safetensors")]
        for name, tensor in load_file(path).items()
    }


def equal(found, expected):
    assert found.keys() == expected.keys()
    return {name for name in expected if torch.equal(found[name], expected[name])}


@pytest.fixture(scope="module")
def with_dense(sentence_model):
    return sentence_model("dense", output_emb_size=24)


def test_a_warm_start_from_a_directory(with_dense, small_encoder, tmp_path, monkeypatch):
    """A step of length 0 later, every weight is the one that was loaded, the last layer's too."""
    flags = flags_of(
        small_encoder, tmp_path / "out", **SENTENCES, init_from_ckpt=with_dense, output_emb_size=24, learning_rate=0
    )
    assert call("run_simcse.py", flags, monkeypatch) == 0
    expected = tensors_of(with_dense)
    assert "2_Dense/linear.weight" in expected
    assert equal(tensors_of(tmp_path / "out"), expected) == expected.keys()


def test_a_warm_start_from_a_file(with_dense, small_encoder, tmp_path, monkeypatch):
    """A file of another name than those of a directory knows the encoder alone."""
    weights = shutil.copy(with_dense / "model.safetensors", tmp_path / "weights.safetensors")
    flags = flags_of(
        small_encoder, tmp_path / "out", **SENTENCES, init_from_ckpt=weights, output_emb_size=24, learning_rate=0
    )
    assert call("run_simcse.py", flags, monkeypatch) == 0
    same = equal(tensors_of(tmp_path / "out"), tensors_of(with_dense))
    assert {name for name in same if name.startswith("./")} == {f"./{name}" for name in load_file(weights)}
    assert "2_Dense/linear.weight" not in same


@pytest.fixture
def first_stage(small_encoder, tmp_path, monkeypatch):
    """``first_stage(**flags)``: a run of run_simcse.py into the default ``./checkpoint``; returns that and its tensors."""
    monkeypatch.chdir(tmp_path)

    def run(**flags):
        flags = flags_of(small_encoder, None, **SENTENCES, pooling_mode=None, learning_rate=1e-3, max_steps=2, **flags)
        assert call("run_simcse.py", flags, monkeypatch) == 0
        return tmp_path / "checkpoint", tensors_of(tmp_path / "checkpoint")

    return run


def second_stage(encoder, saved_dir=None, **flags):
    """The documented command, with steps of length 0: every weight is the one that was loaded."""
    given = {"pooling_mode": None, "init_from_ckpt": "./checkpoint/pytorch_model.bin", "mean_loss": True, "learning_rate": 0}
    return flags_of(encoder, saved_dir, **PARAPHRASES, **{**given, **flags})


@pytest.mark.parametrize("size", [None, 24])
def test_two_stages(size, first_stage, small_encoder, tmp_path, monkeypatch, capsys):
    """First SimCSE, then in-batch negatives, started from ``./checkpoint/pytorch_model.bin`` as the original names it."""
    checkpoint, expected = first_stage(output_emb_size=size)
    before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert call("run_batchneg.py", second_stage(small_encoder, output_emb_size=size), monkeypatch) == 2
    line = complaint(capsys.readouterr().err)
    assert "--saved_dir checkpoint already holds a run, and this one starts from its model" in line
    assert "another directory with --saved_dir" in line and "--overwrite" in line
    assert {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()} == before

    for flags in ({"saved_dir": "second"}, {"overwrite": True}):
        assert call("run_batchneg.py", second_stage(small_encoder, output_emb_size=size, **flags), monkeypatch) == 0
        error = capsys.readouterr().err
        assert error.count("checkpoint/pytorch_model.bin: not found; reading checkpoint/model.safetensors instead") == 1
        saved = tmp_path / flags.get("saved_dir", "checkpoint")
        assert equal(tensors_of(saved), expected) == expected.keys()
        assert {line["global_step"] for line in journal(saved, "train")} == {1}


def test_the_vectors_of_a_run_by_the_command_of_the_original(first_stage, small_encoder, tmp_path, monkeypatch, capsys):
    """All layers of the run make them: the weights file alone has not the last."""
    checkpoint, _ = first_stage(output_emb_size=24)
    pairs = write_table(tmp_path / "pairs.txt", [("房间很干净", "早餐差"), ("电影", "酒店很便宜")])
    flags = {"input_file": pairs, "output_file": tmp_path / "out.txt", "init_from_ckpt": "./checkpoint/pytorch_model.bin"}
    flags |= {"pretrained_model_name_or_path": small_encoder, "output_emb_size": 24}
    assert call("predict.py", as_flags(**flags), monkeypatch) == 0
    u, v = (their_vectors(checkpoint, [row[side] for row in table(pairs)]) for side in (0, 1))
    found = [float(line) for line in (tmp_path / "out.txt").read_text().split()]
    np.testing.assert_allclose(found, cosine(u, v), rtol=0, atol=1e-5)
    capsys.readouterr()
    assert call("predict.py", as_flags(**{**flags, "output_emb_size": 64}), monkeypatch) == 2
    assert "--output_emb_size 64: this model's vectors have width 24" in complaint(capsys.readouterr().err)


def test_a_second_stage_that_fails_can_be_started_again(first_stage, small_encoder, tmp_path, monkeypatch, capsys):
    """``--overwrite`` takes the model away when another is saved in its place, not before."""
    checkpoint, expected = first_stage(output_emb_size=24)
    step, flags = Run.step, second_stage(small_encoder, overwrite=True, output_emb_size=24)

    def fails(run):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Run, "step", fails)
    assert call("run_batchneg.py", flags, monkeypatch) == 1
    assert "RuntimeError: out of luck" in capsys.readouterr().err
    assert equal(tensors_of(checkpoint), expected) == expected.keys()

    monkeypatch.setattr(Run, "step", step)
    assert call("run_batchneg.py", flags, monkeypatch) == 0
    assert equal(tensors_of(checkpoint), expected) == expected.keys()

    # A model of fewer parts leaves none of the one that it began with.
    entities = DATA / "entities"
    flags = {"train_data_file": entities / "train.jsonl", "label_file": entities / "labels.txt", "pooling_mode": None}
    flags = flags_of(small_encoder, None, **flags, overwrite=True, init_from_ckpt="checkpoint", learning_rate=0)
    assert call("run_ner.py", flags, monkeypatch) == 0
    assert not list(checkpoint.glob("[0-9]_*")) and not (checkpoint / "modules.json").exists()
    word = "embeddings.word_embeddings.weight"
    assert torch.equal(load_file(checkpoint / "model.safetensors")[f"bert.{word}"], expected[f"./{word}"])


@pytest.mark.parametrize("source", [".", "model.safetensors"])
def test_a_warm_start_of_the_classifier(source, small_encoder, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    nli = {**NLI, **LABELS, "dev_data_file": None}
    flags = flags_of(small_encoder, first, **nli, learning_rate=1e-3, max_steps=2)
    assert call("run_sentencebert.py", flags, monkeypatch) == 0
    flags = flags_of(small_encoder, second, **nli, learning_rate=0, init_from_ckpt=first / source, seed=7)
    assert call("run_sentencebert.py", flags, monkeypatch) == 0
    expected = tensors_of(first)
    assert "./classifier.weight" in expected
    assert equal(tensors_of(second), expected) == expected.keys()


def test_a_checkpoint_without_a_pooler(small_encoder, sentence_model, tmp_path, monkeypatch, capsys):
    """Under the default pooling it is said that the pooler is random, and what does without."""
    plain = tmp_path / "plain"
    shutil.copytree(small_encoder, plain)
    shutil.copy(sentence_model() / "model.safetensors", plain)
    said = {}
    for mode in (None, "mean"):
        flags = flags_of(plain, tmp_path / str(mode), **SENTENCES, pooling_mode=mode)
        assert call("run_simcse.py", flags, monkeypatch) == 0
        said[mode] = [line for line in capsys.readouterr().err.splitlines() if "pooler" in line]
    (warning,) = said[None]
    assert " | WARNING " in warning and "this checkpoint has no pooler" in warning and "--pooling_mode mean" in warning
    assert said["mean"] == []

    # With a pooler in it there is nothing to say.
    shutil.copy(tmp_path / "None" / "model.safetensors", plain)
    assert call("run_simcse.py", flags_of(plain, tmp_path / "again", **SENTENCES, pooling_mode=None), monkeypatch) == 0
    assert "pooler" not in capsys.readouterr().err


def test_a_stopped_run_resumes_with_the_same_weights(small_encoder, tmp_path, monkeypatch, capsys):
    """Bit for bit, with dropout, and with chunks whose forward pass is computed twice."""
    how = {
        **PARAPHRASES, "batch_size": 16, "chunk_size": 6, "mean_loss": True, "max_steps": 7, "eval_steps": 2,
        "save_steps": 3, "logging_steps": 1, "learning_rate": 3e-3, "warmup_proportion": 0.2, "output_emb_size": 24,
    }  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call("run_batchneg.py", flags_of(small_encoder, whole, **how), monkeypatch) == 0

    step = Run.step

    def step_after_signal(run):
        if run.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", step_after_signal)
        assert call("run_batchneg.py", flags_of(small_encoder, parts, **how), monkeypatch) == 128 + signal.SIGTERM
    assert "the state is saved, --resume continues from there" in capsys.readouterr().err
    assert [line["global_step"] for line in journal(parts, "train")] == [1, 2, 3, 4, 5]
    assert call("run_batchneg.py", flags_of(small_encoder, parts, **how, resume=True), monkeypatch) == 0
    assert "global step 5\n" in capsys.readouterr().err

    expected = tensors_of(whole)
    assert equal(tensors_of(parts), expected) == expected.keys()
    assert journal(parts, "eval") == journal(whole, "eval")


def test_chunks_change_no_weight(still_encoder, tmp_path, monkeypatch):
    """Without dropout, that is; hard negatives make the chunks uneven."""
    how = {
        **TRIPLES, "dev_data_file": None, "batch_size": 16, "max_steps": 4, "learning_rate": 1e-3, "output_emb_size": 24,
        "num_hard_negatives": 2,
    }  # fmt: skip
    found = {}
    for size in (None, 4):
        flags = flags_of(still_encoder, tmp_path / str(size), **how, chunk_size=size)
        assert call("run_batchneg.py", flags, monkeypatch) == 0
        found[size] = tensors_of(tmp_path / str(size))
    assert_same_course(found[4], found[None], updates=4, rate=1e-3)


def test_two_processes(small_encoder, tmp_path, monkeypatch, capsys):
    """They log the figures that one process computes from what they saved."""
    saved_dir = tmp_path / "out"
    how = {**PARAPHRASES, "mean_loss": True, "max_steps": 4, "learning_rate": 3e-3, "batch_size": 8, "eval_batch_size": 16}
    done = run("run_batchneg.py", flags_of(small_encoder, saved_dir, **how), processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("global step: 4, ") == 1
    (line,) = journal(saved_dir, "eval")
    flags = as_flags(
        model_dir=saved_dir, input_file=PARAPHRASES["dev_data_file"], evaluate=True, batch_size=16, device="cpu"
    )
    capsys.readouterr()
    assert call("predict.py", flags, monkeypatch) == 0
    assert capsys.readouterr().out == f"spearman: {line['spearman']:.5f}, pearson: {line['pearson']:.5f}\n"
    agree(figures_of(line), Figures(saved_dir, rows := table(PARAPHRASES["dev_data_file"])).similarity([r[2] for r in rows]))


def test_triplets_with_and_without_negatives(still_encoder, tmp_path, monkeypatch, capfd):
    train = write_table(tmp_path / "train.tsv", [("房间", "屋子", "电影"), ("早餐", "早饭", "")])
    flags = flags_of(still_encoder, tmp_path / "out", train_data_file=train, objective="triplet")
    assert call("run_sentencebert.py", flags, monkeypatch) == 2
    assert f"{train}:2: no hard negative; add one or remove the row" in capfd.readouterr().err
    assert call("run_sentencebert.py", [*flags, "--bad_rows", "skip"], monkeypatch) == 0


def test_the_development_set_has_columns_of_its_own(still_encoder, tmp_path, monkeypatch):
    train = write_table(tmp_path / "train.tsv", [("房间", "屋子", 1), ("早餐", "电影", 0)])
    dev = write_table(tmp_path / "dev.tsv", [(0, "房间", "电影"), (1, "早餐", "早饭")])
    flags = flags_of(
        still_encoder, tmp_path / "out", train_data_file=train, dev_data_file=dev, dev_columns="label,text_a,text_b"
    )
    assert call("run_sentencebert.py", flags, monkeypatch) == 0
    assert len(journal(tmp_path / "out", "eval")) == 1


def test_a_signal_that_comes_while_the_model_is_evaluated(still_encoder, tmp_path, monkeypatch):
    """The step after it is still made, the state is saved, and --resume ends as if nothing had been."""
    values = {**PARAPHRASES, "max_steps": 5, "eval_steps": 2, "save_steps": 100}
    whole = flags_of(still_encoder, tmp_path / "whole", **values)
    stopped = flags_of(still_encoder, tmp_path / "stopped", **values)
    assert call("run_batchneg.py", whole, monkeypatch) == 0
    record = Run.record

    def interrupted(run, *evaluation):
        if run.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        record(run, *evaluation)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", interrupted)
        assert call("run_batchneg.py", stopped, monkeypatch) == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / "stopped" / "training_state").iterdir()] == ["step-00000003"]
    assert call("run_batchneg.py", [*stopped, "--resume"], monkeypatch) == 0
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
