"""Several labels a row, and scores: how they are read, lost and scored, against scikit-learn, torch and hand computation."""

import argparse
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, r2_score, root_mean_squared_error

from bertorch.data.rows import Row, read_rows
from bertorch.errors import UnusableRow, UserError
from bertorch.heads.loss import LabelsLoss, Loss, ScoreLoss
from bertorch.tasks.classification.scores import best_f1_thresholds, labels_metrics, score_metrics
from bertorch.tasks.classification.targets import OneLabel, Score, SeveralLabels
from bertorch.training.tricks import labels_loss, r_drop

LABELS = ["room", "food", "price"]


def read(tmp_path, name, text, **more):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    target = SeveralLabels(LABELS)
    return [target.read(row).tolist() for row in read_rows(path, **target.reading, check=target.read, **more)]


EXPECTED = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.tsv", "a\tprice|room\nb\t\nc\tfood\n", None),
        ("a.tsv", "title\ttags\na\tprice | room\nb\t\nc\tfood\n", "title,tags"),
        ("a.csv", "id,body,price,food,room\n7,a,1,0,1\n8,b,0,0,0\n9,c,0,1,0\n", "body"),
        ("a.csv", "body,price,food,room\na,1.0,0,1\nb,0,0,0\nc,0,1,0\n", "body,room,food,price"),
        ("a.jsonl", '{"text":"a","label":["price","room"]}\n{"text":"b","label":[]}\n{"text":"c","label":"food"}\n', None),
        ("a.jsonl", '{"t":"a","tags":["price","room"]}\n{"t":"b","tags":[]}\n{"t":"c","tags":["food"]}\n', "t,tags"),
        (
            "a.jsonl",
            '{"text":"a","room":1,"food":0,"price":true}\n{"text":"b","room":0,"food":0,"price":0}\n'
            '{"text":"c","room":0,"food":1,"price":0}\n',
            None,
        ),
    ],
)
def test_each_way_to_write_several_labels(name, text, columns, tmp_path):
    assert read(tmp_path, name, text, columns=columns) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "columns", "says"),
    [
        ("a.tsv", "a\troom|view\n", None, r"a\.tsv:1: label 'view' is not one of the labels; known are"),
        ("a.csv", "body,price,food,room\na,1,0,2\n", "body", r"a\.csv:2: '2' in the column of label 'room'; write 0 or 1"),
        ("a.csv", "body,price,food\na,1,0\n", "body", r"a\.csv:1: no column 'room' in the first row"),
        ("a.csv", "body,price,food,room\na,1,0,0\n", "body,price", "the column of label 'room' is not named"),
        ("a.jsonl", '{"text":"a","label":[1]}\n', None, "the labels are not strings"),
        ("a.jsonl", '{"text":"a"}\n', None, "no label under key 'label'"),
    ],
)
def test_labels_that_cannot_be_read(name, text, columns, says, tmp_path):
    with pytest.raises(UserError, match=says):
        read(tmp_path, name, text, columns=columns)


def test_one_label_is_not_read_from_a_list_of_two(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text":"a","label":["room","food"]}\n', encoding="utf-8")
    with pytest.raises(UserError, match="2 labels where one is expected; --target labels takes any number"):
        read_rows(path, **OneLabel(LABELS).reading)


@pytest.mark.parametrize(("label", "score"), [("3", 3.0), ("-0.5", -0.5), ("1e2", 100.0)])
def test_a_score_is_read(label, score):
    assert Score(["score"]).read(Row(1, ("a",), label)) == score
    assert math.isnan(Score(["score"]).read(Row(1, ("a",), None)))


@pytest.mark.parametrize("label", ["", "good", "nan", "inf", "-inf", "3,5"])
def test_what_is_not_a_score(label):
    with pytest.raises(UnusableRow):
        Score(["score"]).read(Row(1, ("a",), label))


def draw(rows=200, labels=4, seed=0):
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, labels)) < [0.5, 0.2, 0.05, 0.3]).astype(np.int8)
    logits = (2 * truth - 1 + 1.5 * generator.standard_normal((rows, labels))).astype(np.float32)
    return logits, truth


def test_figures_of_several_labels_are_those_of_scikit_learn():
    logits, truth = draw()
    thresholds = np.array([0.5, 0.3, 0.7, 0.4])
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    given = (probabilities >= thresholds).astype(int)
    found = labels_metrics(logits, truth, thresholds)
    for average in ("micro", "macro"):
        assert found[f"{average}_f1"] == pytest.approx(f1_score(truth, given, average=average, zero_division=0.0))
    assert found["samples_f1"] == pytest.approx(f1_score(truth, given, average="samples", zero_division=1.0))
    assert found["subset_accuracy"] == pytest.approx(accuracy_score(truth, given))
    each = [log_loss(truth[:, place], probabilities[:, place]) for place in range(4)]
    assert found["loss"] == pytest.approx(np.mean(each), rel=1e-6)
    assert (truth.sum(axis=1) == 0).any()


def test_a_row_without_labels_that_gets_none_is_right():
    metrics = labels_metrics(np.array([[-3.0, -3.0], [-3.0, 3.0]]), np.array([[0, 0], [1, 0]]), np.full(2, 0.5))
    assert (metrics["samples_f1"], metrics["subset_accuracy"], metrics["micro_f1"]) == (0.5, 0.5, 0.0)


def test_the_best_thresholds_are_those_of_every_possible_one():
    logits, truth = draw(rows=60)
    probabilities = np.round(1 / (1 + np.exp(-logits.astype(np.float64))), 1)  # many are equal
    found = best_f1_thresholds(probabilities, truth)
    for column, has, threshold in zip(probabilities.T, truth.T, found, strict=True):
        possible = [0.0, 1.1, *np.unique(column)]
        best = max(f1_score(has, column >= one, zero_division=0.0) for one in possible)
        assert f1_score(has, column >= threshold, zero_division=0.0) == pytest.approx(best)


def test_thresholds_by_hand():
    probabilities = np.array([[0.9, 0.2, 0.3], [0.6, 0.3, 0.4], [0.1, 0.9, 0.8]])
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    # between 0.6 and 0.9; between 0.2 and 0.3; no row has the third
    assert best_f1_thresholds(probabilities, truth) == pytest.approx([0.75, 0.25, 0.5])


def test_figures_of_scores():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 6, 50).astype(np.float64)
    scores = (truth + generator.standard_normal(50)).astype(np.float32)
    found = score_metrics(scores, truth)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(truth, scores), rel=1e-6)
    assert found["loss"] == pytest.approx(found["rmse"] ** 2)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, scores), rel=1e-6)
    assert found["r2"] == pytest.approx(r2_score(truth, scores), rel=1e-6)
    assert found["pearson"] == pytest.approx(np.corrcoef(scores, truth)[0, 1], rel=1e-6)
    ranks = [np.argsort(np.argsort(values)) for values in (scores, truth + np.arange(50) * 1e-9)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.02)  # ties aside
    assert score_metrics(np.ones(3, dtype=np.float32), np.array([1.0, 2.0, 3.0]))["spearman"] == 0.0
    assert score_metrics(np.array([1.0, 2.0]), np.array([2.0, 2.0]))["r2"] == 0.0


def flags(**values) -> argparse.Namespace:
    return argparse.Namespace(
        **{"label_smoothing": 0.0, "focal_gamma": 0.0, "class_weights": None, "r_drop_weight": 0.0, "metric": "", **values}
    )


def test_the_loss_of_several_labels():
    logits, truth = (torch.from_numpy(array) for array in draw(rows=8))
    expected = F.binary_cross_entropy_with_logits(logits, truth.float())
    assert LabelsLoss()(logits, truth.long()).item() / truth.numel() == pytest.approx(expected.item(), rel=1e-6)
    # focal loss, Lin et al. 2017, eq. 4, of each label
    right = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid()).double()
    expected = (-((1 - right) ** 2) * right.log()).sum()
    assert LabelsLoss(focal_gamma=2.0)(logits, truth.long()).item() == pytest.approx(expected.item(), rel=1e-4)


def test_positive_weights():
    counts, rows = [2, 5, 0], 10
    assert labels_loss(flags(), counts, rows).positive_weights is None
    balanced = labels_loss(flags(class_weights=["balanced"]), counts, rows).positive_weights
    assert balanced.tolist() == pytest.approx([4.0, 1.0, 9.0])
    loss = labels_loss(flags(class_weights=["2", "1", "3"]), counts, rows)
    logits, targets = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[1, 1, 0]])
    assert loss(logits, targets).item() == pytest.approx((2 + 1 + 1) * math.log(2))
    with pytest.raises(UserError, match="a number above 0 for each of the 3 classes"):
        labels_loss(flags(class_weights=["1", "2"]), counts, rows)


def test_r_drop_of_sigmoids_is_the_symmetric_divergence_of_bernoullis():
    first, second = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets, how = torch.tensor([[0, 1, 0, 1]] * 3), LabelsLoss()

    def passed(logits):
        return Loss(how(logits, targets), targets.numel(), None, how.distributions(logits))

    p, q = (torch.distributions.Bernoulli(logits=logits) for logits in (first, second))
    apart = (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)).mean()
    expected = (how(first, targets) + how(second, targets)) / 24 + 3.0 / 4 * apart
    assert r_drop(passed(first), passed(second), 3.0).mean.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_scores():
    scores, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 0.0])
    assert ScoreLoss()(scores, targets).item() == 10.0


@pytest.mark.parametrize(
    ("target", "given", "says"),
    [
        (SeveralLabels(LABELS), {"metric": "accuracy"}, "--metric accuracy: --target labels has micro_f1, macro_f1"),
        (SeveralLabels(LABELS), {"metric": "micro_f1", "label_smoothing": 0.1}, "--label_smoothing"),
        (SeveralLabels(["a|b"]), {"metric": "micro_f1"}, "label 'a|b'"),
        (Score(["score"]), {"metric": "macro_f1"}, "--target score has spearman"),
        (Score(["score"]), {"metric": "r2", "class_weights": ["balanced"]}, "--class_weights is for labels"),
        (Score(["score"]), {"metric": "r2", "r_drop_weight": 1.0}, "--r_drop_weight is for labels"),
        (OneLabel(LABELS), {"metric": "subset_accuracy"}, "--target label has accuracy"),
        (OneLabel(LABELS), {"metric": "f1"}, "--metric f1 is for two labels"),
    ],
)
def test_flags_that_do_not_fit(target, given, says):
    with pytest.raises(UserError) as error:
        target.check(flags(**given))
    assert says in str(error.value)
