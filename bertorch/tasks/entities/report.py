"""Entities: the details that an evaluation saves, and their section in the report."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bertorch.reporting.examples import examples_table
from bertorch.reporting.page import Html, chosen_rows, join, note, number, tag
from bertorch.tasks.classification.report import orders_by_f1
from bertorch.tasks.entities.scores import Entity, precision_recall_f1
from bertorch.tasks.entities.windows import TaggedSamples

EXAMPLES = 50
_AROUND = 15  # units of text on either side of a mistake
KINDS = ("wrong type", "wrong bounds", "both wrong", "missed", "invented")

Mistake = tuple[str, Entity | None, Entity | None]  # kind, the gold entity, the found one


def entity_details(samples: TaggedSamples, found: Iterable[Sequence[Entity]], types: Sequence[str]) -> dict[str, Any]:
    """Counts by type, kinds of mistakes, and some of the mistakes with their texts.

    Args:
        samples: the rows, with their entities.
        found: the entities found in each row, in characters.
        types: the entity types.
    """
    right, labelled, given = Counter(), Counter(), Counter()
    all_mistakes: list[tuple[int, Mistake]] = []
    for row, answer in enumerate(found):
        there, answer = samples.gold(row, types), set(answer)
        right.update(kind for kind, _, _ in there & answer)
        labelled.update(kind for kind, _, _ in there)
        given.update(kind for kind, _, _ in answer)
        all_mistakes += [(row, mistake) for mistake in mistakes(there, answer)]
    by_type = {kind: Counter() for kind in types}
    confused: Counter = Counter()
    for _, (kind, gold, other) in all_mistakes:
        by_type[(gold or other)[0]][kind] += 1
        if kind in ("wrong type", "both wrong"):
            confused[gold[0], other[0]] += 1
    chosen = np.unique(np.linspace(0, len(all_mistakes) - 1, min(EXAMPLES, len(all_mistakes))).astype(int))
    details = {
        "types": [
            {"type": kind, "right": right[kind], "labelled": labelled[kind], "found": given[kind], **by_type[kind]}
            for kind in types
        ],
        "confused": [[gold, other, count] for (gold, other), count in confused.most_common(EXAMPLES)],
        "mistakes": len(all_mistakes),
        "examples": [_example(samples, *all_mistakes[place]) for place in chosen],
    }
    return {"entities": details}


def mistakes(there: set[Entity], found: set[Entity]) -> list[Mistake]:
    """The mistakes in a text, by start.

    An entity that was not found is paired with a wrongly found one that overlaps it: preferably one with the same bounds,
    then one of the same type. Without a partner it was missed; a found entity that overlaps none of these was invented.
    """
    lacking, surplus = sorted(there - found, key=_by_place), sorted(found - there, key=_by_place)
    listed: list[Mistake] = []
    used = set()
    for gold in lacking:
        near = [one for one in surplus if one[1] < gold[2] and gold[1] < one[2]]
        if not near:
            listed.append(("missed", gold, None))
            continue
        other = min(near, key=lambda one: (one[1:] != gold[1:], one[0] != gold[0]))
        used.update(near)
        kind = "wrong type" if other[1:] == gold[1:] else "wrong bounds" if other[0] == gold[0] else "both wrong"
        listed.append((kind, gold, other))
    listed += [("invented", None, one) for one in surplus if one not in used]
    return sorted(listed, key=lambda mistake: _by_place(mistake[1] or mistake[2]))


def _by_place(entity: Entity) -> tuple[int, int, str]:
    return entity[1], entity[2], entity[0]


def _example(samples: TaggedSamples, row: int, mistake: Mistake) -> dict[str, Any]:
    kind, gold, found = mistake
    known = [entity for entity in (gold, found) if entity is not None]
    start, end = min(entity[1] for entity in known), max(entity[2] for entity in known)

    def tokens(low: int, high: int) -> dict[str, list[int]]:
        return {"token_ids": _unit_tokens(samples, row, low, high)}

    first, last = _units_of(samples, row, start, end)
    sides = {
        name: entity and {"type": entity[0], **tokens(*_units_of(samples, row, *entity[1:]))}
        for name, entity in (("gold", gold), ("found", found))
    }
    around = {"before": tokens(first - _AROUND, first), "span": tokens(first, last), "after": tokens(last, last + _AROUND)}
    return {"line": int(samples.lines[row]), "kind": kind, **sides, **around}


def _units_of(samples: TaggedSamples, row: int, start: int, end: int) -> tuple[int, int]:
    """(first unit, unit after the last) between two characters of a row's text."""
    offsets = samples.unit_offsets[samples.unit_starts[row] : samples.unit_starts[row + 1]]
    return bisect_right(offsets[:, 1], start), bisect_left(offsets[:, 0], end)


def _unit_tokens(samples: TaggedSamples, row: int, low: int, high: int) -> list[int]:
    """All tokens of some units of a row, each unit's from the window that decides it."""
    first = samples.unit_starts[row]
    places = samples.unit_tokens[first + max(low, 0) : min(first + high, samples.unit_starts[row + 1])]
    ids: list[int] = []
    for place in places:
        end = place + 1
        while end < len(samples.units) and samples.units[end] < 0:  # special tokens at a window's end are not shown
            end += 1
        ids += samples.input_ids[place:end].tolist()
    return ids


TITLE = "Entities"


def section(details: dict[str, Any], labels: Sequence[str] | None) -> Html:
    """Scores and mistakes by type, types mistaken for one another, and mistakes in their texts."""
    rows = []
    for one in details["types"]:
        scores = precision_recall_f1(one["right"], one["labelled"], one["found"])
        rows.append([one["type"], *scores, one["labelled"], one["found"], *(one.get(kind, 0) for kind in KINDS)])
    parts = [
        tag("h3", "By type"),
        *chosen_rows(
            ["type", "precision", "recall", "F1", "entities", "found", *KINDS],
            rows,
            orders_by_f1(rows),
        ),
        note(
            "An entity that was not found has the wrong type, the wrong bounds, or both where something found overlaps it, "
            "else it was missed; invented is what was found and overlaps no such entity."
        ),
    ]
    if details["confused"]:
        parts += [tag("h3", "Types taken for one another")]
        parts += examples_table(["type", "taken for", "times"], details["confused"], texts=())
    parts.append(tag("h3", "Mistakes"))
    if not details["examples"]:
        return join([*parts, note("None.")])
    listed = [
        [
            tag("td", one["line"], class_="n"),
            one["kind"],
            tag("td", _text(one["before"]), tag("mark", _text(one["span"])), _text(one["after"]), class_="text"),
            *(side and f"{side['type']} {_text(side)}" for side in (one["gold"], one["found"])),
        ]
        for one in details["examples"]
    ]
    shown = f"{number(len(listed))} of {number(details['mistakes'])}, spread over the file"
    parts.append(note(f"{shown}; the texts are what the model read, [UNK] where the vocabulary lacks a token."))
    head = ["line", "mistake", "text", "is there", "was found"]
    return join([*parts, *examples_table(head, listed, texts=())])


def _text(part: dict[str, Any]) -> str:
    return " ".join(part["texts"])
