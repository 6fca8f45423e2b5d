"""Tags of entities: schemes, allowed transitions, and conversion between tags and entities.

A tag is ``O``, or a letter and a type: ``B-PER``. The letters are B (begins), I or M (inside), E or L (ends), and S or U
(an entity of one place), so bio, bios, bioes, bmes and bilou can all be read.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bertorch.errors import UserError

# The letters of each scheme: begins, inside, ends, alone; None for a letter that it lacks.
SCHEMES = {
    "bios": ("B", "I", None, "S"),
    "bio": ("B", "I", None, None),
    "bmes": ("B", "M", "E", "S"),
    "bioes": ("B", "I", "E", "S"),
}
_LETTERS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
_OUTSIDE = ("O", "")

Tag = tuple[str, str]  # one of O, B, I, E, S, and the type
Span = tuple[str, int, int]  # type, first place, place after the last


def parse_tag(text: str) -> Tag | None:
    """A tag's letter and type; None if the text is not a tag."""
    if text == "O":
        return _OUTSIDE
    if len(text) > 2 and text[1] == "-" and text[0] in _LETTERS and len(text.split()) == 1:
        return _LETTERS[text[0]], text[2:]
    return None


def lenient_spans(tags: Sequence[Tag]) -> list[Span]:
    """Entities as conlleval reads them, whatever the scheme: an I or E that continues nothing begins one.

    Source: the ``conlleval`` script of CoNLL-2000, as seqeval's default mode extends it to E and S.
    """
    spans: list[Span] = []
    start, before = None, _OUTSIDE
    for place, tag in enumerate([*tags, _OUTSIDE]):
        if not _continues(before, tag):
            if start is not None:
                spans.append((before[1], start, place))
            start = None if tag[0] == "O" else place
        before = tag
    return spans


def _continues(before: Tag, tag: Tag) -> bool:
    return tag[0] in "IE" and before[0] in "BI" and before[1] == tag[1]


def count_repairs(tags: Sequence[Tag]) -> int:
    """The number of I and E tags that continue no entity, and so begin one."""
    return sum(tag[0] in "IE" and not _continues(before, tag) for before, tag in zip((_OUTSIDE, *tags), tags, strict=False))


def strict_spans(tags: Sequence[Tag], scheme: str) -> list[Span]:
    """Entities whose tags follow the scheme, and no others; as seqeval's strict mode.

    ``bio`` and ``bios``: B and all following I of its type; ``bioes`` and ``bmes``: B, any I, E, all of one type. S alone.
    """
    has_end = SCHEMES[scheme][2] is not None
    spans: list[Span] = []
    start, before = None, _OUTSIDE
    for place, tag in enumerate([*tags, _OUTSIDE]):
        if start is not None and _continues(before, tag):
            if tag[0] == "E":
                spans.append((tag[1], start, place + 1))
                start = None
        else:
            if start is not None and not has_end:
                spans.append((before[1], start, place))
            start = place if tag[0] == "B" else None
            if tag[0] == "S":
                spans.append((tag[1], place, place + 1))
        before = tag
    return spans


def types_of(labels: Sequence[str], path: str | Path) -> list[str]:
    """The entity types of a label file, which lists tags (``B-PER``) or types (``PER``), in the order they first appear.

    Raises:
        UserError: it lists both tags and types, or neither.
    """
    named = [label for label in labels if label != "O"]
    parsed = [parse_tag(label) for label in named]
    if not named or (any(parsed) and not all(parsed)):
        odd = f"{named[parsed.index(None)]!r} is not a tag such as B-PER" if named else "no entity type in it"
        raise UserError(f"{path}: {odd}; write tags (O, B-PER, I-PER) or types (PER), one per line")
    return list(dict.fromkeys(tag[1] if tag else label for label, tag in zip(named, parsed, strict=True)))


class TagSet:
    """The tags of a model: what each tag id means.

    Args:
        labels: the tags by id.
        scheme: a key of ``SCHEMES``.

    Attributes:
        tags: letter and type by tag id.
        types: the entity types, in the order they first appear.
    """

    def __init__(self, labels: Sequence[str], scheme: str):
        self.labels, self.scheme = list(labels), scheme
        self.ids = {label: index for index, label in enumerate(self.labels)}
        self.tags = [parse_tag(label) or _OUTSIDE for label in self.labels]
        self.types = list(dict.fromkeys(kind for _, kind in self.tags if kind))

    @classmethod
    def from_labels(cls, labels: Sequence[str], types: Sequence[str], scheme: str) -> "TagSet":
        """The tags of a label file in its order, if they are those of ``scheme``; else all tags of its types."""
        full = ["O", *(f"{letter}-{kind}" for letter in SCHEMES[scheme] if letter for kind in types)]
        # Entities of any type and length need tags; S may be missing from bios, where B alone also works.
        optional = {f"S-{kind}" for kind in types} if scheme == "bios" else set()
        return cls(labels if set(full) - optional <= set(labels) <= set(full) else full, scheme)

    def encode(self, spans: Iterable[Span], length: int) -> tuple[np.ndarray, int]:
        """Tag ids of a text, int64 ``[length]``, and the number of spans left out because longer ones overlap them."""
        begins, inside, ends, alone = SCHEMES[self.scheme]
        tags = np.full(length, self.ids["O"], dtype=np.int64)
        left_out = 0
        for kind, start, end in sorted(dict.fromkeys(spans), key=lambda span: (span[1] - span[2], *span[1:], span[0])):
            if (tags[start:end] != self.ids["O"]).any():
                left_out += 1
                continue
            single = f"{alone}-{kind}"
            if end - start == 1 and single in self.ids:
                tags[start] = self.ids[single]
                continue
            tags[start] = self.ids[f"{begins}-{kind}"]
            if end - start > 1:
                tags[start + 1 : end] = self.ids[f"{inside}-{kind}"]
                if ends:
                    tags[end - 1] = self.ids[f"{ends}-{kind}"]
        return tags, left_out

    def strict(self, ids: Iterable[int]) -> list[Span]:
        return strict_spans([self.tags[one] for one in ids], self.scheme)

    def lenient(self, ids: Iterable[int]) -> list[Span]:
        return lenient_spans([self.tags[one] for one in ids])

    def allowed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which tag may follow which (bool ``[tags, tags]``, from row to column), begin a text, end it (``[tags]`` each)."""
        has_end = SCHEMES[self.scheme][2] is not None
        follow = torch.tensor([[_may_follow(before, tag, has_end) for tag in self.tags] for before in self.tags])
        begin = torch.tensor([_may_follow(_OUTSIDE, tag, has_end) for tag in self.tags])
        end = torch.tensor([_may_follow(tag, _OUTSIDE, has_end) for tag in self.tags])
        return follow, begin, end

    def continuing(self, tag: int) -> list[int]:
        """The tags that would continue an entity after this tag."""
        return [other for other, parsed in enumerate(self.tags) if _continues(self.tags[tag], parsed)]


def _may_follow(before: Tag, tag: Tag, has_end: bool) -> bool:
    if tag[0] in "IE":
        return _continues(before, tag)
    return not (has_end and before[0] in "BI")
