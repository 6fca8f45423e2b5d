"""Correlations, thresholds and ranks by hand, by their definitions, and as sentence-transformers finds them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

from bertorch.errors import UserError
from bertorch.tasks.sentences.scores import (
    METRICS,
    best_thresholds,
    check_scores,
    label_scores,
    retrieval_metrics,
    similarity_metrics,
)


def test_correlations_by_hand():
    """Ties share the mean of their ranks: 1, 2.5, 2.5, 4 and 1, 2, 3.5, 3.5, both 2.5 on average."""
    metrics = similarity_metrics(np.array([0.1, 0.4, 0.4, 0.9]), np.array([1.0, 2.0, 3.0, 3.0]))
    # Deviations of the ranks: -1.5 0 0 1.5 and -1.5 -0.5 1 1.
    assert metrics["spearman"] == pytest.approx((2.25 + 1.5) / math.sqrt((2.25 + 2.25) * (2.25 + 0.25 + 1 + 1)))
    # Deviations of the values: -0.35 -0.05 -0.05 0.45 and -1.25 -0.25 0.75 0.75.
    covariance = 0.4375 + 0.0125 - 0.0375 + 0.3375
    variances = (0.1225 + 0.0025 + 0.0025 + 0.2025) * (1.5625 + 0.0625 + 0.5625 + 0.5625)
    assert metrics["pearson"] == pytest.approx(covariance / math.sqrt(variances))
    assert set(metrics) == {"spearman", "pearson"}


def test_a_perfect_order_that_is_no_line():
    metrics = similarity_metrics(np.array([-0.5, 0.9, 0.0, 0.1], dtype=np.float32), np.array([0, 5, 1, 2]))
    assert metrics["spearman"] == pytest.approx(1.0)
    assert 0.8 < metrics["pearson"] < 0.99
    assert similarity_metrics(np.array([0.3, 0.2, 0.1]), np.array([1, 2, 3]))["spearman"] == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("similarities", "scores"),
    [([0.5, 0.5, 0.5], [1, 2, 3]), ([0.1, 0.2, 0.3], [2, 2, 2]), ([0.4], [1])],
    ids=["similarities", "scores", "one pair"],
)
@pytest.mark.filterwarnings("error")
def test_a_constant_correlates_with_nothing(similarities, scores):
    assert similarity_metrics(np.array(similarities), np.array(scores)) == {"spearman": 0.0, "pearson": 0.0}


@pytest.mark.filterwarnings("error")
def test_constant_similarities_of_classes():
    """Two of five are positive: all negative is right in three, all positive has precision 2/5 and recall 1."""
    metrics = similarity_metrics(np.full(5, 0.25), np.array([1, 0, 0, 1, 0]))
    assert (metrics["spearman"], metrics["pearson"]) == (0.0, 0.0)
    assert metrics["best_accuracy"] == pytest.approx(3 / 5) and metrics["accuracy_threshold"] > 0.25
    assert metrics["best_f1"] == pytest.approx(4 / 7) and metrics["f1_threshold"] == 0.25


@pytest.mark.parametrize(
    ("scores", "binary"),
    [([0, 1, 1], True), ([0.0, 1.0, 0.0], True), ([0, 1, 2], False), ([0, 0.5, 1], False), ([1, 1, 1], False)],
)
def test_thresholds_are_for_scores_of_0_and_1(scores, binary):
    metrics = similarity_metrics(np.array([0.1, 0.6, 0.3]), np.array(scores))
    thresholds = {"accuracy_threshold", "f1_threshold"} if binary else set()
    assert set(metrics) == {*METRICS, *thresholds} if binary else set(metrics) == {"spearman", "pearson"}


def test_thresholds_by_hand():
    """In order 0.9 +, 0.8 -, 0.6 +, 0.6 +, 0.3 -, 0.2 -: from 0.45 on five of six are right, precision 3/4, recall 1."""
    similarities = np.array([0.6, 0.2, 0.9, 0.8, 0.6, 0.3])
    found = best_thresholds(similarities, np.array([True, False, True, False, True, False]))
    assert found["best_accuracy"] == pytest.approx(5 / 6) and found["accuracy_threshold"] == pytest.approx(0.45)
    assert found["best_f1"] == pytest.approx(2 * 3 / (4 + 3)) and found["f1_threshold"] == pytest.approx(0.45)


def accuracy(similarities: np.ndarray, positive: np.ndarray, threshold: float) -> float:
    claimed = [one >= threshold for one in similarities.tolist()]
    return sum(mine == bool(truth) for mine, truth in zip(claimed, positive, strict=True)) / len(positive)


def f1(similarities: np.ndarray, positive: np.ndarray, threshold: float) -> float:
    claimed = [one >= threshold for one in similarities.tolist()]
    hits = sum(mine and bool(truth) for mine, truth in zip(claimed, positive, strict=True))
    return 2 * hits / (sum(claimed) + int(sum(positive))) if hits else 0.0


# Few values, so that many are equal; with one positive at least, as ``similarity_metrics`` sees to.
_PAIRS = st.lists(st.tuples(st.integers(-6, 6).map(lambda x: x / 8), st.booleans()), min_size=1, max_size=14)


@settings(max_examples=200, deadline=None)
@given(_PAIRS.filter(lambda pairs: any(positive for _, positive in pairs)), st.sampled_from([np.float32, np.float64]))
def test_no_threshold_is_better(pairs, dtype):
    similarities, positive = np.array([one for one, _ in pairs], dtype=dtype), np.array([truth for _, truth in pairs])
    found = best_thresholds(similarities, positive)
    everywhere = np.arange(-13, 14) / 16  # every similarity, between any two, above all and below all
    for name, score in (("accuracy", accuracy), ("f1", f1)):
        scores = [score(similarities, positive, threshold) for threshold in everywhere]
        assert found[f"best_{name}"] == pytest.approx(max(scores))
        # And the threshold that is reported has that score.
        assert score(similarities, positive, found[f"{name}_threshold"]) == pytest.approx(max(scores))


@settings(max_examples=100, deadline=None)
@given(_PAIRS.filter(lambda pairs: any(positive for _, positive in pairs)))
def test_thresholds_of_sentence_transformers(pairs):
    """Of several that are as accurate both take the highest; F1 they round otherwise, which may decide between two."""
    similarities, labels = np.array([one for one, _ in pairs]), np.array([int(truth) for _, truth in pairs])
    found = best_thresholds(similarities, labels == 1)
    expected = BinaryClassificationEvaluator.find_best_acc_and_threshold(similarities, labels, True)
    assert (found["best_accuracy"], found["accuracy_threshold"]) == pytest.approx(expected)
    best, *_, threshold = BinaryClassificationEvaluator.find_best_f1_and_threshold(similarities, labels, True)
    assert found["best_f1"] == pytest.approx(best)
    assert f1(similarities, labels, found["f1_threshold"]) == pytest.approx(f1(similarities, labels, threshold))


def test_retrieval_by_hand():
    metrics = retrieval_metrics(np.array([1, 2, 5, 6, 10, 11, 50, 51]))
    assert metrics.pop("mrr") == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6 + 1 / 10 + 1 / 11 + 1 / 50 + 1 / 51) / 8)
    assert metrics == {"recall@1": 1 / 8, "recall@5": 3 / 8, "recall@10": 5 / 8, "recall@50": 7 / 8}


def test_labels_as_scores():
    found = label_scores(["0", "2", "-1.5"])
    assert found.dtype == np.float64 and found.tolist() == [0.0, 2.0, -1.5]
    assert label_scores(["0", "neutral"]) is None
    assert label_scores(["contradiction", "entailment"]) is None


@pytest.mark.parametrize("metric", METRICS)
def test_scores_that_tell_nothing_apart(metric):
    with pytest.raises(UserError, match=r"^dev\.tsv: all scores are 2\.5"):
        check_scores(np.full(4, 2.5), metric, "dev.tsv")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("scores", "binary"), [([0, 1, 1], True), ([0, 1, 2], False), ([1, 2], False), ([0.0, 0.5], False)])
def test_metrics_that_need_scores_of_0_and_1(metric, scores, binary):
    if metric in ("spearman", "pearson") or binary:
        check_scores(np.array(scores), metric, "dev.tsv")
        assert metric in similarity_metrics(np.arange(len(scores)), np.array(scores))
    else:
        with pytest.raises(UserError, match=rf"^dev\.tsv: --metric {metric} is for scores 0 and 1"):
            check_scores(np.array(scores), metric, "dev.tsv")


def test_a_threshold_between_neighbouring_numbers():
    """Their middle rounds to the lower one, which would call both pairs positive."""
    high = 1 - 2.0**-53
    low = float(np.nextafter(high, 0))
    found = best_thresholds(np.array([low, high]), np.array([False, True]))
    assert (found["best_accuracy"], found["best_f1"]) == (1.0, 1.0)
    assert low < found["accuracy_threshold"] <= high and low < found["f1_threshold"] <= high
