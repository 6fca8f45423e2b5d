"""Accuracy of choices."""

from collections.abc import Sequence

import numpy as np

METRICS = ("accuracy",)


def probabilities_of(scores: np.ndarray, row_starts: np.ndarray) -> list[np.ndarray]:
    """The softmax over the options of each row.

    Args:
        scores: of all options, row after row, ``[sequences]``.
        row_starts: the first option of each row, then the number of options, ``[rows + 1]``.
    """
    from scipy.special import softmax  # late: it takes a while to import

    bounds = zip(row_starts[:-1], row_starts[1:], strict=True)
    return [softmax(scores[start:end].astype(np.float64)) for start, end in bounds]


def choice_metrics(probabilities: Sequence[np.ndarray], labels: Sequence[int]) -> dict[str, float]:
    """``loss``, the mean negative logarithm of the right option's probability, and ``accuracy``."""
    right = np.array([one[label] for one, label in zip(probabilities, labels, strict=True)])
    hits = [one.argmax() == label for one, label in zip(probabilities, labels, strict=True)]
    with np.errstate(divide="ignore"):
        return {"loss": float(-np.log(right).mean()), "accuracy": float(np.mean(hits))}
