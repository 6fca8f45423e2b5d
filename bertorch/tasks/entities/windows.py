"""Documents to token ids, windows and tags: one position for each character or word.

A text longer than ``max_seq_length`` is read in overlapping windows. Each unit is decided in the window that gives it the
most context, so each unit of a text gets one answer, however many windows the text takes.
"""

import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loguru import logger

from bertorch.data.tokenizing import Samples, TextTokenizer, text_hash
from bertorch.errors import UserError
from bertorch.tasks.entities.rows import Document, split_units
from bertorch.tasks.entities.tags import Span, TagSet

# Signs that Chinese vocabularies often lack, and their replacements; NFKC has already folded full-width forms.
_SIGNS = str.maketrans("“”„〝〞‘’‚—–―─•", '"""""\'\'\'----·')
_LONGEST_ROW = 16  # longest training text, in window lengths; longer ones become several rows


class UnitTokenizer:
    """Token ids of characters or words, and the windows of a text.

    Args:
        texts: provides the tokenizer, special tokens and ``max_seq_length``.
        unit: what to divide plain texts into, ``character`` or ``word``.
        doc_stride: tokens that two neighbouring windows share; None means half of a window's room.
    """

    def __init__(self, texts: TextTokenizer, unit: str = "character", doc_stride: int | None = None):
        self.pretrained, self.backend, self.unit = texts.pretrained, texts.backend, unit
        self.convert = texts.convert
        if self.pretrained.unk_token_id is None:
            raise UserError(
                f"{self.pretrained.name_or_path}: the tokenizer has no token for unknown text; name another model"
            )
        (self.before, self.after), _ = texts.layouts[1]
        self.room = texts.max_seq_length - len(self.before) - len(self.after)
        self.doc_stride = self.room // 2 if doc_stride is None else doc_stride
        if self.doc_stride >= self.room:
            raise UserError(
                f"--doc_stride {doc_stride}: windows cannot share that many tokens, as one of --max_seq_length "
                f"{texts.max_seq_length} holds {self.room}; use fewer, such as {self.room // 2}"
            )
        self.fingerprint = f"{texts.fingerprint}|{unit}|{self.doc_stride}"
        self.blank: set[str] = set()  # units that normalise to nothing
        self._pieces: dict[tuple[bool, str], list[int]] = {}

    def pieces(self, units: Sequence[str], words: bool) -> list[list[int]]:
        """The token ids of each unit, at least one.

        If the vocabulary lacks a unit, its plain form is tried: half-width (NFKC), straight quotes, lower case. A unit that
        the tokenizer drops (blanks, control characters) becomes the unknown token.

        Args:
            units: as they stand in the file.
            words: whether they are words with blanks between them; False for characters.
        """
        new = list(dict.fromkeys(unit for unit in units if (words, unit) not in self._pieces))
        for unit, ids in zip(new, self._encode(new, words), strict=True):
            if not ids:
                self.blank.add(unit)
            self._pieces[words, unit] = ids[: max(1, self.room // 2)] or [self.pretrained.unk_token_id]
        for plain in (_plain, lambda unit: _plain(unit).lower()):
            lacking = [unit for unit in new if unit not in self.blank and self._is_unknown(self._pieces[words, unit])]
            for unit, ids in zip(lacking, self._encode([plain(unit) for unit in lacking], words), strict=True):
                if ids and not self._is_unknown(ids):
                    self._pieces[words, unit] = ids[: max(1, self.room // 2) if len(unit) > 1 else 1]
        return [self._pieces[words, unit] for unit in units]

    def _is_unknown(self, ids: list[int]) -> bool:
        return self.pretrained.unk_token_id in ids

    def _encode(self, units: list[str], words: bool) -> list[list[int]]:
        """Token ids of each unit; none for a unit that the tokenizer drops."""
        texts = [" " + unit for unit in units] if words else units  # the words of a byte-level vocabulary begin with a blank
        found = [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        # SentencePiece may split the mark of a word's beginning from the word.
        mark = self.pretrained.convert_tokens_to_ids("▁")
        return [ids[1:] if ids and ids[0] == mark != self.pretrained.unk_token_id else ids for ids in found]

    def windows(self, sizes: Sequence[int]) -> list[tuple[int, int, int, int]]:
        """``(first unit, end, first decided unit, end)`` of each window of a text; ``sizes`` are the tokens of its units."""
        ends = np.cumsum(sizes)  # tokens up to and including each unit
        total, start = int(ends[-1]), 0
        bounds: list[tuple[int, int]] = []
        while True:
            first, end = (int(place) for place in np.searchsorted(ends, (start, start + self.room), side="right"))
            bounds.append((first, end))
            if end == len(sizes):
                break
            wanted = min(
                start + self.room - self.doc_stride, total - self.room
            )  # the last window reaches back as far as it can
            start = int(min(ends[np.searchsorted(ends, wanted)], ends[end - 1]))  # at the end of a unit, without a gap
        meets = [(later[0] + earlier[1]) // 2 for earlier, later in zip(bounds, bounds[1:], strict=False)]
        decided = zip([0, *meets], [*meets, len(sizes)], strict=True)
        return [(*bound, *own) for bound, own in zip(bounds, decided, strict=True)]


def _plain(unit: str) -> str:
    return unicodedata.normalize("NFKC", unit).translate(_SIGNS)


@dataclass(kw_only=True)
class TaggedSamples(Samples):
    """Tokenized documents: a row is a text, its sequences are its windows.

    Attributes:
        units: for each token, the unit (within its text) that it begins, else -1, int32 ``[total_tokens]``.
        unit_starts: the first unit of each row, then the number of units, int64 ``[rows + 1]``.
        unit_tokens: the token that decides each unit, as an index into ``input_ids``, int64 ``[total_units]``.
        unit_offsets: start and end of each unit in its text, int32 ``[total_units, 2]``.
        tags: tag id of each unit, int64 ``[total_units]``; -1 if no tags were requested.
        entities: type id, start and end in characters, int32 ``[entities, 3]``.
        spans: the same in units of the row; -1 if an entity holds no unit.
        entity_starts: the first entity of each row, then the number of entities, int64 ``[rows + 1]``.
        spaces: which units are blanks, bool ``[total_units]``; an entity neither begins nor ends with one.
        blank: number of units that normalise to nothing; they do not count as unknown.
        labelled: 1 if every text came with its entities, else 0.
    """

    units: np.ndarray
    unit_starts: np.ndarray
    unit_tokens: np.ndarray
    unit_offsets: np.ndarray
    tags: np.ndarray
    entities: np.ndarray
    spans: np.ndarray
    entity_starts: np.ndarray
    spaces: np.ndarray
    blank: int
    labelled: int

    @property
    def unit_counts(self) -> np.ndarray:
        """Units of each row, ``[rows]``."""
        return np.diff(self.unit_starts)

    @property
    def unit(self) -> str:
        """``word`` if more than one unit in a hundred has several characters, else ``character``."""
        widths = self.unit_offsets[:, 1] - self.unit_offsets[:, 0]
        return "word" if (widths > 1).mean() > 0.01 else "character"

    def gold(self, row: int, types: Sequence[str]) -> set[Span]:
        """The entities of a row, in characters."""
        listed = self.entities[self.entity_starts[row] : self.entity_starts[row + 1]].tolist()
        return {(types[kind], start, end) for kind, start, end in listed}


@dataclass
class _Row:
    """A text, or a part of one, before it becomes windows: its units, their token ids, its entities."""

    document: Document
    offsets: list[tuple[int, int]]  # of the units, in the text
    pieces: list[list[int]]
    entities: list[Span]  # in characters of the text
    spans: list[Span]  # the same in units; -1 if an entity holds none

    def part(self, low: int, high: int) -> "_Row":
        """The units from ``low`` to ``high``, and the entities among them."""
        own = [place for place, (_, first, last) in enumerate(self.spans) if low <= max(first, 0) and last <= high]
        spans = [(kind, first - low, last - low) for kind, first, last in (self.spans[place] for place in own)]
        entities = [self.entities[place] for place in own]
        return _Row(self.document, self.offsets[low:high], self.pieces[low:high], entities, spans)


def _row(document: Document, encoder: UnitTokenizer) -> _Row:
    given = document.units
    offsets = split_units(document.text, encoder.unit) if given is None else given
    text = encoder.convert(document.text)
    surfaces = [text[start:end] for start, end in offsets]
    words = encoder.unit == "word" if given is None else any(len(surface) > 1 for surface in surfaces)
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    entities = [_without_blanks(document.text, *entity) for entity in document.entities or ()]
    spans = []
    for kind, start, end in entities:
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        spans.append((kind, first, last) if first < last else (kind, -1, -1))
    return _Row(document, offsets, encoder.pieces(surfaces, words), entities, spans)


def _without_blanks(text: str, kind: str, start: int, end: int) -> Span:
    """The entity without blanks at its edges, unless it is all blank."""
    inner = text[start:end].strip()
    if not inner:
        return kind, start, end
    start += text[start:end].index(inner)
    return kind, start, start + len(inner)


def _parts(row: _Row, most: int) -> Iterator[_Row]:
    """Cut the row between entities into parts of at most ``most`` units; an entity longer than ``most`` is lost."""
    short = [(first, last) for _, first, last in row.spans if 0 < last - first <= most]
    low = 0
    while len(row.pieces) - low > most:
        high = low + most
        while hit := [first for first, last in short if first < high < last]:
            high = min(hit)
        high = high if high > low else low + most  # a chain of overlapping entities: one is cut
        yield row.part(low, high)
        low = high
    yield row.part(low, len(row.pieces)) if low else row


@dataclass
class Untagged:
    """Counts entities that tags cannot express.

    Attributes:
        overlapped: they overlap longer ones.
        inside: they begin or end inside a unit.
        lost: they are longer than ``most`` units, the longest row.
    """

    overlapped: int = 0
    inside: int = 0
    lost: int = 0
    most: int = 0

    def add(self, other: "Untagged") -> None:
        """Add those of another part of the file."""
        self.overlapped += other.overlapped
        self.inside += other.inside
        self.lost += other.lost

    def warn(self, path: str | Path) -> None:
        """Log the counts."""
        if self.overlapped:
            logger.warning(
                f"{path}: {self.overlapped} entities overlap longer ones and cannot be tagged; they count in the scores, "
                "and --ner_head global_pointer learns them"
            )
        if self.inside:
            logger.warning(
                f"{path}: {self.inside} entities begin or end inside a unit and cannot be found exactly; they count in the "
                "scores"
            )
        if self.lost:
            logger.warning(f"{path}: {self.lost} entities are too long for a row of {self.most} units and are not trained")


def tag_documents(
    documents: Iterable[Document],
    encoder: UnitTokenizer,
    types: Sequence[str],
    tag_set: TagSet | None = None,
    path: str | Path = "",
    split_long: bool = False,
    untagged: Untagged | None = None,
) -> TaggedSamples:
    """Tokenize documents.

    Args:
        documents: each with a text that is not blank.
        encoder: provides token ids and windows.
        types: the entity types; a type's id is its place in the list.
        tag_set: encodes the tags; None for no tags.
        path: the file's name in warnings.
        split_long: cut a text with more units than 16 windows have tokens into several rows, between entities. For
            training, where a whole row must fit into memory.
        untagged: adds up what cannot be tagged, for a file that is read in parts; None logs it.
    """
    documents = list(documents)
    most = _LONGEST_ROW * encoder.room if split_long else sys.maxsize
    rows = [part for document in documents for part in _parts(_row(document, encoder), most)]
    counts = untagged or Untagged()
    tags = []
    for row in rows:
        spans = [span for span in row.spans if span[1] >= 0]
        ids, left_out = tag_set.encode(spans, len(row.pieces)) if tag_set else (np.full(len(row.pieces), -1), 0)
        tags.append(ids)
        counts.overlapped += left_out
        for (_, start, end), (_, first, last) in zip(row.entities, row.spans, strict=True):
            counts.inside += first < 0 or row.offsets[first][0] != start or row.offsets[last - 1][1] != end
    counts.lost += sum(len(document.entities or ()) for document in documents) - sum(len(row.entities) for row in rows)
    counts.most = most
    if untagged is None:
        counts.warn(path)

    type_ids = {kind: index for index, kind in enumerate(types)}
    windows = [encoder.windows([len(ids) for ids in row.pieces]) for row in rows]
    laid_out = [_window(row, encoder, window) for row, own in zip(rows, windows, strict=True) for window in own]
    lengths = [len(ids) for ids, _, _ in laid_out]
    offsets = _starts(lengths)
    surfaces = [row.document.text[start:end] for row in rows for start, end in row.offsets]
    special = len(encoder.before) + len(encoder.after)
    unknown_id = encoder.pretrained.unk_token_id
    unknown = sum(unknown_id in ids for row in rows for ids in row.pieces)
    blank = sum(surface in encoder.blank for surface in surfaces)
    return TaggedSamples(
        input_ids=_joined([ids for ids, _, _ in laid_out], np.int32),
        offsets=offsets,
        second=np.asarray(lengths, dtype=np.int32),
        text_hashes=np.asarray([text_hash(row.document.text) for row in rows], dtype=np.uint64),
        row_starts=_starts([len(own) for own in windows]),
        labels=np.full(len(rows), -1, dtype=np.int64),
        lines=np.asarray([row.document.line for row in rows], dtype=np.int64),
        uncut_lengths=np.asarray([special + sum(map(len, row.pieces)) for row in rows], dtype=np.int32),
        unknown=unknown - blank,
        units=_joined([units for _, units, _ in laid_out], np.int32),
        unit_starts=_starts([len(row.pieces) for row in rows]),
        unit_tokens=_joined([start + decided for start, (_, _, decided) in zip(offsets, laid_out, strict=False)], np.int64),
        unit_offsets=_joined([row.offsets for row in rows], np.int32).reshape(-1, 2),
        tags=_joined(tags, np.int64),
        entities=_joined([_numbered(row.entities, type_ids) for row in rows], np.int32).reshape(-1, 3),
        spans=_joined([_numbered(row.spans, type_ids) for row in rows], np.int32).reshape(-1, 3),
        entity_starts=_starts([len(row.entities) for row in rows]),
        spaces=np.asarray([surface.isspace() for surface in surfaces], dtype=bool),
        blank=blank,
        labelled=int(all(row.document.entities is not None for row in rows)),
    )


def _window(row: _Row, encoder: UnitTokenizer, window: tuple[int, int, int, int]) -> tuple[list[int], list[int], np.ndarray]:
    """Token ids of a window, the unit that begins at each token (or -1), and the tokens that decide a unit."""
    first, end, first_decided, end_decided = window
    ids, units, decided = list(encoder.before), [-1] * len(encoder.before), []
    for unit in range(first, end):
        if first_decided <= unit < end_decided:
            decided.append(len(ids))
        ids += row.pieces[unit]
        units += [unit, *[-1] * (len(row.pieces[unit]) - 1)]
    return ids + encoder.after, units + [-1] * len(encoder.after), np.asarray(decided, dtype=np.int64)


def _numbered(spans: Iterable[Span], type_ids: dict[str, int]) -> list[tuple[int, int, int]]:
    return [(type_ids[kind], start, end) for kind, start, end in spans]


def _starts(sizes: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _joined(parts: Iterable[Sequence], dtype: type) -> np.ndarray:
    parts = [np.asarray(part, dtype=dtype) for part in parts if len(part)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
