"""Accuracy and F1, as scikit-learn computes them."""

from collections.abc import Sequence

import numpy as np

METRICS = ("accuracy", "f1", "macro_f1")


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss and scores of a classifier.

    Args:
        logits: ``[rows, num_labels]``.
        labels: label ids ``[rows]``.

    Returns:
        ``loss`` (mean cross-entropy), ``accuracy``, ``macro_f1`` over all labels, and with two labels ``f1``, that of the
        second one, which is what text matching reports.
    """
    from scipy.special import log_softmax  # a second to import with the next, so only where an evaluation runs
    from sklearn.metrics import f1_score

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


def precision_recall_f1(right: int, wanted: int, given: int) -> tuple[float, float, float]:
    """From the counts of correct, expected and predicted items; 0 where the divisor would be 0."""
    precision = right / given if given else 0.0
    recall = right / wanted if wanted else 0.0
    return precision, recall, 2 * right / (wanted + given) if right else 0.0
