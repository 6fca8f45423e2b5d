"""Multiple choice: what an evaluation keeps, and how the report shows it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertorch.data.tokenizing import Samples
from bertorch.reporting.examples import examples_table
from bertorch.reporting.page import Html, join, note, number, percent, table, tag
from bertorch.tasks.choice.rows import option_names
from bertorch.tasks.classification.report import EXAMPLES, calibration, calibration_parts


def choice_details(probabilities: Sequence[np.ndarray], samples: Samples) -> dict[str, Any]:
    """Counts by number and by place of options, calibration, and the most confident wrong choices.

    Args:
        probabilities: of each row's options, ``[options]`` each.
        samples: the rows, all with the places of their right options.
    """
    labels, counts = np.asarray(samples.labels), np.diff(samples.row_starts)
    chosen = np.array([int(shares.argmax()) for shares in probabilities])
    confidences = np.array([shares.max() for shares in probabilities])
    right, most = chosen == labels, int(counts.max())
    bins, error = calibration(confidences, right)
    wrong = np.flatnonzero(~right)
    surest = wrong[np.argsort(-confidences[wrong], kind="stable")][:EXAMPLES]
    details = {
        "sizes": [[int(size), int(right[counts == size].sum()), int((counts == size).sum())] for size in np.unique(counts)],
        "right": np.bincount(labels[right], minlength=most).tolist(),
        "labelled": np.bincount(labels, minlength=most).tolist(),
        "chosen": np.bincount(chosen, minlength=most).tolist(),
        "calibration": bins,
        "expected_calibration_error": error,
        "wrong": len(wrong),
        "examples": [
            {
                "line": int(samples.lines[row]),
                "options": int(counts[row]),
                "label": int(labels[row]),
                "chosen": int(chosen[row]),
                "confidence": round(float(confidences[row]), 4),
                "label_probability": round(float(probabilities[row][labels[row]]), 4),
                "with_label": {"token_ids": _tokens(samples, row, labels[row])},
                "with_chosen": {"token_ids": _tokens(samples, row, chosen[row])},
            }
            for row in surest
        ],
    }
    return {"choice": details}


def _tokens(samples: Samples, row: int, option: int) -> list[int]:
    sequence = samples.row_starts[row] + option
    return samples.input_ids[samples.offsets[sequence] : samples.offsets[sequence + 1]].tolist()


TITLE = "Choices"


def section(details: dict[str, Any], labels: Sequence[str] | None) -> Html:
    """Accuracy by number of options and by place, calibration, and wrong choices."""
    total = sum(details["labelled"])
    sizes = [[size, right / max(1, rows), rows] for size, right, rows in details["sizes"]]
    places = zip(option_names(len(details["right"])), details["right"], details["labelled"], details["chosen"], strict=True)
    shown = f"{number(details['wrong'])} of {number(total)} rows are wrong, {percent(details['wrong'] / max(1, total))}"
    listed = [
        (
            tag("td", one["line"], class_="n"),
            "".join(one["with_label"]["texts"][:1]),
            "".join(one["with_label"]["texts"][-1:]),
            "".join(one["with_chosen"]["texts"][-1:]),
            one["confidence"],
            one["label_probability"],
        )
        for one in details["examples"]
    ]
    head = ["line", "passage", "right option", "chosen option", "confidence", "right option's probability"]
    return join(
        [
            tag("h3", "By number of options"),
            table(["options", "accuracy", "rows"], sizes),
            tag("h3", "By place"),
            note("How often the right option stands in each place, is found there, and how often the model chooses it."),
            table(
                ["place", "recall", "rows", "chosen"],
                [[name, right / max(1, rows), rows, chosen] for name, right, rows, chosen in places],
            ),
            *calibration_parts(details),
            tag("h3", "Most confidently wrong"),
            note(f"{shown}. The texts are what the model read, cut to its length; the line is that of the row in its file."),
            *examples_table(head, listed, texts=(1, 2, 3)),
        ]
    )
