"""What a classifier is trained for: how a row's target is read, lost, scored and answered. A class for each kind."""

import argparse
from collections.abc import Iterable
from typing import Any

import numpy as np

from bertorch.data.rows import Row
from bertorch.data.tokenizing import Samples
from bertorch.errors import UserError
from bertorch.heads.loss import ClassLoss
from bertorch.tasks.classification.scores import classification_metrics, per_class_table
from bertorch.training.tricks import class_loss


class OneLabel:
    """One label out of several: softmax (Devlin et al. 2018, section 4.1).

    Args:
        labels: their names, in the order of the logits.
    """

    def __init__(self, labels: list[str]):
        self.labels = labels
        self._ids = {label: index for index, label in enumerate(labels)}

    def check_metric(self, metric: str) -> None:
        """Raises UserError where the labels have no such figure."""
        if metric == "f1" and len(self.labels) != 2:
            raise UserError(f"--metric f1 is for two labels, found {len(self.labels)}; use macro_f1")

    def read(self, row: Row) -> int:
        """The label id; -1 where the row has none."""
        return self._ids.get(row.label, -1)

    def loss(self, args: argparse.Namespace, samples: Samples) -> ClassLoss:
        """What the head sums up, as the flags ask for it.

        Args:
            args: ``label_smoothing``, ``focal_gamma``, ``class_weights``.
            samples: the training set, for weights that balance the classes.
        """
        return class_loss(args, np.bincount(samples.labels, minlength=len(self.labels)))

    def scores(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Figures of logits ``[rows, num_labels]`` beside targets ``[rows]``."""
        return classification_metrics(logits, targets)

    def table(self, logits: np.ndarray, targets: np.ndarray) -> str:
        """Scores by label and confusions, as text."""
        return per_class_table(logits.argmax(axis=1), targets, self.labels)

    def answers(self, logits: np.ndarray) -> Iterable[dict[str, Any]]:
        """Of each row the likeliest label, and the probability of each."""
        from scipy.special import softmax  # late: it takes a while to import

        for probabilities in softmax(logits.astype(np.float64), axis=1):
            named = {label: float(value) for label, value in zip(self.labels, probabilities, strict=True)}
            yield {"label": self.labels[int(probabilities.argmax())], "probabilities": named}
