"""Metrics of sentence vectors: correlation with graded similarity, best thresholds, ranks of positives."""

from pathlib import Path

import numpy as np

from bertorch.errors import UserError
from bertorch.tasks.classification.scores import classification_metrics, correlations

METRICS = ("spearman", "pearson", "best_accuracy", "best_f1")
RECALL_AT = (1, 5, 10, 50)


def cosines(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Cosines row by row, in double precision: ``[rows, width]`` twice -> ``[rows]``."""
    u, v = u.astype(np.float64), v.astype(np.float64)
    return (u * v).sum(axis=1) / np.maximum(np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1), 1e-12)


def similarity_metrics(similarities: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """How well similarities of pairs follow their scores.

    Args:
        similarities: ``[pairs]``, such as cosines.
        scores: ``[pairs]``.

    Returns:
        ``spearman`` and ``pearson``, 0 if one side is constant. If the scores are 0 and 1, also ``best_accuracy`` and
        ``best_f1``, those of the best thresholds, and the thresholds.
    """
    scores = np.asarray(scores, dtype=np.float64)
    metrics = correlations(similarities, scores)
    if set(np.unique(scores)) == {0.0, 1.0}:
        metrics.update(best_thresholds(similarities, scores == 1))
    return metrics


def label_scores(labels: list[str | None]) -> np.ndarray | None:
    """The classes as scores, float64 ``[labels]``; None unless all are numbers."""
    try:
        return np.array([float(label) for label in labels])
    except (TypeError, ValueError):
        return None


def pair_class_metrics(
    logits: np.ndarray, cosines: np.ndarray, label_ids: np.ndarray, labels: list[str]
) -> dict[str, float]:
    """``classification_metrics`` of pairs; if all classes are numbers, also ``similarity_metrics`` of their cosines."""
    metrics, scores = classification_metrics(logits, label_ids), label_scores(labels)
    return metrics if scores is None else {**metrics, **similarity_metrics(cosines, scores[label_ids])}


def check_scores(scores: np.ndarray, metric: str, path: str | Path) -> None:
    """Raises UserError if ``metric`` cannot be computed on the scores of the file ``path``."""
    if len(scores) == 0:
        raise UserError(f"{path}: no score in it; nothing to correlate with")
    if np.ptp(scores) == 0:
        raise UserError(f"{path}: all scores are {scores[0]:g}; nothing to correlate with")
    if metric in ("best_accuracy", "best_f1") and set(np.unique(scores)) != {0.0, 1.0}:
        raise UserError(f"{path}: --metric {metric} is for scores 0 and 1; use spearman")


def best_thresholds(similarities: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """The thresholds for calling a pair positive with the highest accuracy, and with the highest F1.

    Args:
        similarities: ``[pairs]``.
        positive: bool ``[pairs]``.
    """
    order = np.argsort(-similarities, kind="stable")
    ranked = similarities[order].astype(np.float64)
    # Thresholds lie above the highest similarity, between two that differ, and at the lowest.
    cuts = np.concatenate([[0], np.flatnonzero(ranked[:-1] != ranked[1:]) + 1, [len(ranked)]])  # pairs called positive
    middles = (ranked[:-1] + ranked[1:]) / 2
    middles = np.where(middles > ranked[1:], middles, ranked[:-1])  # between adjacent floats it may round to the lower
    bounds = np.concatenate([[np.nextafter(ranked[0], np.inf)], middles, ranked[-1:]])
    found = np.concatenate([[0], np.cumsum(positive[order])])[cuts]
    total = int(positive.sum())
    accuracies = (found + len(ranked) - total - (cuts - found)) / len(ranked)
    f1s = 2 * found / (cuts + total)
    return {
        "best_accuracy": float(accuracies.max()),
        "accuracy_threshold": float(bounds[cuts[accuracies.argmax()]]),
        "best_f1": float(f1s.max()),
        "f1_threshold": float(bounds[cuts[f1s.argmax()]]),
    }


def retrieval_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Recall@1/5/10/50 and mean reciprocal rank.

    Args:
        ranks: of each query's positive among the candidates, from 1, ``[queries]``.
    """
    recalls = {f"recall@{k}": float((ranks <= k).mean()) for k in RECALL_AT}
    return {**recalls, "mrr": float((1 / ranks).mean())}
