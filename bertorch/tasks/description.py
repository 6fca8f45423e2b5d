"""What ``bertorch.json`` says of a model, checked: whoever made the directory may have written anything there."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertorch.data.tokenizing import TRUNCATIONS
from bertorch.encoder.config import load_config
from bertorch.errors import UserError
from bertorch.heads.pooling import POOLING_MODES
from bertorch.memory import check_memory
from bertorch.tasks.entities.rows import UNITS
from bertorch.tasks.entities.tags import SCHEMES, TagSet
from bertorch.tasks.reading.rows import ANSWER_TYPES
from bertorch.tasks.reading.scores import SCORERS
from bertorch.training.checkpoints import DESCRIPTION, read_description

# What each task cannot do without.
_NEEDED = {
    "entities": ("ner_head", "types", "labels", "tag", "crf_constraints", "unit", "doc_stride"),
    "reading": (
        "answer_types", "scorer", "null_score_diff_threshold", "doc_stride", "max_query_length", "max_answer_length",
        "n_best_size",
    ),
}  # fmt: skip


def description_of(directory: str | Path) -> dict[str, Any]:
    """``bertorch.json`` of a saved directory; empty where there is none.

    Raises:
        UserError: it is damaged: a value is missing, is no such value, or does not fit the others.
    """
    description, path = read_description(directory), Path(directory) / DESCRIPTION
    if description is None:
        return {}
    task = description["task"]
    needed = _NEEDED.get(task, ()) if isinstance(task, str) else ()
    if description.get("objective") == "softmax" and "labels" in description:
        needed = ("concat_multiply",)
    missing = [name for name in needed if name not in description]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} is missing; take the directory as the training left it")
    for name, (fits, what) in _VALUES.items():
        if name in description and not fits(description[name]):
            raise UserError(f"{path}: {name} must be {what}, found {repr(description[name])[:60]}")
    if task == "entities" and description["ner_head"] != "global_pointer":
        labels, types, scheme = (description[name] for name in ("labels", "types", "tag"))
        if set(TagSet.from_labels(labels, types, scheme).labels) != set(labels):
            raise UserError(f"{path}: labels are not the tags of its types as {scheme} writes them")
        check_memory(path, f"transitions between {len(labels)} labels", 4 * len(labels) ** 2)
    if task == "reading" and description["doc_stride"] is None:
        raise UserError(f"{path}: doc_stride must be a whole number, found None")
    if "labels" in description:
        check_labels(directory, description["labels"])
    return description


def check_labels(directory: str | Path, labels: list[str]) -> None:
    """Raises UserError where the head for so many labels would not fit into memory."""
    check_memory(directory, f"a head for {len(labels)} labels", 4 * len(labels) * load_config(directory).hidden_size)


def is_text(value: Any) -> bool:
    """A text that can be written: JSON may hold half a character (``\\ud83d``)."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(is_text(one) for one in value) and len(set(value)) == len(value) > 0


def _one_of(names: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}"


_NAMES = (_is_list_of_names, "a list of different names")
_COUNT = (lambda value: type(value) is int and 0 < value < 2**31, "a whole number above 0")
_STRIDE = (lambda value: value is None or type(value) is int and 0 <= value < 2**31, "a whole number, or null")
_TRUE_OR_FALSE = (lambda value: isinstance(value, bool), "true or false")
_NUMBER = (lambda value: type(value) in (int, float) and abs(value) < math.inf, "a number")
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (is_text, "a name"),
    "labels": _NAMES,
    "types": _NAMES,
    "ner_head": _one_of(("linear", "crf", "global_pointer")),
    "tag": _one_of(tuple(SCHEMES)),
    "crf_constraints": _TRUE_OR_FALSE,
    "unit": _one_of(UNITS),
    "doc_stride": _STRIDE,
    "max_seq_length": _COUNT,
    "truncation": _one_of(TRUNCATIONS),
    "pooling_mode": _one_of(POOLING_MODES),
    "is_text_pair": _TRUE_OR_FALSE,
    "concat_multiply": _TRUE_OR_FALSE,
    "answer_types": _one_of(tuple(ANSWER_TYPES)),
    "scorer": _one_of(tuple(SCORERS)),
    "null_score_diff_threshold": _NUMBER,
    "max_query_length": _COUNT,
    "max_answer_length": _COUNT,
    "n_best_size": _COUNT,
}
