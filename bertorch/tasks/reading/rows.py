"""Read questions about passages in SQuAD's layout, correct the places of answers, and build windows of token ids."""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from loguru import logger
from torch import Tensor

from bertorch.data.batching import MovableBatch, pack
from bertorch.data.files import BadRows, find_format, read_cells, read_lines
from bertorch.data.tables import BINARY_FORMATS
from bertorch.data.tokenizing import Samples, TextTokenizer, text_hash
from bertorch.encoder import TokenBatch
from bertorch.errors import UnusableRow, UserError

_ID = re.compile(r'(?<!\\)"id"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d{1,100}(?![\d.eE]))')
_CONTEXT_KEYS = ("context", "context_text", "passage", "text")
_SURROGATE = re.compile("[\ud800-\udfff]")
# The possible answers by --answer_types, in the order of the targets.
ANSWER_TYPES = {
    "span": ("span",),
    "span+none": ("span", "none"),
    "span+yes+no+none": ("span", "none", "yes", "no"),
}


@dataclass
class Question:
    """A question about a passage.

    Attributes:
        line: where its id stands in its file, from 1.
        id: its key in predictions.
        text: the question.
        context: the passage.
        answers: all reference answers: ``""`` for no answer, ``YES``, ``NO``, or texts; empty if the file has none.
        kind: the kind of the first answer: ``span``, ``none``, ``yes`` or ``no``.
        start, end: where the first answer stands in ``context``, in characters, end exclusive; -1 if it has no place.
    """

    line: int
    id: str
    text: str
    context: str
    answers: list[str]
    kind: str = "none"
    start: int = -1
    end: int = -1


def read_questions(
    path: str | Path,
    bad_rows: str = "error",
    answers_needed: bool = True,
    places_needed: bool = True,
    encoding: str | None = None,
    stream: BinaryIO | None = None,
) -> list[Question]:
    """Read a file in the layout of SQuAD v1.1 or v2.0, as used by CMRC2018, DRCD, DuReader-robust and CJRC; also ``.gz``.

    A table of questions is read too: json lines, a json list, csv, xlsx, parquet, or a directory of ``save_to_disk``, with
    ``question``, ``context`` and ``answers`` (or ``answer``), perhaps ``id``, ``answer_start`` and ``is_impossible``. An
    answer is a text, ``{"text": ..., "answer_start": ...}``, or a list of these; or texts and starts are lists in one
    object, as Hugging Face has them. A list of passages with ``qas`` is CMRC2018's own layout.

    No answer is ``is_impossible`` (true or ``"true"``), an empty list, or the text ``""``. Yes and no are the texts ``YES``
    and ``NO`` without a place (``answer_start`` -1). If an answer is not at its place, the passage is searched
    for it, also with other blanks, and the occurrence nearest to its place is used; a warning gives the number.

    Args:
        path: the file.
        bad_rows: ``error`` or ``skip``.
        answers_needed: False also reads questions without answers.
        places_needed: whether answers must be found in their passages: training needs it, evaluation only their texts.
        encoding: the file's encoding; None detects it.
        stream: read this, which has SQuAD's layout, instead of opening ``path``.

    Raises:
        UserError: the file cannot be read, does not have this layout, or has bad rows.
    """
    bad = BadRows(path, bad_rows)
    questions: list[Question] = []
    known: set[str] = set()
    mended = guessed = 0
    for line, identity, context, entry in _entries(path, encoding, bad, stream):
        try:
            question = _question(line, identity, context, entry, answers_needed)
            if identity in known:
                raise UnusableRow("the id appears twice", "give each question its own id")
            repair = _place(question, entry, places_needed)
            mended += repair == "mended"
            guessed += repair == "guessed"
        except UnusableRow as error:
            bad.add(line, f"question {identity}: {error.problem}", error.remedy)
            continue
        known.add(identity)
        questions.append(question)
    bad.close()
    if not questions:
        raise UserError(f"{path}: no questions in it" + (" that can be used" if bad.count else ""))
    if mended and places_needed:
        logger.warning(f"{path}: {mended} answers are not at their answer_start; found elsewhere in the passage")
    if guessed and places_needed:
        logger.warning(
            f"{path}: {guessed} answers have no answer_start and occur several times in their passages; the first is used"
        )
    return questions


def iter_questions(
    path: str | Path,
    kind: str,
    bad_rows: str = "error",
    answers_needed: bool = False,
    encoding: str | None = None,
    stream: BinaryIO | None = None,
    at_once: bool = False,
) -> Iterator[Question]:
    """Read questions that stand in rows of their own, each with its passage; they come as they are read.

    Args:
        path: the file, named in messages.
        kind: one of ``INPUT_FORMATS``. The rows are as ``read_questions`` has them; a table without a header row has the
            question and the passage. The number of the question is its id if it has none.
        bad_rows, answers_needed, encoding: as for ``read_questions``.
        stream: read this instead of opening ``path``.
        at_once: for a source without an end: the first bad row raises, if bad rows are not skipped.

    Raises:
        UserError: the file cannot be read, is empty, or has bad rows.
    """
    bad, usable = BadRows(path, bad_rows, at_once), False
    for line, identity, context, entry in _row_entries(path, kind, encoding, bad, stream):
        try:
            question = _question(line, identity, context, entry, answers_needed)
            _place(question, entry, needed=False)
        except UnusableRow as error:
            bad.add(line, f"question {identity}: {error.problem}", error.remedy)
            continue
        usable = True
        if not bad.stops:
            yield question
    bad.close()
    if not usable:
        raise UserError(f"{path}: no questions in it" + (" that can be used" if bad.count else ""))


def _lines_of_ids(raw: str) -> dict[str, Iterator[int]]:
    """The line numbers of each id, in order."""
    lines: dict[str, list[int]] = {}
    line, read_to = 1, 0
    for match in _ID.finditer(raw):
        line, read_to = line + raw.count("\n", read_to, match.start()), match.start()
        lines.setdefault(str(json.loads(match[1])), []).append(line)
    return {identity: iter(found) for identity, found in lines.items()}


def _read_json(path: str | Path, encoding: str | None, stream: BinaryIO | None) -> tuple[str, Any]:
    raw = "\n".join(line for _, line in read_lines(path, stream, encoding))
    try:
        return raw, json.loads(raw)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg}); the file must have SQuAD's layout, one object per file"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _entries(
    path: str | Path, encoding: str | None, bad: BadRows, stream: BinaryIO | None
) -> Iterator[tuple[int, str, Any, dict[str, Any]]]:
    """``(line, id, context, entry of the question)``; its place in the file is the id of one that has none."""
    if stream is not None:
        yield from _nested_entries(path, *_read_json(path, encoding, stream))
        return
    kind = find_format(path, encoding)
    if kind not in BINARY_FORMATS:
        begins = next((text.strip() for _, text in read_lines(path, encoding=encoding) if text.strip()), "")
        if begins.replace(" ", "")[:2] in ("[", "[{"):
            kind = "json"
        elif _is_row(begins):
            kind = "jsonl"
        elif begins.startswith(("{", "[")) or "question" not in begins.lower():
            yield from _nested_entries(path, *_read_json(path, encoding, None))
            return
    yield from _row_entries(path, kind, encoding, bad, None)


def _row_entries(
    path: str | Path, kind: str, encoding: str | None, bad: BadRows, stream: BinaryIO | None
) -> Iterator[tuple[int, str, Any, dict[str, Any]]]:
    """As ``_entries``, of rows that hold one question each, or the ``qas`` of one passage."""
    header: list[str] | None = None
    count = 0
    for line, cells in read_cells(path, bad, stream, kind, encoding=encoding):
        if isinstance(cells, list):
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                if "question" in header:
                    continue
                header = ["question", "context"]
            cells = dict(zip(header, cells, strict=False))
        context = next((cells[key] for key in _CONTEXT_KEYS if key in cells), None)
        for row in cells["qas"] if isinstance(cells.get("qas"), list) else [cells]:
            count += 1
            row = row if isinstance(row, dict) else {}
            identity = row.get("id") or row.get("query_id") or count
            question = row.get("question", row.get("query_text"))
            yield line, str(identity), context, {**row, "question": question, "answers": _answers_of_row(row)}


def _is_row(text: str) -> bool:
    """Whether this is a question as JSON, and not a whole file of them."""
    try:
        row = None if '"paragraphs"' in text else json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "question" in row


def _answers_of_row(cells: dict[str, Any]) -> Any:
    """The answers of a row of a table, as SQuAD has them; None if it has no column for them."""
    given = next((cells[key] for key in ("answers", "answer") if cells.get(key) is not None), None)
    if given is None and "question" in cells and isinstance(cells.get("entities"), list):  # spans of Label Studio
        given = [{"text": span["text"], "answer_start": span["start"]} for span in cells["entities"]]
    if given is None:
        return None
    if isinstance(given, str):
        start = str(cells.get("answer_start", "")).strip()
        given = [{"text": given, "answer_start": int(start)} if start.lstrip("-").isdecimal() else given] if given else []
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        starts = given.get("answer_start") or [-1] * len(given["text"])
        given = [{"text": text, "answer_start": at} for text, at in zip(given["text"], starts, strict=False)]
    given = given if isinstance(given, list) else [given]
    return [{"text": one} if isinstance(one, str) else one for one in given]


def _nested_entries(path: str | Path, raw: str, content: Any) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
    """As ``_entries``, for a file in the layout of SQuAD: its text, and that as JSON."""
    lines = _lines_of_ids(raw)
    remedy = 'the layout is {"data": [{"paragraphs": [{"context": "...", "qas": [{"id": ..., "question": ...}]}]}]}'
    try:
        for number, article in enumerate(content["data"]):
            for paragraph_number, paragraph in enumerate(article["paragraphs"]):
                place = f"data[{number}].paragraphs[{paragraph_number}]"
                context, entries = paragraph["context"], paragraph["qas"]
                if not isinstance(context, str) or not all(isinstance(entry, dict) for entry in entries):
                    raise UserError(f"{path}: {place}: context is not a string, or qas is not a list of objects; {remedy}")
                for entry_number, entry in enumerate(entries):
                    identity = str(entry.get("id", f"{place}.qas[{entry_number}]"))
                    yield next(lines.get(identity, iter(())), 1), identity, context, entry
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: not in SQuAD's layout ({type(error).__name__}: {error}); {remedy}") from None


def _question(line: int, identity: str, context: str, entry: dict[str, Any], answers_needed: bool) -> Question:
    text, given = entry.get("question"), entry.get("answers")
    impossible = str(entry.get("is_impossible", "")).lower() == "true"
    given = [] if given is None and impossible else given
    if not isinstance(text, str) or not text.strip():
        raise UnusableRow("no question", "write a text under key question")
    if not isinstance(context, str):
        raise UnusableRow("no passage", f"write a text under key {_CONTEXT_KEYS[0]}")
    if any(_SURROGATE.search(part) for part in (identity, text, context)):
        raise UnusableRow("an escape such as \\ud83d is half a character", "write both halves, or the character itself")
    if not answers_needed and given is None:
        return Question(line, identity, text, context, [])
    if not isinstance(given, list) or not all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in given):
        raise UnusableRow("no answers", 'write "answers": [{"text": ..., "answer_start": ...}], an empty list for no answer')
    if any(_SURROGATE.search(one["text"]) for one in given):
        raise UnusableRow("an escape such as \\ud83d is half a character", "write both halves, or the character itself")
    if any(type(one.get("answer_start", -1)) is not int for one in given):
        raise UnusableRow("answer_start is not a whole number", "count characters from 0, or write -1")
    if answers_needed and not context.strip():
        raise UnusableRow("an empty passage", "fill it in, or remove its questions")
    answers = [""] if impossible or not given else [one["text"] for one in given]
    kind = "none" if not answers[0].strip() else "span"
    if given and not impossible and given[0].get("answer_start", -1) == -1 and answers[0] in ("YES", "NO"):
        kind = answers[0].lower()
    return Question(line, identity, text, context, answers, kind)


def _place(question: Question, entry: dict[str, Any], needed: bool) -> str:
    """Set where the first answer stands; returns how it was found, as ``_find`` says."""
    if question.kind != "span" or not question.answers:
        return ""
    found, repair = _find(question.answers[0], question.context, entry["answers"][0].get("answer_start", -1))
    if found is None and needed:
        raise UnusableRow(f"the answer {question.answers[0][:20]!r} is not in its passage", "correct it")
    question.start, question.end = found or (-1, -1)
    return repair


def _find(answer: str, context: str, start: int) -> tuple[tuple[int, int] | None, str]:
    """The place of an answer in its passage, or None; and ``""``, ``mended`` or ``guessed``."""
    if start >= 0 and context.startswith(answer, start):
        return (start, start + len(answer)), ""
    places = [match.span(1) for match in re.finditer(f"(?=({re.escape(answer)}))", context)]  # they may overlap
    if not places:  # with other blanks
        pattern = r"\s*".join(re.escape(sign) for sign in "".join(answer.split()))
        places = [match.span(1) for match in re.finditer(f"(?=({pattern}))", context)]
    if not places:
        return None, ""
    if start < 0:
        return places[0], "guessed" if len(places) > 1 else "mended"
    return min(places, key=lambda place: abs(place[0] - start)), "mended"


def answer_types_of(questions: Sequence[Question], asked: str | None = None, path: str | Path = "") -> str:
    """``asked``, a key of ``ANSWER_TYPES``; if None, the smallest one that covers all the answers.

    Raises:
        UserError: the questions of the file ``path`` have answers that ``asked`` does not cover.
    """
    kinds = {question.kind for question in questions}
    known = next(name for name, types in ANSWER_TYPES.items() if kinds <= set(types))
    if asked is not None and not set(ANSWER_TYPES[known]) <= set(ANSWER_TYPES[asked]):
        raise UserError(f"{path} has answers of {known}; give --answer_types {known} or leave it out")
    return asked or known


class ReadingTokenizer:
    """Token ids of a question and of a window of its passage.

    Args:
        texts: provides the tokenizer, special tokens and ``max_seq_length``.
        max_query_length: longest question, in tokens; the rest is cut.
        doc_stride: tokens that two neighbouring windows share.
    """

    def __init__(self, texts: TextTokenizer, max_query_length: int, doc_stride: int):
        self.pretrained, self.backend, self.convert = texts.pretrained, texts.backend, texts.convert
        self.max_query_length, self.doc_stride = max_query_length, doc_stride
        (self.before, self.between, self.after), (_, second_type) = texts.layouts[2]
        self.has_second_type = second_type != 0
        self.room = texts.max_seq_length - len(self.before) - len(self.between) - len(self.after)
        if self.room - max_query_length <= doc_stride:
            raise UserError(
                f"--max_seq_length {texts.max_seq_length} leaves {max(0, self.room - max_query_length)} tokens for the "
                f"passage beside a question of --max_query_length {max_query_length}, and windows share --doc_stride "
                f"{doc_stride}; raise --max_seq_length, or lower --doc_stride"
            )
        self.fingerprint = f"{texts.fingerprint}|{max_query_length}|{doc_stride}"

    def windows(self, question_tokens: int, context_tokens: int) -> list[tuple[int, int]]:
        """``(first token, end)`` of each window of a passage; at least one, which may be empty."""
        room = self.room - question_tokens
        bounds = [(0, min(room, context_tokens))]
        while bounds[-1][1] < context_tokens:
            start = bounds[-1][0] + room - self.doc_stride
            bounds.append((start, min(start + room, context_tokens)))
        return bounds


@dataclass(kw_only=True)
class ReadingSamples(Samples):
    """Tokenized questions: a row is a window.

    Attributes:
        questions: the index of each row's question in the list of questions, int64 ``[rows]``.
        context_starts: the first token of the passage within each row, int32 ``[rows]``.
        token_offsets: (start, end) in the passage of each of its tokens, int32 ``[total_tokens, 2]``; -1 for others.
        starts, ends: the first and last token of the answer within the row, int64 ``[rows]``; 0, the first special token,
            if the row does not hold it; the row's length for yes, one more for no; -1 if the answer is unknown.
        uncut_lengths: tokens of each question, cut at ``max_query_length``, and its whole passage, int32 ``[questions]``.
        cut_questions: number of questions longer than ``max_query_length``.
    """

    questions: np.ndarray
    context_starts: np.ndarray
    token_offsets: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    cut_questions: int


def window_questions(
    questions: Sequence[Question], encoder: ReadingTokenizer, unknown_id: int | None = None
) -> ReadingSamples:
    """Tokenize questions and the windows of their passages."""
    asked = [encoder.convert(question.text) for question in questions]
    encoded = encoder.backend.encode_batch(asked, add_special_tokens=False)
    contexts = list(dict.fromkeys(question.context for question in questions))
    found = encoder.backend.encode_batch([encoder.convert(context) for context in contexts], add_special_tokens=False)
    passages = dict(zip(contexts, found, strict=True))
    columns: dict[str, list] = {field.name: [] for field in fields(ReadingSamples)}
    cut = unknown = 0
    for place, (question, ids_of_question) in enumerate(zip(questions, encoded, strict=True)):
        query = ids_of_question.ids[: encoder.max_query_length]
        cut += len(query) < len(ids_of_question.ids)
        passage = passages[question.context]
        offsets = passage.offsets
        answer = _answer_tokens(question, offsets)
        head = [*encoder.before, *query, *encoder.between]
        columns["uncut_lengths"].append(len(head) + len(passage.ids) + len(encoder.after))
        for first, end in encoder.windows(len(query), len(passage.ids)):
            ids = [*head, *passage.ids[first:end], *encoder.after]
            unknown += passage.ids[first:end].count(unknown_id) if unknown_id is not None else 0
            start, last = 0, 0
            if question.kind in ("yes", "no"):
                start = last = len(ids) + (question.kind == "no")
            elif answer is not None and first <= answer[0] and answer[1] < end:
                start, last = (len(head) + token - first for token in answer)
            elif not question.answers:
                start = last = -1
            no_offset = [(-1, -1)]
            columns["token_offsets"].append(no_offset * len(head) + offsets[first:end] + no_offset * len(encoder.after))
            columns["input_ids"].append(ids)
            columns["second"].append(len(head) if encoder.has_second_type else len(ids))
            columns["context_starts"].append(len(head))
            columns["starts"].append(start)
            columns["ends"].append(last)
            columns["questions"].append(place)
            columns["lines"].append(question.line)
            columns["text_hashes"].append(text_hash(question.context + "\t" + question.text))
    lengths = [len(ids) for ids in columns["input_ids"]]
    return ReadingSamples(
        input_ids=np.concatenate([np.asarray(ids, dtype=np.int32) for ids in columns["input_ids"]]),
        token_offsets=np.concatenate([np.asarray(pairs, dtype=np.int32) for pairs in columns["token_offsets"]]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        row_starts=np.arange(len(lengths) + 1),
        labels=np.full(len(lengths), -1, dtype=np.int64),
        second=np.asarray(columns["second"], dtype=np.int32),
        context_starts=np.asarray(columns["context_starts"], dtype=np.int32),
        text_hashes=np.asarray(columns["text_hashes"], dtype=np.uint64),
        **{name: np.asarray(columns[name], dtype=np.int64) for name in ("starts", "ends", "questions", "lines")},
        uncut_lengths=np.asarray(columns["uncut_lengths"], dtype=np.int32),
        unknown=unknown,
        cut_questions=cut,
    )


def _answer_tokens(question: Question, offsets: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and last token that share a character with the answer, or None."""
    if question.kind != "span" or question.start < 0:
        return None
    first = bisect_right(offsets, question.start, key=lambda offset: offset[1])
    last = bisect_left(offsets, question.end, key=lambda offset: offset[0]) - 1
    return (first, last) if first <= last else None


@dataclass
class ReadingBatch(MovableBatch):
    """Windows and the places of their answers.

    Attributes:
        tokens: the windows, the longest first.
        starts, ends: LongTensor ``[batch_size]``: the first and last token of the answer within its window, 0 for none;
            ``tokens.max_seqlen`` for yes, one more for no.
    """

    tokens: TokenBatch
    starts: Tensor
    ends: Tensor


def collate_reading(samples: ReadingSamples, rows: np.ndarray) -> ReadingBatch:
    """Pack the given rows of ``samples``."""
    tokens, order = pack(samples, rows)
    return targets_of(samples, tokens, rows[order])


def targets_of(samples: ReadingSamples, tokens: TokenBatch, rows: np.ndarray) -> ReadingBatch:
    """Add the answers to packed windows; ``rows`` are in the order of ``tokens``."""
    lengths = np.asarray(tokens.lengths)
    # yes and no come after the longest window, where there is no token
    starts, ends = (
        np.where(at < lengths, at, at - lengths + tokens.max_seqlen) for at in (samples.starts[rows], samples.ends[rows])
    )
    return ReadingBatch(tokens, torch.from_numpy(starts), torch.from_numpy(ends))
