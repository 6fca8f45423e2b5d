"""Accuracy, F1 and correlations, as scikit-learn and scipy compute them."""

from collections.abc import Sequence

import numpy as np

METRICS = ("accuracy", "f1", "macro_f1", "weighted_f1", "balanced_accuracy", "matthews")
LABELS_METRICS = ("micro_f1", "macro_f1", "samples_f1", "subset_accuracy")
SCORE_METRICS = ("spearman", "pearson", "r2")


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss and scores of a classifier.

    Args:
        logits: ``[rows, num_labels]``.
        labels: label ids ``[rows]``.

    Returns:
        ``loss`` (mean cross-entropy), ``accuracy``, ``macro_f1`` over all labels; with two labels also ``f1``, that of the
        second label, as text matching reports it; ``weighted_f1``, weighted by the rows of each label;
        ``balanced_accuracy``, the mean recall of the labels that have rows; and ``matthews``, the correlation that CoLA
        uses.
    """
    from scipy.special import log_softmax  # both imports take a second, so only if an evaluation runs
    from sklearn.metrics import f1_score, matthews_corrcoef, recall_score

    scores = logits.astype(np.float64)
    log_probabilities = log_softmax(scores, axis=1)
    predictions = scores.argmax(axis=1)
    known = np.arange(logits.shape[1])
    metrics = {
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "accuracy": float((predictions == labels).mean()),
    }
    if len(known) == 2:
        metrics["f1"] = float(f1_score(labels, predictions, zero_division=0.0))
    metrics["macro_f1"] = float(f1_score(labels, predictions, labels=known, average="macro", zero_division=0.0))
    metrics["weighted_f1"] = float(f1_score(labels, predictions, average="weighted", zero_division=0.0))
    metrics["balanced_accuracy"] = float(recall_score(labels, predictions, labels=np.unique(labels), average="macro"))
    one = len(np.union1d(labels, predictions)) == 1  # scikit-learn gives 0 too, and warns
    metrics["matthews"] = 0.0 if one else float(matthews_corrcoef(labels, predictions))
    return metrics


def per_class_table(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """Precision, recall, F1 and rows of each label, and the confusion matrix, as text."""
    from sklearn.metrics import classification_report, confusion_matrix

    known = list(range(len(names)))
    report = classification_report(labels, predictions, labels=known, target_names=list(names), digits=4, zero_division=0.0)
    matrix = confusion_matrix(labels, predictions, labels=known)
    width = max(6, *(len(name) for name in names), len(str(matrix.max())))
    lines = ["confusion matrix (a line a true label, a column a prediction)"]
    lines.append(" " * width + "".join(f" {name:>{width}}" for name in names))
    lines += [
        f"{name:>{width}}" + "".join(f" {count:>{width}}" for count in row) for name, row in zip(names, matrix, strict=True)
    ]
    return report + "\n" + "\n".join(lines)


def labels_metrics(logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    """Loss and scores where a row may have several labels.

    Args:
        logits: ``[rows, num_labels]``.
        labels: 0 and 1, ``[rows, num_labels]``.
        thresholds: for the probabilities, ``[num_labels]``.

    Returns:
        ``loss``, the mean binary cross-entropy; F1 of all labels together (``micro_f1``), its mean over labels
        (``macro_f1``) and over rows (``samples_f1``, 1 where a row has no label and gets none); and ``subset_accuracy``, the
        share of rows whose labels are all correct.
    """
    from scipy.special import expit, log_expit

    scores = logits.astype(np.float64)
    given, wanted = expit(scores) >= thresholds, labels > 0
    right = given & wanted

    def f1(axis: int | None, undefined: float) -> np.ndarray:
        both = given.sum(axis=axis) + wanted.sum(axis=axis)
        return np.where(both > 0, 2 * right.sum(axis=axis) / np.maximum(both, 1), undefined)

    return {
        "loss": float(-np.where(wanted, log_expit(scores), log_expit(-scores)).mean()),
        "micro_f1": float(f1(None, 0.0)),
        "macro_f1": float(f1(0, 0.0).mean()),
        "samples_f1": float(f1(1, 1.0).mean()),
        "subset_accuracy": float((given == wanted).all(axis=1).mean()),
    }


def best_f1_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each label, the threshold with the highest F1: float64 ``[num_labels]``.

    Thresholds lie midway between two neighbouring probabilities; of equally good ones, the one nearest 0.5 is taken. A
    label that no row has keeps 0.5.

    Args:
        probabilities: ``[rows, num_labels]``.
        labels: 0 and 1, ``[rows, num_labels]``.
    """
    thresholds = np.full(probabilities.shape[1], 0.5)
    for place, (column, has) in enumerate(zip(probabilities.T, labels.T, strict=True)):
        if not has.any():
            continue
        order = np.argsort(-column, kind="stable")
        ranked = column[order]
        ends = np.flatnonzero(np.append(ranked[:-1] != ranked[1:], True))  # the last row with each probability
        found = np.cumsum(has[order], dtype=np.int64)[ends]
        f1s = 2 * found / (ends + 1 + has.sum(dtype=np.int64))
        lower = np.append(ranked[ends[1:]], 0.0)
        middles = (ranked[ends] + lower) / 2
        middles = np.where(middles > lower, middles, ranked[ends])  # between adjacent floats it may round to the lower
        best = middles[f1s == f1s.max()]
        thresholds[place] = best[np.abs(best - 0.5).argmin()]
    return thresholds


def per_label_table(given: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str:
    """Precision, recall, F1 and rows of each label, as text, where a row may have several labels."""
    wanted = labels > 0
    width = max(6, *(len(name) for name in names))
    lines = [f"{'':>{width}} precision    recall  f1-score      rows"]
    for name, has, gets in zip(names, wanted.T, given.T, strict=True):
        figures = precision_recall_f1(int((has & gets).sum()), int(has.sum()), int(gets.sum()))
        lines.append(f"{name:>{width}}" + "".join(f" {figure:9.4f}" for figure in figures) + f" {has.sum():9d}")
    return "\n".join(lines)


def score_metrics(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Metrics of predicted scores against the true ones, both ``[rows]``.

    Returns:
        ``loss``, the mean squared error; its root ``rmse``; the mean absolute error ``mae``; ``spearman`` and ``pearson``, 0
        if one side is constant; and ``r2``, the explained share of the variance, 0 if there is no variance.
    """
    scores, targets = scores.astype(np.float64), np.asarray(targets, dtype=np.float64)
    error, variance = float(((scores - targets) ** 2).mean()), float(targets.var())
    return {
        "loss": error,
        "rmse": error**0.5,
        "mae": float(np.abs(scores - targets).mean()),
        **correlations(scores, targets),
        "r2": 1 - error / variance if variance else 0.0,
    }


def correlations(found: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """``spearman`` and ``pearson`` of two arrays ``[rows]``, 0 if one is constant."""
    from scipy.stats import pearsonr, spearmanr  # takes a second to import, so only if an evaluation runs

    constant = np.ptp(found) == 0 or np.ptp(scores) == 0
    return {
        "spearman": 0.0 if constant else float(spearmanr(found, scores).statistic),
        "pearson": 0.0 if constant else float(pearsonr(found, scores).statistic),
    }


def precision_recall_f1(right: int, wanted: int, given: int) -> tuple[float, float, float]:
    """From the counts of correct, expected and predicted items; 0 instead of dividing by 0."""
    precision = right / given if given else 0.0
    recall = right / wanted if wanted else 0.0
    return precision, recall, 2 * right / (wanted + given) if right else 0.0
