"""Loss, accuracy and F1 against cases worked out by hand and against their definitions."""

import math
import random

import numpy as np
import pytest

from bertorch.tasks.classification.scores import METRICS, classification_metrics, per_class_table


def logits_for(predictions: list[int], classes: int) -> np.ndarray:
    return 4.0 * np.eye(classes, dtype=np.float32)[predictions]


def test_two_classes_by_hand():
    # true positives 2, false positives 1, false negatives 1, true negatives 1
    metrics = classification_metrics(logits_for([1, 1, 1, 0, 0], 2), np.array([1, 1, 0, 1, 0]))
    assert set(metrics) == {"loss", *METRICS}
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 * 1 / (2 * 1 + 1 + 1)) / 2)


def test_three_classes_by_hand():
    # class 0: tp 1, fp 1, fn 1; class 1: tp 2, fp 0, fn 1; class 2: tp 1, fp 1, fn 0
    metrics = classification_metrics(logits_for([0, 0, 1, 1, 2, 2], 3), np.array([0, 1, 1, 1, 2, 0]))
    assert set(metrics) == {"loss", *METRICS} - {"f1"}
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)


def test_matthews_and_the_other_means_by_hand():
    # true positives 2, false positives 1, false negatives 1, true negatives 1
    metrics = classification_metrics(logits_for([1, 1, 1, 0, 0], 2), np.array([1, 1, 0, 1, 0]))
    assert metrics["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["weighted_f1"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)
    # three labels, of which the third has no row: it has no part in the balanced accuracy
    metrics = classification_metrics(logits_for([0, 2, 1, 1], 3), np.array([0, 0, 1, 1]))
    assert metrics["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    always = classification_metrics(logits_for([1, 1, 1], 2), np.array([1, 0, 1]))
    assert always["matthews"] == 0.0


def test_the_loss_is_the_mean_cross_entropy():
    logits = np.array([[0.0, math.log(3.0)], [math.log(4.0), 0.0]], dtype=np.float32)  # probabilities 3/4 and 1/5
    metrics = classification_metrics(logits, np.array([1, 1]))
    assert metrics["loss"] == pytest.approx(-(math.log(3 / 4) + math.log(1 / 5)) / 2, rel=1e-6)
    huge = np.array([[1e4, 0.0], [0.0, -1e4]], dtype=np.float32)
    assert classification_metrics(huge, np.array([1, 0]))["loss"] == pytest.approx(5e3)


def test_classes_that_never_occur_count_as_zero():
    metrics = classification_metrics(logits_for([0, 0], 4), np.array([0, 0]))
    assert metrics["macro_f1"] == pytest.approx(1 / 4)
    metrics = classification_metrics(logits_for([0, 0, 0], 2), np.array([0, 0, 0]))
    assert (metrics["accuracy"], metrics["f1"], metrics["macro_f1"]) == (1.0, 0.0, 0.5)
    metrics = classification_metrics(logits_for([1, 1], 2), np.array([1, 1]))
    assert (metrics["f1"], metrics["macro_f1"]) == (1.0, 0.5)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_random_predictions_against_the_definitions(classes):
    draw = random.Random(classes)
    for rows in (1, 2, 5, 60):
        logits = np.array([[draw.gauss(0, 2) for _ in range(classes)] for _ in range(rows)], dtype=np.float32)
        labels = np.array([draw.randrange(classes) for _ in range(rows)])
        found = classification_metrics(logits, labels)
        predictions = [max(range(classes), key=lambda place, row=row: row[place]) for row in logits.tolist()]
        pairs = list(zip(predictions, labels.tolist(), strict=True))
        scores = []
        for label in range(classes):
            hits = sum(prediction == truth == label for prediction, truth in pairs)
            claimed = sum(prediction == label for prediction, _ in pairs)
            present = sum(truth == label for _, truth in pairs)
            precision, recall = hits / claimed if claimed else 0.0, hits / present if present else 0.0
            scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
        losses = [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(logits.tolist(), labels, strict=True)]
        assert found["loss"] == pytest.approx(sum(losses) / rows)
        assert found["accuracy"] == pytest.approx(sum(prediction == truth for prediction, truth in pairs) / rows)
        assert found["macro_f1"] == pytest.approx(sum(scores) / classes)
        assert found.get("f1") == (pytest.approx(scores[1]) if classes == 2 else None)


def test_the_table_names_every_class_and_its_confusions():
    table = per_class_table(np.array([0, 0, 1, 0]), np.array([0, 1, 1, 0]), ["negative", "正面", "mixed"])
    lines = table.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    start = next(place for place, line in enumerate(lines) if line.startswith("confusion matrix"))
    assert lines[start + 1].split() == ["negative", "正面", "mixed"]
    assert [line.split() for line in lines[start + 2 :]] == [
        ["negative", "2", "0", "0"], ["正面", "1", "1", "0"], ["mixed", "0", "0", "0"],
    ]  # fmt: skip
    before = {line.split()[0]: line.split()[1:] for line in lines[:start] if line.split()}
    assert [float(value) for value in before["negative"]] == pytest.approx([2 / 3, 1.0, 0.8, 2], abs=1e-4)
    assert [float(value) for value in before["正面"]] == pytest.approx([1.0, 1 / 2, 2 / 3, 2], abs=1e-4)
    assert [float(value) for value in before["mixed"]] == [0.0, 0.0, 0.0, 0.0]
    assert rows.keys() >= {"negative", "正面", "mixed"}
