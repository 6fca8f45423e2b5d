"""Lines, rows and their numbers: plain or gzipped text, tab-separated, csv, json, json lines, and what tables.py reads."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from loguru import logger

from bertorch.data.encodings import decoded_lines, say_once
from bertorch.data.exports import plain_row
from bertorch.data.tables import BINARY_FORMATS, binary_format, read_objects, read_sheet
from bertorch.errors import UnusableRow, UserError

# tsv: a TAB between cells, which are taken literally; csv, ssv: commas or semicolons, with quotes; json: one list, or
# objects over several lines.
TABLES = {"tsv": "TAB", "csv": "comma", "ssv": "semicolon"}
OBJECT_FORMATS = ("jsonl", "json", "parquet", "arrow")  # a row is a dict
INPUT_FORMATS = (*TABLES, *OBJECT_FORMATS, "xlsx")
TEXT_KEYS = ("text", "sentence", "content")  # of the column with the text, where nothing names it
_SEPARATORS = {"csv": ",", "ssv": ";"}
_HEAD = 50  # lines that the format is detected from
_BETWEEN_VALUES = re.compile(r"[\s,\[\]]*")
_SHOWN = 10
_LONGEST_CELL = 2**31 - 1  # of a csv file; the csv module's default limit is 131,072 characters
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # as json may escape one


@dataclass
class BadRows:
    """Collects rows that cannot be used: ``error`` stops, ``skip`` leaves them out and logs how many.

    Use one per file: ``add`` each bad row, ``close`` at the end. With ``at_once``, for a source without an end, the first
    bad row stops.
    """

    path: str | Path
    policy: str = "error"
    at_once: bool = False
    messages: list[str] = field(default_factory=list)
    count: int = 0
    last: int = 0  # the line of the latest bad row

    def add(self, line: int, problem: str, remedy: str) -> None:
        self.count, self.last = self.count + 1, line
        if len(self.messages) < _SHOWN:
            self.messages.append(f"{self.path}:{line}: {problem}; {remedy}")
        if self.at_once and self.stops:
            self.close()

    @property
    def stops(self) -> bool:
        """Whether there is a bad row that is not to be skipped."""
        return self.count > 0 and self.policy == "error"

    def close(self) -> None:
        """Raises UserError with the first ten bad rows and the total, or logs them if they are skipped."""
        if not self.count:
            return
        more = f"\n... and {self.count - len(self.messages)} more" if self.count > len(self.messages) else ""
        rows = "1 bad row" if self.count == 1 else f"{self.count} bad rows"
        listed = "\n".join(self.messages) + more
        if self.policy == "error":
            raise UserError(f"{listed}\n{self.path}: {rows}; correct them, or leave them out with --bad_rows skip")
        logger.warning(f"{self.path}: {rows} left out (--bad_rows skip):\n{listed}")


@dataclass
class BlankRows:
    """Counts rows that have no text to predict from."""

    path: str | Path
    count: int = 0
    first: int = 0  # its line

    def add(self, line: int) -> None:
        self.first = self.first or line
        self.count += 1

    def close(self) -> None:
        """Log how many there are."""
        if self.count == 1:
            logger.warning(f"{self.path}: a blank row (line {self.first}) keeps its place, with an empty answer")
        elif self.count:
            what = f"{self.count} blank rows (the first in line {self.first})"
            logger.warning(f"{self.path}: {what} keep their places, with empty answers")


def read_lines(path: str | Path, stream: BinaryIO | None = None, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    r"""``(line number from 1, text without its line end)`` of a file, plain or ``.gz``, or of a binary stream.

    Only ``\n`` ends a line: texts may hold U+2028 and the like. A byte order mark and a ``\r`` before the end are removed.
    A row of an xlsx file gives a line with TABs between its cells. A row of parquet or arrow gives the lines of its text
    (``TEXT_KEYS``, or the only column), and a blank one after several; their number is that of the row.

    Args:
        path: the file, or a directory of ``tables.py``; named in messages.
        stream: read this instead of opening ``path``.
        encoding: see ``decoded_lines``; None detects it.

    Raises:
        UserError: no such file, a line that is not in this encoding, or a damaged gzip file.
    """
    kind = None if stream else binary_format(path)
    if kind is not None:
        yield from _lines_of_rows(path, kind)
        return
    number = 0
    try:
        with stream or open_binary(path) as handle:
            for number, text in decoded_lines(path, handle, encoding):
                yield number, text.removesuffix("\n").removesuffix("\r")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip file after line {number} ({error})") from None


def _lines_of_rows(path: str | Path, kind: str) -> Iterator[tuple[int, str]]:
    if kind == "xlsx":
        yield from ((number, "\t".join(" ".join(cell.split()) for cell in cells)) for number, cells in read_sheet(path))
        return
    for number, row in read_objects(path, kind):
        key = next((key for key in TEXT_KEYS if key in row), next(iter(row)) if len(row) == 1 else None)
        if key is None:
            raise UserError(f"{path}: no column {' or '.join(TEXT_KEYS)}, but {', '.join(row)[:80]}; rename one")
        lines = str(row[key] or "").split("\n")
        yield from ((number, line.removesuffix("\r")) for line in (*lines, "")[: len(lines) + (len(lines) > 1)])


def open_binary(path: str | Path, unpack: bool = True) -> BinaryIO:
    """Open a plain or gzipped file to read bytes; ``unpack=False`` gives a gzipped file's bytes as they are on disk.

    Raises:
        UserError: no such file, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: this is a directory, not a file; name a file")
    try:
        return gzip.open(path, "rb") if unpack and path.suffix.lower() == ".gz" else open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def file_format(path: str | Path) -> str:
    """``csv``, ``jsonl``, ``tsv`` or one of ``BINARY_FORMATS``, by the file's ending, ignoring ``.gz``."""
    if kind := binary_format(path):
        return kind
    name = str(path).lower().removesuffix(".gz")
    if name.endswith(".csv"):
        return "csv"
    return "jsonl" if name.endswith((".jsonl", ".json")) else "tsv"


def find_format(path: str | Path, encoding: str | None = None, columns: int = 1) -> str:
    """One of ``INPUT_FORMATS``, by the file's ending and its first lines; logged if it differs from the ending.

    Args:
        path: the file.
        encoding: of the file; None detects it.
        columns: the least that a row may have. In a .tsv or .txt of one column, one text per line, a comma is only a comma.

    Raises:
        UserError: the file cannot be read.
    """
    kind = by_ending = file_format(path)
    if kind in BINARY_FORMATS:
        return kind
    head = [text for _, text in islice(read_lines(path, encoding=encoding), _HEAD)]
    filled = [text for text in head if text.strip()]
    if not filled:
        return kind
    if kind == "jsonl":
        whole = not str(path).lower().removesuffix(".gz").endswith(".jsonl")
        return "json" if whole and (filled[0].lstrip()[0] == "[" or filled[0].strip() == "{") else "jsonl"
    with_tabs = sum("\t" in text for text in filled)
    if kind == "csv" and with_tabs == len(filled):
        kind = "tsv"
    elif kind == "csv" or (not with_tabs and columns > 1):
        fitting = [one for one in _SEPARATORS if _is_table(head, _SEPARATORS[one], max(columns, 2))]
        kind = fitting[0] if fitting else kind
    if kind != by_ending:
        say_once(f"{path}: read with a {TABLES[kind]} between columns; --input_format names another format")
    return kind


def _is_table(head: list[str], separator: str, columns: int) -> bool:
    """Whether these lines are rows with the same number of columns, at least ``columns``."""
    try:
        rows = list(csv.reader((text + "\n" for text in head), delimiter=separator))
    except csv.Error:
        return False
    rows = rows[:-1] if len(head) == _HEAD else rows  # the last may be incomplete
    widths = {len(row) for row in rows if any(cell.strip() for cell in row)}
    return len(widths) == 1 and min(widths) >= columns


def read_cells(
    path: str | Path,
    bad: BadRows,
    stream: BinaryIO | None = None,
    kind: str | None = None,
    keep_all: bool = False,
    encoding: str | None = None,
) -> Iterator[tuple[int, list[str] | dict[str, object] | None]]:
    """``(line or row number, cells)`` of each row: a list for tables, a dict for ``OBJECT_FORMATS``.

    Tab-separated cells are taken literally, quotes included; csv follows RFC 4180 (quotes, line breaks in cells); a line of
    ``text`` is one cell, TABs included.
    Blank lines, rows of empty cells and lines that are not JSON are left out; with ``keep_all``, for callers that may lose
    no row, None takes their places.
    """
    kind = kind or file_format(path)
    if kind == "xlsx":
        rows = ((number, cells if any(map(str.strip, cells)) else None) for number, cells in read_sheet(path, stream))
        yield from (row for row in rows if keep_all or row[1] is not None)
        return
    if kind in BINARY_FORMATS:
        yield from read_objects(path, kind, stream)
        return
    lines = read_lines(path, stream, encoding)
    if kind in _SEPARATORS:
        yield from _read_csv(path, lines, keep_all, _SEPARATORS[kind])
        return
    if kind == "json":
        yield from _read_json(path, lines, bad, keep_all)
        return
    for number, text in lines:
        row = None
        if text.strip():
            row = [text] if kind == "text" else text.split("\t") if kind == "tsv" else _json_object(number, text, bad)
        if row is not None or keep_all:
            yield number, row


def _json_object(number: int, text: str, bad: BadRows) -> dict[str, object] | None:
    """The object on a line; None, with a bad row added, if there is none."""
    try:
        return _usable(number, json.loads(text), text, bad)
    except json.JSONDecodeError as error:
        bad.add(number, f"not JSON ({error.msg})", "write one JSON object per line")
        return None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"
        bad.add(number, f"not readable as JSON ({reason})", "write one JSON object per line")
        return None


def _read_json(
    path: str | Path, lines: Iterator[tuple[int, str]], bad: BadRows, keep_all: bool
) -> Iterator[tuple[int, dict[str, object] | None]]:
    """The objects of a list, or one after another, each over any number of lines; read one at a time."""
    decoder = json.JSONDecoder()
    waiting: list[str] = []
    first = 1  # the line where the text in ``waiting`` begins
    for _, more in chain(lines, [(0, None)]):
        if more is not None:
            waiting.append(more)
            if not more.rstrip(", \t\r").endswith(("}", "]")):
                continue
        text, line, counted, place = "\n".join(waiting), first, 0, 0
        while (begin := _BETWEEN_VALUES.match(text, place).end()) < len(text):
            line, counted = line + text.count("\n", counted, begin), begin
            try:
                value, place = decoder.raw_decode(text, begin)
            except json.JSONDecodeError as error:
                if more is not None and error.pos >= len(text.rstrip()):
                    break  # it continues on the next line
                at = line + text.count("\n", counted, error.pos)
                raise UserError(f"{path}:{at}: not JSON ({error.msg}); write a list of objects") from None
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"
                raise UserError(f"{path}:{line}: not readable as JSON ({reason})") from None
            row = _usable(line, value, text[begin:place], bad)
            if row is not None or keep_all:
                yield line, row
        waiting, first = [text[place:]], first + text.count("\n", 0, place)


def _usable(number: int, row: object, text: str, bad: BadRows) -> dict[str, object] | None:
    """The value of a JSON text if it is an object that can be written again; otherwise None, with a bad row added."""
    try:
        if _SURROGATE.search(text):
            json.dumps(row, ensure_ascii=False).encode()  # fails on half a surrogate pair, which no text can hold
    except UnicodeEncodeError:
        bad.add(number, "an escape such as \\ud83d is half a character", "write both halves, or the character itself")
        return None
    if not isinstance(row, dict):
        bad.add(number, "not a JSON object", 'write one object per line, such as {"text": "...", "label": "..."}')
        return None
    try:
        return plain_row(row)
    except UnusableRow as error:
        bad.add(number, error.problem, error.remedy)
        return None


def _read_csv(
    path: str | Path, lines: Iterator[tuple[int, str]], keep_all: bool, separator: str
) -> Iterator[tuple[int, list[str] | None]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader((text + "\n" for _, text in lines), delimiter=separator, strict=True)
    first = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{first}: not readable as csv ({error}); is a quote left open?") from None
        row = cells if any(cell.strip() for cell in cells) else None
        if row is not None or keep_all:
            yield first, row
        first = reader.line_num + 1


def read_labels(path: str | Path) -> list[str]:
    """The labels of a label file, one per line, in file order; the place in the list is the label's id.

    Raises:
        UserError: no such file, no label in it, or a label appears twice.
    """
    labels: list[str] = []
    for number, text in read_lines(path):
        label = text.strip()
        if not label:
            continue
        if label in labels:
            raise UserError(f"{path}:{number}: label {label!r} appears twice; keep one")
        labels.append(label)
    if not labels:
        raise UserError(f"{path}: no label in it; write one label per line")
    return labels


def as_stream(data: bytes) -> BinaryIO:
    """Bytes already read (standard input), in the form ``read_lines`` takes."""
    return io.BytesIO(data)
