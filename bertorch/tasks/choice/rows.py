"""Read questions with options, in the layouts of RACE, C3, DREAM, ChID and SWAG and in tables, and pack their sequences."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from bertorch.data.batching import MovableBatch, pack
from bertorch.data.files import BadRows, BlankRows, find_format, read_cells, read_lines
from bertorch.data.tables import BINARY_FORMATS, files_of
from bertorch.data.tokenizing import Samples, TextTokenizer
from bertorch.encoder import TokenBatch
from bertorch.errors import UnusableRow, UserError

_CONTEXT_KEYS = ("context", "passage", "article", "dialogue", "text", "content", "sent1")
_QUESTION_KEYS = ("question", "query", "sent2")
_OPTION_KEYS = ("options", "choices", "choice", "candidates", "endings")
_OPTION_COLUMN = re.compile(r"(?:option|choice|ending|candidate)[ _]?(\d{1,2}|[a-z])|([a-z])")  # a letter alone: A, B, ...
_LABEL_KEYS = ("label", "answer", "answerKey", "gold")
_BLANK = re.compile(r"#idiom\d*#")  # ChID's
_IN_QUESTION = re.compile("_+")  # what an option fills, as in RACE
_OTHER_BLANK = "____"
_LAYOUT = 'write {"context": "...", "question": "...", "options": ["...", "..."], "label": 0}, or name such columns'


@dataclass
class ChoiceRow:
    """A question with its options.

    Attributes:
        line: where it starts in its file, from 1.
        context: the passage in one part, or in two if the options fill a blank between them; it may be blank.
        question: may be blank, if the options go on from the passage.
        options: empty for a bad or blank row whose place prediction keeps.
        label: the place of the right option, from 0; None if the file does not tell.
    """

    line: int
    context: tuple[str, ...]
    question: str
    options: list[str]
    label: int | None = None

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """For each option the texts of its sequence: the parts of the passage, then question and option."""
        return [(*self.context, _with_option(self.question, option)) for option in self.options]


def _with_option(question: str, option: str) -> str:
    """The question with the option in its blank ``_``, or behind it (the recipe for RACE of Yang et al. 2019, XLNet)."""
    if _IN_QUESTION.search(question):
        return _IN_QUESTION.sub(lambda _: option, question)
    return f"{question} {option}".strip()


def read_choices(path: str | Path, *how: Any, **more: Any) -> list[ChoiceRow]:
    """All rows of a file; the arguments are those of ``iter_choices``."""
    return list(iter_choices(path, *how, **more))


def iter_choices(
    path: str | Path,
    bad_rows: str = "error",
    label_needed: bool = True,
    encoding: str | None = None,
    stream: BinaryIO | None = None,
    kind: str | None = None,
    keep_all: bool = False,
    at_once: bool = False,
) -> Iterator[ChoiceRow]:
    """Read questions with options, as they stand in their files:

    - RACE: a json object an article, with ``article``, ``questions``, ``options`` and ``answers``; a directory of them.
    - C3 and DREAM: a json list of ``[turns, [{"question": ..., "choice": [...], "answer": ...}], id]``.
    - ChID: json lines with ``content`` with ``#idiom#``, ``candidates`` and ``groundTruth``; CLUE's have the right places in
      ``NAME_answer.json`` beside ``NAME.json``. Each blank is a row; other blanks are read as ``____``.
    - SWAG: csv with ``sent1``, ``sent2``, ``ending0`` and so on, ``label``.
    - Tables and json of one's own: ``context``, ``question``, ``options`` (a list) or columns ``option0``, ``option1`` and
      so on, and ``label``; a row may leave its last options blank.

    The right option is named by its place from 0, its letter or its text.

    Args:
        path: the file, or a directory.
        bad_rows: ``error`` or ``skip``.
        label_needed: False also reads questions without an answer.
        encoding: of the file; None detects it.
        stream: read this instead of opening ``path``.
        kind: one of ``INPUT_FORMATS``; None goes by the ending of ``path`` and first lines.
        keep_all: for prediction, which loses no row: a row that is blank or bad becomes one without options.
        at_once: for a source without an end: the first bad row raises, if bad rows are not skipped.

    Raises:
        UserError: the file cannot be read, has no questions, or has bad rows.
    """
    usable = False
    for file in [path] if stream else choice_files(path, with_answers=False):
        bad, blank = BadRows(file, bad_rows, at_once), BlankRows(file)
        for line, entry in _entries(file, encoding, stream, kind, bad, keep_all):
            if entry is None:
                if bad.last != line:
                    blank.add(line)
                row = ChoiceRow(line, ("",), "", [])
            else:
                try:
                    row = _row(line, entry, label_needed, blank_allowed=keep_all and not label_needed)
                    usable = usable or bool(row.options)
                    if not row.options:
                        blank.add(line)
                except UnusableRow as error:
                    bad.add(line, error.problem, error.remedy)
                    row = ChoiceRow(line, ("",), "", [])
            if (row.options or keep_all) and not bad.stops:
                yield row
        bad.close()
        blank.close()
    if not usable:
        raise UserError(f"{path}: no questions with options in it that can be used; {_LAYOUT}")


def choice_files(path: str | Path, with_answers: bool = True) -> list[Path]:
    """The files that hold a data set: of a directory, all in .txt or .json; with ChID's answers if there are some."""
    path = Path(path)
    if path.is_dir() and not any(file.suffix == ".arrow" for file in path.iterdir()):
        files = sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".json") and file.is_file())
        if not files:
            raise UserError(f"{path}: no .txt or .json in it; name a file, or RACE's folder of articles")
        return files
    if not with_answers:
        return [path]
    return [*files_of(path), *([_answer_file(path)] if _answer_file(path).is_file() else [])]


def _answer_file(path: Path) -> Path:
    return path.with_name(f"{path.name.split('.')[0]}_answer.json")


# A file's entries: one a question


def _entries(
    path: str | Path, encoding: str | None, stream: BinaryIO | None, kind: str | None, bad: BadRows, keep_all: bool
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """``(line, entry)`` of each question, flat: ``context``, ``question``, ``options``, ``label``; None for a blank row."""
    begins = "" if stream else _first_signs(path, encoding)
    if kind is None and stream is None:
        kind = find_format(path, encoding, 3)
        kind = "json" if kind not in (*BINARY_FORMATS, "jsonl") and begins[:1] in ("{", "[") else kind
    if kind == "json" and begins.startswith("[["):
        yield from _dialogues(path, encoding, bad)
        return
    answers: dict[str, Any] | None = None
    header: list[str] | None = None
    for line, cells in read_cells(path, bad, stream, kind, keep_all, encoding):
        if isinstance(cells, list):
            if header is None:
                header = [cell.strip() for cell in cells]
                if not _option_columns(header):
                    raise UserError(
                        f"{path}:{line}: the first row of a table names its columns, such as context, question, option0, "
                        f"option1 and label; found {', '.join(header)[:80]}"
                    )
                continue
            if len(cells) != len(header):
                problem = f"{len(cells)} columns where the first row names {len(header)}"
                bad.add(line, problem, "mend the row; leave cells of missing options blank")
                cells = None
            else:
                cells = dict(zip(header, map(str.strip, cells), strict=True))
        if cells is None:
            yield line, None
        elif isinstance(cells.get("questions"), list):
            yield from ((line, entry) for entry in _of_article(cells))
        elif "candidates" in cells and _has_blanks(cells.get("content")):
            if answers is None:
                answers = {} if stream else _answers_beside(Path(path), encoding)
            yield from ((line, entry) for entry in _of_idioms(cells, answers))
        else:
            yield line, cells


def _first_signs(path: str | Path, encoding: str | None) -> str:
    """The beginning of a file of text, without blanks."""
    if Path(path).suffix.lower().lstrip(".") in ("parquet", "arrow", "feather", "xlsx") or Path(path).is_dir():
        return ""
    signs = ""
    for _, text in read_lines(path, encoding=encoding):
        signs += "".join(text[:100].split())
        if len(signs) > 1:
            break
    return signs


def _dialogues(path: str | Path, encoding: str | None, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """The questions of C3 and DREAM: ``[[turn, ...], [{"question": ..., "choice": ..., "answer": ...}, ...], id]``."""
    raw = "\n".join(text for _, text in read_lines(path, encoding=encoding))
    decoder, place, line, counted = json.JSONDecoder(), raw.index("[") + 1, 1, 0
    try:
        while (begin := re.compile(r"[\s,]*").match(raw, place).end()) < len(raw) and raw[begin] != "]":
            line, counted = line + raw.count("\n", counted, begin), begin
            one, place = decoder.raw_decode(raw, begin)
            if not (
                isinstance(one, list)
                and len(one) >= 2
                and isinstance(one[0], list)
                and isinstance(one[1], list)
                and all(isinstance(entry, dict) for entry in one[1])
            ):
                bad.add(
                    line, "not a dialogue with questions", 'write [["...", ...], [{"question": ..., "choice": ...}], id]'
                )
                continue
            yield from ((line, {**entry, "context": one[0]}) for entry in one[1])
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON ({error.msg}); write a list of dialogues") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number with too many digits"
        raise UserError(f"{path}:{line}: not readable as JSON ({reason})") from None


def _of_article(cells: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of an article of RACE."""
    context = next((cells[key] for key in _CONTEXT_KEYS if key in cells), None)
    for number, question in enumerate(cells["questions"]):
        parts = {"context": context, "question": question}
        for ours, theirs in (("options", "options"), ("answer", "answers")):
            values = cells.get(theirs)
            if isinstance(values, list) and number < len(values):
                parts[ours] = values[number]
        yield parts


def _has_blanks(content: Any) -> bool:
    texts = content if isinstance(content, list) else [content]
    return any(isinstance(text, str) and _BLANK.search(text) for text in texts)


def _answers_beside(path: Path, encoding: str | None) -> dict[str, Any]:
    """CLUE's places of the right idioms: blank -> place."""
    path = _answer_file(path)
    if not path.is_file():
        return {}
    try:
        answers = json.loads("\n".join(text for _, text in read_lines(path, encoding=encoding)))
    except (ValueError, RecursionError):
        answers = None
    if not isinstance(answers, dict):
        raise UserError(f'{path}: not a JSON object; it has the place of each right idiom, such as {{"#idiom000000#": 3}}')
    return answers


def _of_idioms(cells: dict[str, Any], answers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The blanks of an entry of ChID: candidates are shared (CLUE), or a list of their own each."""
    content = cells["content"] if isinstance(cells["content"], list) else [cells["content"]]
    candidates, truth = cells["candidates"], cells.get("groundTruth")
    places = cells["answers"].get("candidate_id") if isinstance(cells.get("answers"), dict) else None
    own = isinstance(candidates, list) and all(isinstance(one, list) for one in candidates)
    blanks = ((text, blank) for text in content if isinstance(text, str) for blank in _BLANK.finditer(text))
    for number, (text, blank) in enumerate(blanks):
        parts = (_BLANK.sub(_OTHER_BLANK, part) for part in (text[: blank.start()], text[blank.end() :]))
        listed = candidates[number] if own and number < len(candidates) else candidates
        entry = {"context": tuple(parts), "question": "", "options": listed}
        if isinstance(truth, list) and number < len(truth):
            entry["answer"] = truth[number]
        elif isinstance(places, list) and number < len(places):
            entry["label"] = places[number]
        elif blank.group() in answers:
            entry["label"] = answers[blank.group()]
        yield entry


# A question's parts, checked


def _row(line: int, entry: dict[str, Any], label_needed: bool, blank_allowed: bool) -> ChoiceRow:
    """Raises UnusableRow if the entry lacks a part, or has a part of another kind; a blank one may get no options."""
    context = next((entry[key] for key in _CONTEXT_KEYS if entry.get(key) is not None), "")
    if not isinstance(context, tuple):
        context = ("\n".join(context),) if _are_texts(context) else (context,)
    question = next((entry[key] for key in _QUESTION_KEYS if entry.get(key) is not None), "")
    for what, text in (*(("context", part) for part in context), ("question", question)):
        if not isinstance(text, str):
            raise UnusableRow(f"the {what} is {type(text).__name__}", "write a text")
    if not any(map(str.strip, (*context, question))):
        if blank_allowed:
            return ChoiceRow(line, ("",), "", [])
        raise UnusableRow("neither a context nor a question", _LAYOUT)
    options = _options(entry)
    label = _label(entry, options)
    if label is None and label_needed:
        raise UnusableRow("no answer", "add the place of the right option under label, or its text under answer")
    return ChoiceRow(line, tuple(map(str.strip, context)), question.strip(), options, label)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _option_columns(names: list[str]) -> list[str]:
    """The columns that hold options, in the order of their numbers or letters; none if there are fewer than two."""
    found = {name: match for name in names if (match := _OPTION_COLUMN.fullmatch(name.lower()))}
    columns = [name for name in found if found[name][1] is not None] or list(found)
    order = {name: found[name][1] or found[name][2] for name in columns}
    columns.sort(key=lambda name: (len(order[name]), order[name]))
    return columns if len(columns) > 1 else []


def _options(entry: dict[str, Any]) -> list[str]:
    key = next((key for key in _OPTION_KEYS if isinstance(entry.get(key), list | dict)), None)
    if key is not None:
        options = entry[key].get("text") if isinstance(entry[key], dict) else entry[key]
    else:
        options = [entry[column] for column in _option_columns(list(entry))]
        while options and (options[-1] is None or options[-1] == ""):  # the row has fewer than others
            options.pop()
    if not _are_texts(options):
        raise UnusableRow("the options are not texts", "write a list of texts under options")
    if len(options) < 2:
        raise UnusableRow(f"{len(options)} options", "give at least two")
    if not all(map(str.strip, options)):
        raise UnusableRow("a blank option", "fill it in, or leave it out")
    return [option.strip() for option in options]


def _label(entry: dict[str, Any], options: list[str]) -> int | None:
    """The place of the right option: ``answer`` is a text if an option has it, ``label`` a place if it is a number."""
    key = next((key for key in _LABEL_KEYS if entry.get(key) not in (None, "")), None)
    if key is None:
        return None
    value = entry[key]
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else None
    if text == "-1":  # of test sets
        return None
    place = None
    if text is not None and text.isdecimal() and len(text) < 4:
        place = int(text)
    elif text is not None and re.fullmatch("[A-Za-z]", text):
        place = ord(text.upper()) - ord("A")
    if text in options and (place is None or key != "label"):
        return options.index(text)
    if place is None or place >= len(options):
        raise UnusableRow(
            f"{key} {str(value)[:30]!r} is not one of the {len(options)} options",
            "write its text, its letter, or its place from 0",
        )
    return place


# Token ids


class ChoiceTokenizer:
    """Token ids of a passage with a question and an option: ``[CLS] passage [SEP] question option [SEP]``.

    Of question and option the last ``max_qa_length`` tokens stay, and the passage has the rest of ``max_seq_length`` and
    loses its end (Yang et al. 2019, XLNet's recipe for RACE). A passage with a blank has the mask token there, and what
    stays lies around it (Zheng et al. 2019, ChID).

    Args:
        texts: provides the tokenizer, special tokens and ``max_seq_length``.
        max_qa_length: longest question with its option, in tokens.
    """

    def __init__(self, texts: TextTokenizer, max_qa_length: int):
        self.pretrained, self.backend, self.convert = texts.pretrained, texts.backend, texts.convert
        self.max_seq_length, self.max_qa_length = texts.max_seq_length, max_qa_length
        (self.before, self.between, self.after), (_, second_type) = texts.layouts[2]
        self.has_second_type = second_type != 0
        self.special = len(self.before) + len(self.between) + len(self.after)
        if texts.max_seq_length - self.special <= max_qa_length:
            raise UserError(
                f"--max_seq_length {texts.max_seq_length} leaves no room for a passage beside --max_qa_length "
                f"{max_qa_length}; raise the first, or lower the second"
            )
        self.fingerprint = f"{texts.fingerprint}|{max_qa_length}"

    def encode(self, rows: list[tuple[str, ...]]) -> list[tuple[list[int], int, int]]:
        """As ``TextTokenizer.encode``, for ``ChoiceRow.texts``."""
        distinct = list(dict.fromkeys(chain.from_iterable(rows)))  # the options of a row share its passage
        encodings = self.backend.encode_batch_fast([self.convert(text) for text in distinct], add_special_tokens=False)
        ids = {text: encoding.ids for text, encoding in zip(distinct, encodings, strict=True)}
        return [self._assembled([ids[text] for text in texts]) for texts in rows]

    def _assembled(self, parts: list[list[int]]) -> tuple[list[int], int, int]:
        *passage, asked = parts
        length = self.special + len(asked) + sum(map(len, passage)) + len(passage) - 1
        asked = asked[-self.max_qa_length :]
        room = self.max_seq_length - self.special - len(asked)
        head = [*self.before, *(_around_blank(*passage, self.mask_id, room) if len(passage) > 1 else passage[0][:room])]
        head += self.between
        ids = [*head, *asked, *self.after]
        return ids, len(head) if self.has_second_type else len(ids), length

    @property
    def mask_id(self) -> int:
        found = self.pretrained.mask_token_id
        return self.pretrained.unk_token_id if found is None else found


def _around_blank(left: list[int], right: list[int], blank: int, room: int) -> list[int]:
    """The blank, and what fits of the tokens on both sides: as many on each, or more if the other has fewer."""
    room -= 1
    half = room // 2
    kept = max(min(len(left), half), min(len(left), room - len(right)))
    return [*left[len(left) - kept :], blank, *right[: room - kept]]


def option_names(count: int) -> list[str]:
    """What options are called: A, B, C, ..., and their numbers from 1 if there are more than 26."""
    return [chr(ord("A") + place) if count <= 26 else str(place + 1) for place in range(count)]


# Batches


@dataclass
class ChoiceBatch(MovableBatch):
    """Questions with their options.

    Attributes:
        tokens: a sequence for each option, the longest first.
        places: where each sequence belongs in a table of scores ``[rows, options]``, flattened; LongTensor ``[sequences]``.
        options: the most options of a row.
        labels: the place of the right option of each row, LongTensor ``[rows]``.
    """

    tokens: TokenBatch
    places: Tensor
    options: int
    labels: Tensor


def collate_choices(samples: Samples, rows: np.ndarray) -> ChoiceBatch:
    """Pack the given rows of ``samples``."""
    first, counts = samples.row_starts[rows], np.diff(samples.row_starts)[rows]
    owners = np.repeat(np.arange(len(rows)), counts)
    options = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens, order = pack(samples, first[owners] + options)
    most = int(counts.max())
    places = (owners * most + options)[order]
    return ChoiceBatch(tokens, torch.from_numpy(places), most, torch.from_numpy(samples.labels[rows].astype(np.int64)))
