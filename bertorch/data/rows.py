"""Rows of one or two texts and a label, as most tasks read them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from loguru import logger

from bertorch.data.files import (
    OBJECT_FORMATS,
    TABLES,
    TEXT_KEYS,
    BadRows,
    BlankRows,
    file_format,
    find_format,
    read_cells,
    read_labels,
)
from bertorch.data.tables import BINARY_FORMATS
from bertorch.errors import UnusableRow, UserError

# Cells that give a header row away; compared in lower case.
_TEXT_WORDS = {
    "text", "text_a", "text_b", "texta", "textb", "text1", "text2", "sentence", "sentence1", "sentence2", "sentence_a",
    "sentence_b", "content", "review", "query", "title", "question", "question1", "question2", "premise", "hypothesis",
    "anchor", "positive", "negative", "pos", "neg", "#1 string", "#2 string", "文本", "句子", "内容", "评论", "标题",
}  # fmt: skip
_LABEL_WORDS = {
    "label",
    "labels",
    "target",
    "class",
    "category",
    "quality",
    "score",
    "gold_label",
    "is_duplicate",
    "标签",
    "类别",
}
HEADER_WORDS = {*_TEXT_WORDS, *_LABEL_WORDS, "index", "id", "idx", "#1 id", "#2 id"}
TEXT_ROLES = {1: ("text",), 2: ("text_a", "text_b")}
JSON_TEXT_KEYS = {
    1: tuple((key,) for key in TEXT_KEYS),
    2: (
        ("text_a", "text_b"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("text1", "text2"),
        ("question1", "question2"), ("premise", "hypothesis"),
    ),
}  # fmt: skip
_LABEL_KEYS = ("label", "labels", "score")
SEPARATOR = "|"  # between labels in a cell
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}  # cells in a label's column
_ROLES = {"text", "text_a", "text_b", "label", "_"}


@dataclass
class Row:
    """A row of a file.

    Attributes:
        line: the line where it starts in its file, from 1.
        texts: one text, or the two of a pair; empty for a bad or blank row whose place prediction keeps.
        label: as written in the file; a list if the file holds a list or one column per label; None if there is none.
    """

    line: int
    texts: tuple[str, ...]
    label: str | list[str] | None


def iter_rows(
    path: str | Path,
    is_text_pair: bool = False,
    labels: list[str] | None = None,
    columns: str | None = None,
    bad_rows: str = "error",
    label_needed: bool = True,
    stream: BinaryIO | None = None,
    kind: str | None = None,
    keep_all: bool = False,
    encoding: str | None = None,
    columns_flag: str = "--columns",
    label_columns: list[str] | None = None,
    check: Callable[[Row], Any] | None = None,
    at_once: bool = False,
) -> Iterator[Row]:
    """Read a file of texts and labels: tables, json lines and json lists (``INPUT_FORMATS``), each also as ``.gz``.

    Rows come as they are read. After a bad row that is not skipped, no more come, but the rest is read to name its bad rows
    too.

    Args:
        path: the file, named in messages.
        is_text_pair: two texts per row.
        labels: the labels a row may have; None takes any.
        columns: see ``Columns``; None expects ``text[, text_b], label`` in this order.
        bad_rows: ``error`` or ``skip``.
        label_needed: False also reads files without a label column.
        stream: read this instead of opening ``path``.
        kind: one of ``INPUT_FORMATS``, or ``text``, a text per line; None goes by the ending of ``path`` and first lines.
        keep_all: for prediction, which loses no row: a blank line, a row with a blank text if no label is needed, and a
            skipped bad row each become a row without texts.
        encoding: of the file; None detects it.
        columns_flag: the flag that sets ``columns``, for messages.
        label_columns: a row may have several of these labels: instead of a label column, the header row may name a column
            of 0 and 1 for each of them, and json lines may hold such keys, or a list.
        check: raises ``UnusableRow`` for a row whose label it rejects.
        at_once: for a source without an end: the first bad row raises, if bad rows are not skipped.

    Raises:
        UserError: the file cannot be read, is empty, has bad rows, or has a header row without --columns.
    """
    if kind is None and stream is None:
        wanted = len(columns.split(",")) if columns else 1 + is_text_pair + label_needed
        kind = find_format(path, encoding, wanted)
    kind = kind or file_format(path)
    bad, blank = BadRows(path, bad_rows, at_once), BlankRows(path)
    place = Columns(path, kind, 2 if is_text_pair else 1, columns, label_needed, labels, columns_flag, label_columns)
    names: dict[str, str] | None = None  # of labels that are indices, known after the first label
    usable = False
    for line, cells in read_cells(path, bad, stream, kind, keep_all, encoding):
        row = Row(line, (), None)
        if cells is None:
            if bad.last != line:
                blank.add(line)
        else:
            try:
                read = place.row(line, cells)
                if read is None:
                    continue
                if keep_all and not label_needed and not all(read.texts):
                    blank.add(line)
                else:
                    if not all(read.texts):
                        raise UnusableRow("an empty text", "fill it in or remove the row")
                    if labels is not None and read.label is not None:
                        if names is None:
                            names = names_by_index(labels)
                            names = names if read.label in names else {}
                        read.label = names.get(read.label, read.label)
                        if read.label not in labels:
                            raise unknown_label(read.label, labels)
                    if check is not None:
                        check(read)
                    row, usable = read, True
            except UnusableRow as error:
                bad.add(line, error.problem, error.remedy)
                if not keep_all:
                    continue
        if not bad.stops:
            yield row
    bad.close()
    if not usable:
        what = " that can be used" if bad.count else "; every row is blank" if blank.count else "; the file is empty"
        raise UserError(f"{path}: no rows in it{what}")
    blank.close()
    if names:
        logger.info(f"{path}: its labels are numbers, read as places in the list of labels, from 0")


def read_rows(path: str | Path, *how: Any, **more: Any) -> list[Row]:
    """All rows of a file; the arguments are those of ``iter_rows``."""
    return list(iter_rows(path, *how, **more))


def names_by_index(labels: list[str]) -> dict[str, str]:
    """What ``0``, ``1``, ... stand for if labels are places in a list of names; empty if any name is a number."""
    return {} if any(label.isdigit() for label in labels) else {str(index): label for index, label in enumerate(labels)}


def unknown_label(label: str, labels: list[str]) -> UnusableRow:
    """What is wrong with a row whose label is not one of the labels."""
    return UnusableRow(
        f"label {label[:30]!r} is not one of the labels", f"known are {_short(labels)}; mend the row, or give a --label_file"
    )


def labels_in(label: str | list[str]) -> list[str]:
    """The labels of a row that may have several, as its file has them: in one cell, or in a list."""
    given = label.split(SEPARATOR) if isinstance(label, str) else label
    return [one.strip() for one in given if one.strip()]


def find_labels(
    path: str | Path, is_text_pair: bool = False, several: bool = False, columns: str | None = None, **reading: str | None
) -> list[str]:
    """The labels of a training set without a label file: those of its rows, sorted, numbers by their value.

    If they are whole numbers, and a ``class.txt`` beside the file, as in THUCNews, names enough classes, they stand for
    the lines of ``class.txt``, from 0. With ``several`` a row has any number of them; if no column of labels is named,
    every column that holds 0 and 1 alone is a label, in the order of the file.

    Args:
        path: the file.
        is_text_pair: two texts per row.
        several: a row has any number of labels.
        columns, reading: as for ``iter_rows``.

    Raises:
        UserError: as ``iter_rows``, or no row has a label.
    """
    if several and (found := _columns_of_labels(path, is_text_pair, columns, **reading)):
        logger.info(f"{path}: {len(found)} columns of 0 and 1, read as labels ({_short(found)}); --label_file names them")
        return found
    rows = iter_rows(path, is_text_pair, columns=columns, **reading, label_columns=[] if several else None)
    counts = Counter(label for row in rows for label in (labels_in(row.label) if several else [row.label]))
    beside = Path(path).parent / "class.txt"
    if not several and beside.is_file() and all(label.isdigit() for label in counts):
        names = read_labels(beside)
        if set(counts) <= set(names_by_index(names)):
            logger.info(f"{path}: its labels are lines of {beside}, from 0; --label_file names another list")
            return names
    if not counts:
        raise UserError(f"{path}: no row has a label; give the labels with --label_file")
    labels = sorted(counts, key=_by_value)
    shown = _short([f"{label[:30]} {counts[label]}" for label in labels])
    logger.info(f"{path}: {len(labels)} labels in it ({shown}); --label_file gives others or another order")
    return labels


def _columns_of_labels(
    path: str | Path,
    is_text_pair: bool,
    columns: str | None,
    kind: str | None = None,
    encoding: str | None = None,
    **_: str | None,
) -> list[str]:
    """The columns of a file with nothing but 0 and 1, beside its texts; none if it has a column of labels, or no names."""
    kind = kind or find_format(path, encoding, 2)
    rows = (cells for _, cells in read_cells(path, BadRows(path, "skip"), kind=kind, encoding=encoding))
    first = next(rows, [])
    header = list(first) if isinstance(first, dict) else [cell.strip() for cell in first]
    texts = 2 if is_text_pair else 1
    named = [name.strip() for name in columns.split(",")] if columns else []
    if not columns and isinstance(first, dict) and not set(header) & set(_LABEL_KEYS):
        named = list(next((keys for keys in JSON_TEXT_KEYS[texts] if set(keys) <= set(header)), ()))
    if len(named) != texts or not set(named) <= set(header):
        return []
    labels = [name for name in header if name and name not in named]
    for cells in [first, *rows] if isinstance(first, dict) else rows:
        cells = cells if isinstance(cells, dict) else dict(zip(header, map(str.strip, cells), strict=False))
        labels = [label for label in labels if str(cells.get(label)) in _FLAGS]
    return labels


def _by_value(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


class Columns:
    """Where a row holds its texts and its label.

    ``--columns`` lists names, separated by commas. If all of them are in the file's first row, that row is a header: a
    name that is a role (``text``, ``text_a``, ``text_b``, ``label``) takes that role, and the others take the remaining
    roles, in order. Otherwise the names are roles, one per position, with ``_`` for a column to skip. For json they are
    keys. ``...`` after the last name ignores further columns, in all rows or in some. If no label is needed, its column
    may be missing from the file. With ``label_columns`` the names may leave out the label: each of these labels then has
    a column of 0 and 1.
    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        texts: int,
        columns: str | None,
        label_needed: bool,
        labels: list[str] | None,
        flag: str,
        label_columns: list[str] | None = None,
    ):
        self.path, self.kind, self.label_needed, self.flag = path, kind, label_needed, flag
        self.labels, self.label_columns = labels, label_columns
        self.has_label_columns = False  # once known: whether each label has a column
        self.text_roles = TEXT_ROLES[texts]
        self.names = [name.strip() for name in columns.split(",")] if columns else None
        self.open_ended = self.names is not None and self.names[-1] == "..."
        if self.open_ended:
            self.names.pop()
        if self.names is not None and label_columns is not None:
            self.names = self._without_label_columns(self.names)
        self.width: int | None = None  # columns of every row, once known
        self.places: dict[str, int | str] | None = None  # role -> position or key
        self.by_name: dict[str, str] = {}  # role -> name
        if self.names is not None:
            named = [name for name in self.names if name != "_"]
            twice = next((name for name in named if named.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"{self.flag} {columns}: {twice!r} appears twice; name each column once")
            self.by_name = self._by_name(named)
        if self.names is not None and kind in OBJECT_FORMATS:
            self.places = self.by_name
        if kind == "text":
            if texts > 1 or columns or label_needed:
                raise UserError(f"{path}: read as a text per line, it has neither pairs, labels nor columns")
            self.places, self.width = {"text": 0}, 1

    def row(self, line: int, cells: list[str] | dict[str, object]) -> Row | None:
        """The row with its cells in their roles; None for the header row.

        Raises:
            UnusableRow: its columns are not those that the file should have.
            UserError: the whole file does not match the flags.
        """
        if isinstance(cells, dict):
            return self._json_row(line, cells)
        if self.places is None and self._place(line, cells):
            return None
        if len(cells) != self.width and not (self.open_ended and len(cells) > self.width):
            raise UnusableRow(*self._other_width(len(cells)))
        texts = tuple(cells[self.places[role]].strip() for role in self.text_roles)
        label = cells[self.places["label"]].strip() if "label" in self.places else None
        if self.has_label_columns:
            label = self._given({name: cells[self.places[name]].strip() for name in self.label_columns})
        return Row(line, texts, label)

    def _place(self, line: int, cells: list[str]) -> bool:
        """Set the columns from the first row; True if that is a header."""
        stripped = [cell.strip() for cell in cells]
        if self.names is None:
            self._refuse_header(line, stripped)
            roles = [*self.text_roles, "label"]
            if not self.label_needed and len(cells) == len(self.text_roles):
                roles.pop()
            self.places, self.width = {role: place for place, role in enumerate(roles)}, len(roles)
            return False
        found = {role: stripped.index(name) for role, name in self.by_name.items() if name in stripped}
        if all(role in found for role in self.by_name if role != "label" or self.label_needed):
            if self.label_columns is not None and "label" not in self.by_name:
                absent = [name for name in self.label_columns if name not in stripped]
                if absent and self.label_needed:
                    raise UserError(
                        f"{self.path}:{line}: no column {absent[0]!r} in the first row ({_short(stripped)}); "
                        f"name the label column with {self.flag}, or give each label a column of 0 and 1"
                    )
                self.has_label_columns = not absent
                found.update({name: stripped.index(name) for name in self.label_columns if not absent})
            self.places, self.width = found, len(cells)
            return True
        if any(name not in _ROLES for name in self.names):
            absent = next(name for name in self.by_name.values() if name not in stripped)
            raise UserError(
                f"{self.path}:{line}: no column {absent!r} in the first row ({_short(stripped)}); {self.flag} takes names "
                "of the header row, or, for a file without one, the role of each position: text, text_a, text_b, label, _"
            )
        wanted = [*self.text_roles, *(["label"] if self.label_needed else [])]
        missing = [role for role in wanted if role not in self.names]
        if missing:
            raise UserError(
                f"{self.flag} {','.join(self.names)}: {missing[0]!r} is missing; {self.path} needs {_short(wanted)}"
            )
        self._refuse_header(line, stripped)
        names = self.names
        if not self.label_needed and len(cells) == len(names) - 1:
            names = [name for name in names if name != "label"]
        self.places = {role: names.index(role) for role in (*self.text_roles, "label") if role in names}
        self.width = len(names)
        return False

    def _by_name(self, names: list[str]) -> dict[str, str]:
        roles = [*self.text_roles, "label"]
        by_name = {name: name for name in names if name in roles}
        left = [role for role in roles if role not in by_name]
        others = [name for name in names if name not in by_name]
        if len(others) > len(left):
            raise UserError(f"{self.flag} {','.join(names)}: {len(names)} names for {_short(roles)}; name these only")
        by_name.update(zip(left, others, strict=False))
        without = self.label_columns is not None or not self.label_needed
        missing = [role for role in roles if role not in by_name and not (role == "label" and without)]
        if missing:
            raise UserError(f"{self.flag} {','.join(names)}: the column of {missing[0]!r} is not named")
        return by_name

    def _without_label_columns(self, names: list[str]) -> list[str]:
        """The names of ``--columns`` that are not labels; naming only some of the labels is an error."""
        absent = [name for name in self.label_columns if name not in names]
        if absent and len(absent) < len(self.label_columns):
            raise UserError(f"{self.flag} {','.join(names)}: the column of label {absent[0]!r} is not named")
        return [name for name in names if name not in self.label_columns]

    def _given(self, cells: dict[str, object]) -> list[str]:
        """The labels whose cell is 1."""
        other = next((name for name, cell in cells.items() if str(cell) not in _FLAGS), None)
        if other is not None:
            raise UnusableRow(f"{str(cells[other])[:30]!r} in the column of label {other!r}", "write 0 or 1")
        return [name for name, cell in cells.items() if _FLAGS[str(cell)]]

    def _refuse_header(self, line: int, cells: list[str]) -> None:
        lowered = [cell.lower() for cell in cells]
        is_label = self.labels is not None and any(cell in self.labels for cell in cells)
        wanted = len(self.text_roles)
        is_wide = len(cells) > wanted + 1 and sum(word in _TEXT_WORDS for word in lowered) >= wanted
        if is_label or not (is_wide or all(word in HEADER_WORDS for word in lowered)):
            return
        texts = list(dict.fromkeys(cell for cell in cells if cell.lower() in _TEXT_WORDS))
        label = [cell for cell in cells if cell.lower() in _LABEL_WORDS][:1]
        remedy = f"say which columns to read with {self.flag}"
        if len(texts) >= wanted and (label or not self.label_needed):
            remedy += f' "{",".join(texts[:wanted] + label)}"'
            if wanted == 1 and len(texts) > 1:
                remedy += f', or for text pairs with --is_text_pair {self.flag} "{",".join(texts[:2] + label)}"'
        raise UserError(f"{self.path}:{line}: this looks like a header row ({_short(cells)}); {remedy}")

    def _other_width(self, found: int) -> tuple[str, str]:
        separator = TABLES.get(self.kind, "|")
        roles = " ".join(
            f"{role} {separator}" for role in (*self.text_roles, *(["label"] if "label" in self.places else []))
        )
        problem = f"{found} column{'s' if found != 1 else ''} where {self.width} are expected"
        if self.names is None:
            problem += f" ({roles.removesuffix(separator).strip()})"
        if self.names is None and found == 3 and self.width == 2 and len(self.text_roles) == 1:
            return problem, f"for text pairs add --is_text_pair, for other columns use {self.flag}"
        return problem, f"mend the row, or name the columns with {self.flag}"

    def _json_row(self, line: int, cells: dict[str, object]) -> Row:
        if self.places is None:
            keys = next((keys for keys in JSON_TEXT_KEYS[len(self.text_roles)] if all(key in cells for key in keys)), None)
            if keys is None:
                wanted = " or ".join("+".join(keys) for keys in JSON_TEXT_KEYS[len(self.text_roles)])
                raise UnusableRow(
                    f"no key for the text ({wanted})", f"found {_short(list(cells))}; name the keys with {self.flag}"
                )
            label = next((key for key in _LABEL_KEYS if key in cells), _LABEL_KEYS[0])
            self.places = {**dict(zip(self.text_roles, keys, strict=True)), "label": label}
        texts = []
        for role in self.text_roles:
            value = cells.get(self.places[role])
            if value is None and self.kind in BINARY_FORMATS and self.places[role] in cells:
                value = ""  # an empty cell
            if not isinstance(value, str):
                raise UnusableRow(f"no text under key {self.places[role]!r}", "write a string there")
            texts.append(value.strip())
        key = self.places.get("label", "label")
        if self.label_columns is not None and key not in cells and all(name in cells for name in self.label_columns):
            return Row(line, tuple(texts), self._given({name: cells[name] for name in self.label_columns}))
        label = cells.get(key) if "label" in self.places else None
        if self.label_columns is not None and isinstance(label, list):
            if not all(isinstance(one, str) for one in label):
                raise UnusableRow("the labels are not strings", "write a list of strings")
            return Row(line, tuple(texts), [one.strip() for one in label])
        if isinstance(label, list):  # doccano's and Label Studio's
            if len(label) != 1 and (label or self.label_needed):
                raise UnusableRow(f"{len(label)} labels where one is expected", "--target labels takes any number")
            label = label[0] if label else None
        if label is None and self.label_needed:
            raise UnusableRow(f"no label under key {key!r}", f"add it, or name the key with {self.flag}")
        if isinstance(label, bool) or (label is not None and not isinstance(label, str | int | float)):
            raise UnusableRow(f"the label is {type(label).__name__}", "write a string or a number")
        return Row(line, tuple(texts), None if label is None else str(label).strip())


def _short(items: Iterable[str], most: int = 8) -> str:
    items = list(items)
    return ", ".join(item[:30] for item in items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
