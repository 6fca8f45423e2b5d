"""Sentence vectors: what an evaluation keeps, and how the report shows it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertorch.data.tokenizing import Samples
from bertorch.reporting.charts import histogram, plane
from bertorch.reporting.examples import examples_table, row_tokens
from bertorch.reporting.page import Html, join, legend, note, number, percent, table, tag
from bertorch.tasks.sentences.scores import cosines

_BINS = 20
_GROUPS = 8  # up to this many different scores have a histogram each
_RANGES = 4  # of scores, if there are more
_MAPPED = 100  # pairs on the map
_EXAMPLES = 30  # pairs whose cosine and score disagree most


def similarity_details(u: np.ndarray, v: np.ndarray, samples: Samples) -> dict[str, Any]:
    """Histograms of cosines by label or score, a map of the vectors, and pairs whose cosine and score disagree.

    Args:
        u, v: the vectors of both sides ``[rows, width]``.
        samples: the rows, with label ids or scores.
    """
    similarities, labels = cosines(u, v), np.asarray(samples.labels)
    names, groups = label_groups(labels)
    edges = np.linspace(similarities.min(), max(similarities.max(), similarities.min() + 1e-6), _BINS + 1)
    chosen = np.unique(np.linspace(0, len(u) - 1, min(_MAPPED, len(u))).astype(int))
    # Scaled to length 1, as for cosines.
    both = np.concatenate([u[chosen], v[chosen]]).astype(np.float64)
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
    points, shares = principal_plane(both)
    points = points.round(4).reshape(2, len(chosen), 2)
    details = {
        "groups": names,
        "edges": edges.round(6).tolist(),
        "histograms": [np.histogram(similarities[groups == place], edges)[0].tolist() for place in range(len(names))],
        "means": [float(similarities[groups == place].mean()) for place in range(len(names))],
        "variance_shares": shares,
        "map": [
            {"points": points[:, place].tolist(), "group": int(groups[row]), "token_ids": row_tokens(samples, row)}
            for place, row in enumerate(chosen)
        ],
    }
    if labels.dtype.kind == "f":
        details["examples"] = _disagreements(similarities, labels, samples)
    else:
        details["class_ids"] = True
    return {"sentence_vectors": details}


def label_groups(labels: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the groups that the report shows, and the group of each row, ``[rows]``.

    Each label or score is a group; with more than eight scores, each quarter of their range is.
    """
    values, groups = np.unique(labels, return_inverse=True)
    if labels.dtype.kind != "f" or len(values) <= _GROUPS:
        return [f"{value:g}" for value in values], groups
    edges = np.linspace(values[0], values[-1], _RANGES + 1)
    groups = np.clip(np.searchsorted(edges, labels, side="right") - 1, 0, _RANGES - 1)
    kept, groups = np.unique(groups, return_inverse=True)  # drops empty ranges
    return [f"{edges[place]:g} to {edges[place + 1]:g}" for place in kept], groups


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Project vectors onto their two principal components ``[rows, 2]``; also returns the share of variance of each.

    The sign of a component is arbitrary; here its largest coordinate is positive.
    """
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    count = min(2, len(values))
    points[:, :count] = left[:, :count] * values[:count]
    largest = np.abs(points).argmax(axis=0)
    points *= np.where(points[largest, [0, 1]] < 0, -1, 1)
    shares = np.zeros(2)
    shares[:count] = values[:count] ** 2 / max((values**2).sum(), 1e-12)
    return points, [float(share) for share in shares]


def _disagreements(similarities: np.ndarray, scores: np.ndarray, samples: Samples) -> list[dict[str, Any]]:
    """The pairs whose ranks by cosine and by score differ most; ranks are shares of all pairs."""
    from scipy.stats import rankdata  # takes a second to import, so only if an evaluation runs

    size = max(1, len(scores) - 1)
    places = (rankdata(similarities) - 1) / size, (rankdata(scores) - 1) / size
    order = np.argsort(-np.abs(places[0] - places[1]), kind="stable")[:_EXAMPLES]
    return [
        {
            "line": int(samples.lines[row]),
            "token_ids": row_tokens(samples, row),
            "score": float(scores[row]),
            "cosine": round(float(similarities[row]), 4),
            "cosine_place": round(float(places[0][row]), 4),
            "score_place": round(float(places[1][row]), 4),
        }
        for row in order
    ]


TITLE = "Sentence vectors"


def section(details: dict[str, Any], labels: Sequence[str] | None) -> Html:
    """Histograms by label, the map, and the pairs that disagree most."""
    names = details["groups"]
    if details.get("class_ids") and labels:
        names = [labels[int(name)] for name in names]
    what = "label" if details.get("class_ids") else "score"
    counts = [sum(bins) for bins in details["histograms"]]
    parts = [
        tag("h3", f"Cosines by {what}"),
        table([what, "pairs", "mean cosine"], zip(names, counts, details["means"], strict=True)),
        tag(
            "div",
            *(
                histogram(f"{what} {name}", details["edges"], bins, f"{number(sum(bins))} pairs", place)
                for place, (name, bins) in enumerate(zip(names, details["histograms"], strict=True))
            ),
            class_="charts",
        ),
        tag("h3", "Map of the vectors"),
    ]
    first, second = details["variance_shares"]
    parts.append(
        note(
            f"Both texts of {len(details['map'])} pairs on the two principal components of their vectors, which hold "
            f"{percent(first)} and {percent(second)} of the variance; a line joins a pair. Hover over a point for its text."
        )
    )
    parts += [legend(names), plane("texts on a plane", details["map"], names)]
    if details.get("examples"):
        head = ["line", "text", "other text", "score", "cosine", "place by score", "place by cosine"]
        rows = [
            [
                tag("td", one["line"], class_="n"),
                *(one["texts"] + ["", ""])[:2],
                one["score"],
                one["cosine"],
                *(tag("td", percent(one[place]), class_="n") for place in ("score_place", "cosine_place")),
            ]
            for one in details["examples"]
        ]
        parts += [
            tag("h3", "Pairs where cosine and score disagree most"),
            note(
                "Places in the order of all pairs, from the lowest (0 %) to the highest. The texts are what the model read."
            ),
            *examples_table(head, rows, texts=(1, 2)),
        ]
    return join(parts)
