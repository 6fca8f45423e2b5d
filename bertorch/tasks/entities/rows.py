"""Texts and their entities: json lines of characters and tags, json lines with character spans, and column files."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from loguru import logger

from bertorch.data.files import (
    OBJECT_FORMATS,
    BadRows,
    BlankRows,
    file_format,
    find_format,
    read_cells,
    read_lines,
)
from bertorch.data.rows import HEADER_WORDS
from bertorch.errors import UnusableRow, UserError
from bertorch.tasks.entities.tags import Span, count_repairs, lenient_spans, parse_tag

ENTITY_FORMATS = ("text", "columns", *OBJECT_FORMATS)
UNITS = ("character", "word")
_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|\S")
# Cells that mark the header row of a column file, in lower case.
_HEADER_WORDS = {
    *HEADER_WORDS, "token", "tokens", "word", "words", "form", "char", "chars", "character", "characters", "tag", "tags",
    "ner", "ner_tag", "ner_tags", "bio", "entity", "entities", "pos", "pos_tag", "chunk", "lemma", "sentence #", "字", "词",
    "字符", "词性", "实体", "标记", "标注",
}  # fmt: skip
_TOKEN_KEYS = ("text", "tokens", "words")
_TAG_KEYS = ("label", "labels", "tags", "ner_tags")


@dataclass
class Document:
    """A text and its entities.

    Attributes:
        line: where it starts in its file, from 1.
        text: the text, or the file's characters or words joined, words by spaces. None for a bad row, or for a blank line
            of json lines, that prediction keeps.
        units: the characters or words that the file lists, as (start, end) in ``text``; None for plain text.
        entities: type, start and end (exclusive) in characters of ``text``; None if the file has no labels.
    """

    line: int
    text: str | None
    units: list[tuple[int, int]] | None = None
    entities: list[Span] | None = None


def iter_documents(
    path: str | Path,
    types: list[str] | None,
    bad_rows: str = "error",
    label_needed: bool = True,
    stream: BinaryIO | None = None,
    kind: str | None = None,
    keep_all: bool = False,
    encoding: str | None = None,
    at_once: bool = False,
) -> Iterator[Document]:
    """Read texts with entities; they come as they are read, and none after a bad row that is not skipped.

    - json lines (``.json``, ``.jsonl``): ``{"text": ["小", "明"], "label": ["B-PER", "I-PER"]}``; ``{"text": "小明",
      "entities": [[0, 2, "PER"]]}``, end exclusive, also ``{"start": 0, "end": 2, "type": "PER"}`` or doccano's
      ``start_offset``, ``end_offset`` and ``label``; and CLUENER's
      ``{"text": …, "label": {"name": {"小明": [[0, 1]]}}}``, end inclusive.
      A list of such objects (``json``), or objects that span several lines, are read too.
    - parquet and arrow, with the same columns as the keys of json.
    - column files (any other ending): a token and its tag per line, a blank line between texts; or a text per line, tokens
      and tags separated by a TAB. If there are more columns, the first and the last count. A header row is skipped.
      The first sheet of xlsx is read like this too.
    - plain text (``kind`` text), a text per line.

    Tags may be of any scheme. They are read as conlleval reads them, so an I- that continues nothing begins an entity; a
    warning says how many did. All files may end in ``.gz``.

    Args:
        path: the file, and its name in messages.
        types: the allowed entity types; None allows any.
        bad_rows: ``error`` or ``skip``.
        label_needed: False also reads texts without labels.
        stream: read this instead of opening ``path``.
        kind: one of ``ENTITY_FORMATS``; None decides by the ending of ``path``.
        keep_all: for prediction, which keeps every row: blank texts stay if no labels are needed; skipped bad rows and
            blank lines of json lines become Documents without text.
        encoding: the file's encoding; None detects it.
        at_once: for a source without an end: the first bad row raises, if bad rows are not skipped.

    Raises:
        UserError: the file cannot be read, is empty, or has bad rows.
    """
    if kind is None:
        kind = find_format(path, encoding) if stream is None and file_format(path) == "jsonl" else file_format(path)
        kind = kind if kind in OBJECT_FORMATS else "columns"
    bad, blank = BadRows(path, bad_rows, at_once), BlankRows(path)
    read: Callable[..., Iterator[Document]] = {
        "columns": _column_rows,
        "text": _text_rows,
        **{one: partial(_object_rows, kind=one) for one in OBJECT_FORMATS},
    }[kind]
    repaired: list[tuple[int, int]] = []  # line of a text, and its tags that continue nothing
    relations = 0
    usable = False
    for line, content in read(path, stream, encoding, bad, label_needed):
        document = Document(line, None)
        try:
            if content is None:
                if kind in OBJECT_FORMATS and bad.last != line:
                    blank.add(line)
                raise UnusableRow("", "")  # already noted, or blank
            if isinstance(content, dict) and isinstance(content.get("relations"), list):
                relations += len(content["relations"])
            made = _document(line, content, types, label_needed, repaired)
            if not made.text.strip():
                if label_needed or not keep_all:
                    raise UnusableRow("an empty text", "fill it in or remove it")
                blank.add(line)
            document, usable = made, usable or bool(made.text.strip())
        except UnusableRow as error:
            if error.problem:
                bad.add(line, error.problem, error.remedy)
            if not keep_all:
                continue
        if not bad.stops:
            yield document
    bad.close()
    if not usable:
        raise UserError(f"{path}: no texts in it" + (" that can be used" if bad.count else "; the file is empty"))
    if keep_all:
        blank.close()
    if relations:
        logger.info(f"{path}: {relations} relations between entities, left out")
    if repaired:
        count = sum(number for _, number in repaired)
        shown = ", ".join(str(line) for line, _ in repaired[:5]) + (" and more" if len(repaired) > 5 else "")
        logger.warning(
            f"{path}: {count} tags continue no entity, as I- after O (texts at line {shown}); each is read as the"
            " beginning of one"
        )


def read_documents(path: str | Path, types: list[str] | None, *how: Any, **more: Any) -> list[Document]:
    """All texts of a file; the arguments are those of ``iter_documents``."""
    return list(iter_documents(path, types, *how, **more))


def find_types(path: str | Path, **reading: str | None) -> list[str]:
    """The entity types of a training set without a label file, sorted.

    Args:
        path: the file.
        reading: as for ``iter_documents``.

    Raises:
        UserError: as ``iter_documents``, or the file has no entity.
    """
    counts = Counter(kind for document in iter_documents(path, None, **reading) for kind, _, _ in document.entities)
    types = sorted(counts)
    if not types:
        raise UserError(f"{path}: no entity in it; give the types or tags with --label_file")
    shown = ", ".join(f"{kind} {counts[kind]}" for kind in types)[:120]
    logger.info(f"{path}: {len(types)} entity types in it ({shown}); --label_file gives others")
    return types


@dataclass
class _Tokens:
    """Tokens and tags as a file lists them; tags are None if it has none."""

    tokens: list[str]
    tags: list[str] | None


def _text_rows(
    path: str | Path, stream: BinaryIO | None, encoding: str | None, bad: BadRows, label_needed: bool
) -> Iterator[tuple[int, str]]:
    return read_lines(path, stream, encoding)


def _object_rows(
    path: str | Path, stream: BinaryIO | None, encoding: str | None, bad: BadRows, label_needed: bool, kind: str
) -> Iterator[tuple[int, dict[str, object] | None]]:
    return read_cells(path, bad, stream, kind, keep_all=True, encoding=encoding)


def _column_rows(
    path: str | Path, stream: BinaryIO | None, encoding: str | None, bad: BadRows, label_needed: bool
) -> Iterator[tuple[int, _Tokens | None]]:
    """Texts of a column file. A line that cannot be read makes its whole text unusable: (line, None)."""
    first, tokens, tags, spoiled = 0, [], [], False
    begun = text_a_line = False
    for number, line in read_lines(path, stream, encoding):
        line = line.rstrip()
        if not line or line.startswith("-DOCSTART-"):
            if tokens or spoiled:
                yield first, None if spoiled else _tokens(tokens, tags)
            tokens, tags, spoiled = [], [], False
            continue
        cells = line.split("\t" if "\t" in line else " ")
        if not begun and _is_header(cells):
            logger.warning(f"{path}:{number}: skipped a header row ({', '.join(filter(None, cells))})")
            begun = True
            continue
        if not text_a_line and "\t" in line and len(cells) == 2 and len(_listed(cells[1])) > 1:
            # The first line decides, or a later one that fits no other layout: until then each was a text of one token.
            text_a_line = not begun or None not in map(parse_tag, _listed(cells[1]))
            if text_a_line and spoiled:
                yield first, None
            elif text_a_line:
                yield from ((first + place, _tokens([tokens[place]], [tags[place]])) for place in range(len(tokens)))
            tokens, tags, spoiled = ([], [], False) if text_a_line else (tokens, tags, spoiled)
        begun = True
        if text_a_line and "\t" in line:
            yield number, _Tokens(_listed(cells[0]), _listed(cells[-1]))
            continue
        if not tokens and not spoiled:
            first = number
        if text_a_line:
            bad.add(number, "no TAB", "write tokens, TAB, tags, as in the other lines")
            yield number, None
        elif len(cells) < 2 and label_needed:
            bad.add(number, "no tag", "write token, space or TAB, tag; a blank line between texts")
            spoiled = True
        else:
            tokens.append(cells[0] or " ")  # a token that is itself the separator
            tags.append(cells[-1] if len(cells) > 1 else None)
    if tokens or spoiled:
        yield first, None if spoiled else _tokens(tokens, tags)


def _listed(cell: str) -> list[str]:
    """The tokens or tags of a cell, which blanks divide, or the character U+0002, as in PaddleNLP's MSRA."""
    return cell.split("\x02") if "\x02" in cell else [part for part in cell.split(" ") if part]


def _is_header(cells: list[str]) -> bool:
    names = [cell.strip().lower() for cell in cells if cell.strip()]
    return len(names) > 1 and parse_tag(cells[-1]) is None and all(name in _HEADER_WORDS for name in names)


def _tokens(tokens: list[str], tags: list[str | None]) -> _Tokens:
    return _Tokens(tokens, None if None in tags else tags)


def _document(
    line: int,
    content: str | dict[str, object] | _Tokens,
    types: list[str] | None,
    label_needed: bool,
    repaired: list[tuple[int, int]],
) -> Document:
    if isinstance(content, str):
        return Document(line, content)
    if isinstance(content, dict):
        text = next((content[key] for key in _TOKEN_KEYS if key in content), None)
        given = next((content[key] for key in ("entities", *_TAG_KEYS) if key in content), None)
        if given is None and label_needed:
            raise UnusableRow("no labels (key entities or label)", "add them: a list, empty where the text has no entity")
        if isinstance(text, str) and isinstance(given, list) and given and all(isinstance(tag, str) for tag in given):
            text = list(text)  # one tag per character
        if isinstance(text, str):
            entities = None if given is None else _character_spans(text, given, types)
            return Document(line, text, entities=entities)
        if not isinstance(text, list):
            raise UnusableRow("no text (key text)", "write a string, or a list of characters or words, there")
        content = _Tokens(text, given)
    return _tagged(line, content, types, repaired)


def _tagged(line: int, content: _Tokens, types: list[str] | None, repaired: list[tuple[int, int]]) -> Document:
    """Build the document of tokens and tags."""
    tokens, tags = content.tokens, content.tags
    odd = [token for token in tokens if not isinstance(token, str) or not token]
    if odd:
        raise UnusableRow(f"{repr(odd[0])[:40]} in the list of tokens", "write strings of one character or more")
    separator = " " if any(len(token) > 1 for token in tokens) else ""
    units, place = [], 0
    for token in tokens:
        units.append((place, place + len(token)))
        place += len(token) + len(separator)
    text = separator.join(tokens)
    if tags is None:
        return Document(line, text, units)
    if not isinstance(tags, list) or len(tags) != len(tokens):
        found = len(tags) if isinstance(tags, list) else "no list of"
        raise UnusableRow(f"{len(tokens)} tokens and {found} tags", "write one tag for each token")
    parsed = []
    for tag in tags:
        one = parse_tag(tag) if isinstance(tag, str) else None
        if one is None:
            raise UnusableRow(f"{str(tag)[:30]!r} is not a tag", "write O, or a letter and a type, such as B-PER")
        _check_type(one[1] if tag != "O" else None, types, tag)
        parsed.append(one)
    if repairs := count_repairs(parsed):
        repaired.append((line, repairs))
    return Document(
        line, text, units, [(kind, units[start][0], units[end - 1][1]) for kind, start, end in lenient_spans(parsed)]
    )


def _check_type(kind: str | None, types: list[str] | None, shown: str) -> None:
    if kind is not None and types is not None and kind not in types:
        remedy = f"known are {', '.join(types)[:80]}; mend the row, or give a --label_file"
        raise UnusableRow(f"entity type of {shown[:30]!r} is not one of the types", remedy)


def _character_spans(text: str, given: object, types: list[str] | None) -> list[Span]:
    """Entities of a plain text: a list of spans, or CLUENER's table."""
    if isinstance(given, dict):
        found = [(kind, surface, place) for kind, named in given.items() for surface, place in _cluener_places(named)]
        spans = [(kind, place[0], place[1] + 1, surface) for kind, surface, place in found]
    elif isinstance(given, list):
        spans = [(*_listed_span(one), None) for one in given]
    else:
        raise UnusableRow(f"the entities are {type(given).__name__}", "write a list: [[start, end, type], ...]")
    for kind, start, end, surface in spans:
        if not 0 <= start < end <= len(text):
            shown = f"{kind} at {start} to {end}" + (" (end inclusive in this layout)" if surface is not None else "")
            raise UnusableRow(f"{shown} lies outside the text of {len(text)} characters", "count in characters from 0")
        if surface is not None and text[start:end] != surface:
            raise UnusableRow(
                f"{surface[:20]!r} should be at {start}, but {text[start:end][:20]!r} is there", "correct the position"
            )
        _check_type(kind, types, kind)
    return list(dict.fromkeys((kind, start, end) for kind, start, end, _ in spans))


def _cluener_places(named: object) -> Iterator[tuple[str, list[int]]]:
    for surface, places in named.items() if isinstance(named, dict) else [("", None)]:
        for place in places if isinstance(places, list) else [places]:
            if not isinstance(place, list) or len(place) != 2 or not all(type(one) is int for one in place):
                raise UnusableRow(
                    f"{str(place)[:30]} is not a position of {surface[:20]!r}", 'write {"type": {"text": [[first, last]]}}'
                )
            yield surface, place


def _listed_span(one: object) -> Span:
    if isinstance(one, dict):
        places = [one.get(key, one.get(f"{key}_offset")) for key in ("start", "end")]  # start_offset: doccano
        one = [*places, one.get("type", one.get("label"))]
    if not isinstance(one, list) or len(one) < 3 or [type(part) for part in one[:3]] != [int, int, str] or not one[2]:
        raise UnusableRow(f"{str(one)[:40]} is not an entity", 'write [start, end, "type"], or keys start, end and type')
    return one[2], one[0], one[1]


def split_units(text: str, unit: str) -> list[tuple[int, int]]:
    """The units of a plain text as (start, end).

    Args:
        text: any text.
        unit: ``character`` takes every character, blanks included; ``word`` takes each CJK character, each run of other
            letters and digits, and each other sign, as BERT's tokenizer does before it looks up words.
    """
    if unit == "character":
        return [(place, place + 1) for place in range(len(text))]
    return [match.span() for match in _WORD.finditer(text)]
