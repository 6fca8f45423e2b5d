"""Classification: what an evaluation keeps, and how the report shows it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertorch.data.tokenizing import Samples
from bertorch.reporting.charts import reliability
from bertorch.reporting.examples import examples_table, row_tokens
from bertorch.reporting.page import Html, chosen_rows, folded, join, note, number, percent, shaded, table, tag
from bertorch.tasks.classification.scores import precision_recall_f1

EXAMPLES = 50  # wrong answers to keep
BINS = 10  # of the calibration
_MATRIX = 30  # keep the whole confusion matrix for up to this many labels
_WIDE = 12  # the report shows it unfolded for up to this many labels
_CONFUSED = 50  # for more labels, keep this many confused pairs


def classification_details(logits: np.ndarray, samples: Samples) -> dict[str, Any]:
    """Counts by label, confusions, calibration, and the most confident wrong answers.

    Args:
        logits: ``[rows, num_labels]``.
        samples: the rows, all with label ids.
    """
    from scipy.special import softmax  # late, as the metrics do

    probabilities = softmax(logits.astype(np.float64), axis=1)
    labels, predictions, confidences = np.asarray(samples.labels), logits.argmax(axis=1), probabilities.max(axis=1)
    confusion = confusion_counts(predictions, labels, logits.shape[1])
    bins, error = calibration(confidences, predictions == labels)
    wrong = np.flatnonzero(predictions != labels)
    surest = wrong[np.argsort(-confidences[wrong], kind="stable")][:EXAMPLES]
    details = {
        "right": np.diag(confusion).tolist(),
        "labelled": confusion.sum(axis=1).tolist(),
        "predicted": confusion.sum(axis=0).tolist(),
        "calibration": bins,
        "expected_calibration_error": error,
        "wrong": len(wrong),
        "examples": [
            {
                "line": int(samples.lines[row]),
                "token_ids": row_tokens(samples, row),
                "label": int(labels[row]),
                "predicted": int(predictions[row]),
                "confidence": round(float(confidences[row]), 4),
                "label_probability": round(float(probabilities[row, labels[row]]), 4),
            }
            for row in surest
        ],
    }
    if len(confusion) <= _MATRIX:
        details["confusion"] = confusion.tolist()
    else:
        details["confused"] = _most_confused(confusion)
    return {"classification": details}


def labels_details(probabilities: np.ndarray, thresholds: np.ndarray, samples: Samples) -> dict[str, Any]:
    """For several labels per row: counts and threshold of each label, and the rows that are furthest off.

    Args:
        probabilities: ``[rows, num_labels]``.
        thresholds: ``[num_labels]``.
        samples: the rows, with 0 or 1 for each label.
    """
    wanted, given = np.asarray(samples.labels) > 0, probabilities >= thresholds
    wrong = np.flatnonzero((wanted != given).any(axis=1))
    missed = np.abs(probabilities - wanted).sum(axis=1)
    surest = wrong[np.argsort(-missed[wrong], kind="stable")][:EXAMPLES]
    return {
        "classification": {
            "target": "labels",
            "right": (wanted & given).sum(axis=0).tolist(),
            "labelled": wanted.sum(axis=0).tolist(),
            "predicted": given.sum(axis=0).tolist(),
            "thresholds": np.round(thresholds, 4).tolist(),
            "rows": len(wanted),
            "wrong": len(wrong),
            "examples": [
                {
                    "line": int(samples.lines[row]),
                    "token_ids": row_tokens(samples, row),
                    "labels": np.flatnonzero(wanted[row]).tolist(),
                    "predicted": np.flatnonzero(given[row]).tolist(),
                }
                for row in surest
            ],
        }
    }


def score_details(scores: np.ndarray, samples: Samples) -> dict[str, Any]:
    """For scores: the mean prediction for rows of similar score, and the rows that are furthest off.

    Args:
        scores: predictions, ``[rows]``.
        samples: the rows, with their true scores.
    """
    wanted = np.asarray(samples.labels)
    edges = np.unique(np.quantile(wanted, np.linspace(0, 1, BINS + 1)))
    places = np.clip(np.searchsorted(edges, wanted, side="right") - 1, 0, max(0, len(edges) - 2))
    groups = [np.flatnonzero(places == place) for place in np.unique(places)]
    furthest = np.argsort(-np.abs(scores - wanted), kind="stable")[:EXAMPLES]
    return {
        "classification": {
            "target": "score",
            "groups": [
                {
                    "count": len(group),
                    "lowest": float(wanted[group].min()),
                    "highest": float(wanted[group].max()),
                    "score": float(wanted[group].mean()),
                    "predicted": float(scores[group].mean()),
                    "rmse": float(((scores[group] - wanted[group]) ** 2).mean() ** 0.5),
                }
                for group in groups
            ],
            "examples": [
                {
                    "line": int(samples.lines[row]),
                    "token_ids": row_tokens(samples, row),
                    "score": float(wanted[row]),
                    "predicted": round(float(scores[row]), 4),
                }
                for row in furthest
            ],
        }
    }


def confusion_counts(predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """How many rows of each true label (axis 0) got each prediction (axis 1): int64 ``[num_labels, num_labels]``."""
    counts = np.bincount(labels * num_labels + predictions, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels)


def calibration(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[list[dict[str, float | None]], float]:
    """Confidence and accuracy of predictions in bins of equal width, and the expected calibration error.

    The error is the mean of ``|accuracy - confidence|`` over bins, weighted by their rows. Source: Guo et al. 2017,
    equation 3; a bin includes its upper edge.
    """
    places = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = np.bincount(places, confidences, bins), np.bincount(places, np.asarray(right, dtype=float), bins)
    found = [
        {"count": int(count), "confidence": float(sure / count), "accuracy": float(hits / count)}
        if count
        else {"count": 0, "confidence": None, "accuracy": None}
        for count, sure, hits in zip(counts, *sums, strict=True)
    ]
    return found, float(np.abs(sums[0] - sums[1]).sum() / max(1, len(confidences)))


TITLE = "Classes"


def section(details: dict[str, Any], labels: Sequence[str] | None) -> Html:
    """Scores by label, confusions, calibration and wrong answers; targets ``labels`` and ``score`` have their own."""
    special = {"labels": _labels_section, "score": _score_section}.get(details.get("target", ""))
    if special is not None:
        return special(details, labels)
    right, labelled, predicted = details["right"], details["labelled"], details["predicted"]
    names = list(labels) if labels else [str(place) for place in range(len(right))]
    rows = [
        [name, *precision_recall_f1(*counts), *counts[1:]]
        for name, *counts in zip(names, right, labelled, predicted, strict=True)
    ]
    means = (sum(row[place] for row in rows) / len(rows) for place in (1, 2, 3))
    last = ["all (macro mean)", *means, sum(labelled), sum(predicted)]
    head = ["label", "precision", "recall", "F1", "rows", "predicted"]
    parts = [tag("h3", "By label"), *chosen_rows(head, rows, orders_by_f1(rows), last)]
    matrix = details.get("confusion")
    if matrix is not None:
        matrix_parts = [note("A line a true label, a column a prediction."), _matrix(matrix, names)]
        if len(names) <= _WIDE:
            parts += [tag("h3", "Confusion matrix"), *matrix_parts]
        else:
            parts += [*_confused(_most_confused(np.array(matrix)), names), folded("confusion matrix", *matrix_parts)]
    else:
        parts += _confused(details["confused"], names)
    parts += [
        *calibration_parts(details),
        tag("h3", "Most confidently wrong"),
    ]
    if not details["examples"]:
        return join([*parts, note("No wrong answer.")])
    total = sum(labelled)
    shown = f"{number(details['wrong'])} of {number(total)} rows are wrong, {percent(details['wrong'] / max(1, total))}"
    parts.append(
        note(
            f"{shown}. The texts are what the model read: cut to its length, [UNK] where the vocabulary lacks a token. The "
            "line is that of the row in the file."
        )
    )
    listed = [
        (
            tag("td", one["line"], class_="n"),
            " ⏐ ".join(one["texts"]),
            names[one["label"]],
            names[one["predicted"]],
            one["confidence"],
            one["label_probability"],
        )
        for one in details["examples"]
    ]
    head = ["line", "text", "label", "prediction", "confidence", "label's probability"]
    return join([*parts, *examples_table(head, listed, texts=(1,))])


def calibration_parts(details: dict[str, Any]) -> list[Html]:
    """The chart of ``calibration`` and its error."""
    error = number(round(details["expected_calibration_error"], 4))
    return [
        tag("h3", "Calibration"),
        note(
            "Of predictions with a confidence of 80 %, 80 % should be right: bars and points on the dashed line. The "
            f"expected calibration error is the mean distance from it, {error} here."
        ),
        tag("div", reliability("share of right predictions by confidence", details["calibration"]), class_="charts"),
    ]


def _labels_section(details: dict[str, Any], labels: Sequence[str] | None) -> Html:
    """Scores and threshold of each label, and the wrong rows."""
    counts = list(zip(details["right"], details["labelled"], details["predicted"], strict=True))
    names = list(labels) if labels else [str(place) for place in range(len(counts))]
    rows = [
        [name, *precision_recall_f1(*one), *one[1:], threshold]
        for name, one, threshold in zip(names, counts, details["thresholds"], strict=True)
    ]
    means = (sum(row[place] for row in rows) / len(rows) for place in (1, 2, 3))
    last = ["all (macro mean)", *means, sum(details["labelled"]), sum(details["predicted"]), None]
    head = ["label", "precision", "recall", "F1", "rows", "predicted", "threshold"]
    wrong, total = details["wrong"], details["rows"]
    listed = [
        (
            tag("td", one["line"], class_="n"),
            " ⏐ ".join(one["texts"]),
            *(", ".join(names[place] for place in one[key]) or "none" for key in ("labels", "predicted")),
        )
        for one in details["examples"]
    ]
    return join(
        [
            tag("h3", "By label"),
            note("A row has a label where its probability reaches the threshold, which gives the highest F1 here."),
            *chosen_rows(head, rows, orders_by_f1(rows), last),
            tag("h3", "Furthest off"),
            note(f"{number(wrong)} of {number(total)} rows have other labels, {percent(wrong / max(1, total))}."),
            *examples_table(["line", "text", "labels", "prediction"], listed, texts=(1, 2, 3)),
        ]
    )


def _score_section(details: dict[str, Any], labels: Sequence[str] | None) -> Html:
    """Predictions for rows of similar score, and the rows that are furthest off."""
    groups = [
        [
            f"{number(round(one['lowest'], 4))} to {number(round(one['highest'], 4))}",
            *(round(one[key], 4) for key in ("score", "predicted", "rmse")),
            one["count"],
        ]
        for one in details["groups"]
    ]
    listed = [
        (tag("td", one["line"], class_="n"), " ⏐ ".join(one["texts"]), one["score"], one["predicted"])
        for one in details["examples"]
    ]
    return join(
        [
            tag("h3", "By score"),
            table(["scores", "their mean", "mean prediction", "RMSE", "rows"], groups),
            tag("h3", "Furthest off"),
            *examples_table(["line", "text", "score", "prediction"], listed, texts=(1,)),
        ]
    )


def orders_by_f1(rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Which rows of a long table to show; each is ``name, precision, recall, F1, count, …``.

    The F1 of a count of 0 says nothing; of equal F1s, the more frequent label is the worse.
    """
    worst = [(row[4] == 0, row[3], -row[4]) for row in rows]
    return {"with the lowest F1": worst, "most frequent": [-row[4] for row in rows]}


def _most_confused(confusion: np.ndarray) -> list[list[int]]:
    """``[true label, prediction, rows]`` of the commonest mistakes."""
    others = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    places = np.argsort(-others, axis=None, kind="stable")[:_CONFUSED]
    pairs = zip(*np.unravel_index(places, others.shape), strict=True)
    return [[int(label), int(other), int(others[label, other])] for label, other in pairs if others[label, other]]


def _confused(pairs: list[list[int]], names: Sequence[str]) -> list[Html]:
    if not pairs:
        return []
    rows = [[names[label], names[other], count] for label, other, count in pairs]
    head = tag("h3", "Labels that are confused most")
    return [head, *examples_table(["true label", "prediction", "rows"], rows, texts=())]


def _matrix(confusion: list[list[int]], names: Sequence[str]) -> Html:
    rows = []
    for place, counts in enumerate(confusion):
        total = max(1, sum(counts))
        rows.append([names[place], *(shaded(count, count / total) for count in counts)])
    return table(["", *names], rows)
