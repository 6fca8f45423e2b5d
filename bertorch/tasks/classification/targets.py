"""The targets of a classifier: one class per kind, with its reading, loss, metrics and answers."""

import argparse
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from bertorch.data.rows import SEPARATOR, Row, labels_in, unknown_label
from bertorch.data.tokenizing import Samples
from bertorch.errors import UnusableRow, UserError
from bertorch.heads.loss import ClassLoss, LabelsLoss, ScoreLoss
from bertorch.tasks.classification.report import classification_details, labels_details, score_details
from bertorch.tasks.classification.scores import (
    LABELS_METRICS,
    METRICS,
    SCORE_METRICS,
    best_f1_thresholds,
    classification_metrics,
    labels_metrics,
    per_class_table,
    per_label_table,
    score_metrics,
)
from bertorch.training.evaluation import Evaluation
from bertorch.training.start import load_labels
from bertorch.training.tricks import class_loss, labels_loss


class OneLabel:
    """One label out of several, by softmax (Devlin et al. 2018, section 4.1).

    Args:
        labels: their names, in the order of the logits.
    """

    name = "label"  # as in --target
    key = "label"  # in an answer
    metrics = METRICS  # the first is the default of --metric

    def __init__(self, labels: list[str], thresholds: list[float] | None = None):
        self.labels = labels
        self._ids = {label: index for index, label in enumerate(labels)}
        self.reading = {"labels": labels}  # arguments for ``read_rows``

    def check(self, args: argparse.Namespace) -> None:
        """Raises UserError if flags do not fit this kind of target."""
        check_metric(self, args.metric)
        self.check_metric(args.metric)

    def check_metric(self, metric: str) -> None:
        """Raises UserError if the metric does not fit the labels."""
        if metric == "f1" and len(self.labels) != 2:
            raise UserError(f"--metric f1 is for two labels, found {len(self.labels)}; use macro_f1")

    def read(self, row: Row) -> int:
        """The label id; -1 if the row has none."""
        return self._ids.get(row.label, -1)

    def loss(self, args: argparse.Namespace, samples: Samples) -> ClassLoss:
        """The loss function that the flags ask for.

        Args:
            args: ``label_smoothing``, ``focal_gamma``, ``class_weights``.
            samples: the training set, for weights that balance the classes.
        """
        return class_loss(args, np.bincount(samples.labels, minlength=len(self.labels)))

    def scores(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Metrics of logits ``[rows, num_labels]`` against targets ``[rows]``."""
        return classification_metrics(logits, targets)

    def evaluation(self, logits: np.ndarray, samples: Samples) -> Evaluation:
        """Metrics of a development set, what the report shows of it, and what the model keeps."""
        return Evaluation(self.scores(logits, samples.labels), lambda: classification_details(logits, samples))

    def table(self, logits: np.ndarray, targets: np.ndarray) -> str:
        """Scores by label and confusions, as text."""
        return per_class_table(logits.argmax(axis=1), targets, self.labels)

    def answers(self, logits: np.ndarray) -> Iterable[dict[str, Any]]:
        """The likeliest label of each row, and the probability of each label."""
        from scipy.special import softmax  # late: it takes a while to import

        for probabilities in softmax(logits.astype(np.float64), axis=1):
            named = {label: float(value) for label, value in zip(self.labels, probabilities, strict=True)}
            yield {"label": self.labels[int(probabilities.argmax())], "probabilities": named}


class SeveralLabels:
    """Any number of labels, each by a sigmoid.

    Args:
        labels: their names, in the order of the logits.
        thresholds: for each label, the lowest probability at which a row has it; None for 0.5.
    """

    name = key = "labels"
    metrics = LABELS_METRICS

    def __init__(self, labels: list[str], thresholds: list[float] | None = None):
        self.labels = labels
        self.thresholds = np.full(len(labels), 0.5) if thresholds is None else np.array(thresholds)
        self._ids = {label: index for index, label in enumerate(labels)}
        self.reading = {"label_columns": labels}

    def check(self, args: argparse.Namespace) -> None:
        """Raises UserError if flags do not fit this kind of target."""
        check_metric(self, args.metric)
        if args.label_smoothing:
            raise UserError("--label_smoothing spreads a target over labels that exclude each other; leave it out")
        divided = next((label for label in self.labels if SEPARATOR in label), None)
        if divided is not None:
            raise UserError(f"label {divided!r}: {SEPARATOR} stands between the labels of a row; give it another name")

    def read(self, row: Row) -> np.ndarray:
        """0 or 1 for each label, int8 ``[num_labels]``; -1 if the file does not say.

        Raises:
            UnusableRow: an unknown label.
        """
        if row.label is None:
            return np.full(len(self.labels), -1, dtype=np.int8)
        target = np.zeros(len(self.labels), dtype=np.int8)
        for label in labels_in(row.label):
            if label not in self._ids:
                raise unknown_label(label, self.labels)
            target[self._ids[label]] = 1
        return target

    def loss(self, args: argparse.Namespace, samples: Samples) -> LabelsLoss:
        """As in ``OneLabel``; the weights count the rows that have each label."""
        return labels_loss(args, samples.labels.sum(axis=0, dtype=np.int64), len(samples))

    def scores(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Metrics of logits against targets, both ``[rows, num_labels]``."""
        return labels_metrics(logits, targets, self.thresholds)

    def evaluation(self, logits: np.ndarray, samples: Samples) -> Evaluation:
        """As in ``OneLabel``, with the thresholds that are best on this set; the model keeps them."""
        thresholds = best_f1_thresholds(_sigmoid(logits), samples.labels)
        metrics = labels_metrics(logits, samples.labels, thresholds)
        return Evaluation(
            metrics, lambda: labels_details(_sigmoid(logits), thresholds, samples), {"thresholds": thresholds.tolist()}
        )

    def table(self, logits: np.ndarray, targets: np.ndarray) -> str:
        """Scores by label, as text."""
        return per_label_table(_sigmoid(logits) >= self.thresholds, targets, self.labels)

    def answers(self, logits: np.ndarray) -> Iterable[dict[str, Any]]:
        """The labels of each row that reach their thresholds, and the probability of each label."""
        for probabilities in _sigmoid(logits):
            named = {label: float(value) for label, value in zip(self.labels, probabilities, strict=True)}
            given = [label for label, has in zip(self.labels, probabilities >= self.thresholds, strict=True) if has]
            yield {"labels": given, "probabilities": named}


class Score:
    """A number, by mean squared error.

    Args:
        labels: its name.
    """

    name = key = "score"
    metrics = SCORE_METRICS

    def __init__(self, labels: list[str], thresholds: list[float] | None = None):
        self.labels = labels
        self.reading: dict[str, list[str]] = {}

    def check(self, args: argparse.Namespace) -> None:
        """Raises UserError if flags do not fit this kind of target."""
        check_metric(self, args.metric)
        for flag in ("label_smoothing", "focal_gamma", "class_weights", "r_drop_weight"):
            if getattr(args, flag):
                raise UserError(f"--{flag} is for labels; --target score has none")

    def read(self, row: Row) -> float:
        """The score; nan if the row has none.

        Raises:
            UnusableRow: it is not a finite number.
        """
        try:
            score = math.nan if row.label is None else float(row.label)
        except ValueError:
            score = math.inf
        if math.isinf(score) or (row.label is not None and math.isnan(score)):
            raise UnusableRow(f"score {row.label[:30]!r} is not a number", "write one such as 3 or 0.75")
        return score

    def loss(self, args: argparse.Namespace, samples: Samples) -> ScoreLoss:
        return ScoreLoss()

    def scores(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Metrics of scores ``[rows, 1]`` against targets ``[rows]``."""
        return score_metrics(logits[:, 0], targets)

    def evaluation(self, logits: np.ndarray, samples: Samples) -> Evaluation:
        """As in ``OneLabel``."""
        return Evaluation(self.scores(logits, samples.labels), lambda: score_details(logits[:, 0], samples))

    def table(self, logits: np.ndarray, targets: np.ndarray) -> str:
        return ""

    def answers(self, logits: np.ndarray) -> Iterable[dict[str, Any]]:
        """The score of each row."""
        return ({"score": float(score)} for score in logits[:, 0])


Target = OneLabel | SeveralLabels | Score
TARGETS = {kind.name: kind for kind in (OneLabel, SeveralLabels, Score)}  # what --target may name
METRICS_OF_TARGETS = tuple(dict.fromkeys(metric for kind in TARGETS.values() for metric in kind.metrics))


def target_of(args: argparse.Namespace) -> Target:
    """The target that ``--target`` names, with labels from ``--label_file`` or the training set.

    Raises:
        UserError: no labels are found, or flags do not fit this kind of target.
    """
    several = args.target == SeveralLabels.name
    labels = [Score.name] if args.target == Score.name else load_labels(args, args.is_text_pair, several)
    target = TARGETS[args.target](labels)
    target.check(args)
    return target


def check_metric(target: Target, metric: str) -> None:
    """Raises UserError if this kind of target does not have the metric."""
    if metric not in target.metrics:
        raise UserError(f"--metric {metric}: --target {target.name} has {', '.join(target.metrics)}")


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    from scipy.special import expit  # late: it takes a while to import

    return expit(logits.astype(np.float64))
