"""What ``bertorch.json`` says about a model, checked, since a directory may come from anywhere."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from bertorch.data.chinese import CHINESE
from bertorch.data.tokenizing import TRUNCATIONS
from bertorch.encoder.config import config_path, load_config
from bertorch.errors import UserError
from bertorch.memory import check_memory
from bertorch.reporting.runs import DESCRIPTION
from bertorch.training.checkpoints import read_description

Kind = tuple[Callable[[Any], bool], str]  # a check of a value, and what the value must be


def is_text(value: Any) -> bool:
    """Whether a value is a text that can be written: JSON may hold half a character (``\\ud83d``)."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(is_text(one) for one in value) and len(set(value)) == len(value) > 0


NAMES: Kind = (_is_list_of_names, "a list of different names")
COUNT: Kind = (lambda value: type(value) is int and 0 < value < 2**31, "a whole number above 0")
COUNTS: Kind = (
    lambda value: isinstance(value, list) and all(COUNT[0](one) for one in value),
    "a list of whole numbers above 0",
)
STRIDE: Kind = (lambda value: type(value) is int and 0 <= value < 2**31, "a whole number")
TRUE_OR_FALSE: Kind = (lambda value: isinstance(value, bool), "true or false")
SHARES: Kind = (
    lambda value: isinstance(value, list) and all(type(one) in (int, float) and 0 <= one <= 1 for one in value),
    "a list of numbers from 0 to 1",
)
NUMBER: Kind = (lambda value: type(value) in (int, float) and abs(value) < math.inf, "a number")


def one_of(names: tuple[str, ...]) -> Kind:
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}"


def or_null(kind: Kind) -> Kind:
    return lambda value: value is None or kind[0](value), f"{kind[1]}, or null"


def value(kind: Kind, **options: Any) -> Any:
    """A field of a description, of this kind; pass ``default`` if a directory may leave it out."""
    return field(metadata={"kind": kind}, **options)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the descriptions of all tasks share; each adds its own values.

    It is checked both when written and when read.

    Attributes:
        max_seq_length: the longest sequence in training, in tokens; None if another tool made the directory.
        truncation: which part of longer texts was kept.
        chinese: the characters that texts were converted to; None if they were not.
        max_part_lengths: the most tokens of each part of a row; None if there were no limits.
    """

    task: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]] = ()  # how the names of transformers' classes for this task end
    marker: ClassVar[str | None] = None  # a file in another tool's directories for this task
    original_figures: ClassVar[dict[str, tuple[str, int]]] = {}  # see ``logging.shown``
    max_seq_length: int | None = value(or_null(COUNT), default=None)
    truncation: str = value(one_of(TRUNCATIONS), default="head")
    chinese: str | None = value(or_null(one_of(CHINESE)), default=None)
    max_part_lengths: list[int] | None = value(or_null(COUNTS), default=None)

    def __post_init__(self) -> None:
        for one in fields(self):
            fits, what = one.metadata["kind"]
            found = getattr(self, one.name)
            if not fits(found):
                raise UserError(f"{one.name} must be {what}, found {repr(found)[:60]}")

    def check(self) -> None:
        """Raises UserError for values that contradict each other."""

    def check_size(self, directory: Path) -> None:
        """Raises UserError if the described head would not fit into memory beside this encoder."""

    @classmethod
    def read(cls, directory: str | Path) -> "Description | None":
        """The description in a saved directory; None if it has none, because another tool made it.

        Raises:
            UserError: a value is missing, is of the wrong kind, or contradicts the others.
        """
        raw, path = read_description(directory), Path(directory) / DESCRIPTION
        if raw is None or raw["task"] != cls.task:
            return None
        missing = [one.name for one in fields(cls) if one.name not in raw and one.default is MISSING]
        if missing:
            raise UserError(f"{path}: {', '.join(missing)} is missing; use the directory as training saved it")
        try:
            description = cls(**{one.name: raw[one.name] for one in fields(cls) if one.name in raw})
            description.check()
            description.check_size(Path(directory))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return description

    def to_json(self) -> dict[str, Any]:
        """The content of ``bertorch.json``; leaves out None where it is the default."""
        self.check()
        held = zip(fields(self), asdict(self).values(), strict=True)
        return {"task": self.task, **{one.name: found for one, found in held if (found, one.default) != (None, None)}}


def check_labels(directory: str | Path, labels: list[str]) -> None:
    """Raises UserError if a head for this many labels would not fit into memory."""
    check_memory(directory, f"a head for {len(labels)} labels", 4 * len(labels) * load_config(directory).hidden_size)


def config_of(directory: Path) -> dict[str, Any]:
    """``config.json`` as it is, after a check that this encoder supports the model."""
    load_config(directory)
    return json.loads(config_path(directory).read_text(encoding="utf-8"))


def config_labels(directory: Path) -> list[str]:
    """The labels that transformers keeps in ``config.json``.

    Raises:
        UserError: it names none, or labels that cannot be written.
    """
    id2label = config_of(directory).get("id2label")
    if isinstance(id2label, list):  # written by the original bertorch
        id2label = {str(index): label for index, label in enumerate(id2label)}
    if not isinstance(id2label, dict) or sorted(id2label) != sorted(str(index) for index in range(len(id2label))):
        raise UserError(
            f"{directory}: config.json names no labels (id2label); give them with --label_file, "
            "or, for sentence vectors, choose how to make them, such as --pooling_mode mean"
        )
    labels = [str(id2label[str(index)]) for index in range(len(id2label))]
    if not all(is_text(label) for label in labels):
        raise UserError(f"{directory}: config.json names labels (id2label) that are half a character")
    check_labels(directory, labels)
    return labels
