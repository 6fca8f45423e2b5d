"""Answers while rows come: block by block, in their order, shared among processes, in bounded memory.

Blocks begin with one row and grow, so that the first answers come at once. Rows of a pipe do not wait for a full block. The
blocks of a file do not depend on time or on the number of processes, so neither do the answers.
"""

import argparse
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from loguru import logger
from tqdm import tqdm

from bertorch.data.encodings import decoded_lines, say_once
from bertorch.data.files import open_binary
from bertorch.data.tables import binary_format
from bertorch.errors import Interrupted, UserError
from bertorch.memory import give_back_memory
from bertorch.training.inference import Compute
from bertorch.training.logging import is_shown
from bertorch.writing import flush_to_disk, writing

T = TypeVar("T")
_PATIENCE = 0.2  # seconds that a row of a pipe waits for others
_BATCHES = 8  # of a full block
_SMALL = 8 << 20  # bytes; of such a file all bad rows are named before the first answer
_SAMPLE = 1 << 20  # bytes that the number of rows is estimated from
_TRIM_BLOCKS = 50


@dataclass
class Input:
    """The file of ``--input_file``, or standard input.

    Attributes:
        path: its name in messages.
        stream: the bytes of a pipe, to read instead of opening ``path``; None for a file.
        first: the first line of a pipe that is not blank.
        kind: the format that ``--input_format`` names or, for a pipe that holds json, the first line; None if neither says.
    """

    path: str
    stream: BinaryIO | None = None
    first: str = ""
    kind: str | None = None

    @property
    def flows(self) -> bool:
        """Whether it is a pipe, which may pause and may have no end."""
        return self.stream is not None

    def ahead(self, rows: Iterable[T]) -> Iterable[T]:
        """The rows as a list, read before the first answer, if the file is small."""
        large = self.flows or os.path.isdir(self.path) or (os.path.exists(self.path) and os.path.getsize(self.path) > _SMALL)
        return rows if large else list(rows)

    def estimated_rows(self) -> int | None:
        """About how many rows a large file has; None if that cannot be told."""
        if self.flows or self.path.lower().endswith(".gz") or binary_format(self.path):
            return None
        with open_binary(self.path) as handle:
            lines = handle.read(_SAMPLE).count(b"\n")
        return int(os.path.getsize(self.path) / _SAMPLE * lines) or None


def is_pipe(input_file: str | None) -> bool:
    """Whether rows come from standard input, a named pipe or a terminal."""
    if input_file is None:
        return True
    return os.path.exists(input_file) and not os.path.isfile(input_file) and not os.path.isdir(input_file)


def open_input(args: argparse.Namespace) -> Input:
    """Open what ``--input_file`` names, or standard input; of a pipe, wait for the first line.

    Raises:
        UserError: no standard input, or the first line is not in the encoding.
    """
    path = args.input_file or "<stdin>"
    if not is_pipe(args.input_file):
        return Input(path, kind=args.input_format)
    stream = open_binary(path) if args.input_file else _standard_input()
    head, line = b"", b"\n"
    while line and not line.strip():
        line = stream.readline()
        if b"\0" in line or line[:2] in (b"\xff\xfe", b"\xfe\xff") or "\n".encode(args.encoding or "ascii") != b"\n":
            line += stream.read()  # UTF-16: its lines can only be told from the decoded text
        head += line
    lines = (text.strip() for _, text in decoded_lines(path, io.BytesIO(head), args.encoding))
    first = next(filter(None, lines), "")
    kind = args.input_format or _json_format(first)
    if args.input_format is None and kind is not None:
        say_once(f"{path}: read as json; --input_format names another format")
    return Input(path, io.BufferedReader(_Rejoined(head, stream)), first, kind)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UserError("there is no standard input; give --input_file")
    if sys.stdin.isatty():
        logger.info("<stdin>: type a text and press Enter; Ctrl-D ends")
    try:  # a reader of its own: Python closes that of sys.stdin at its end, and fails if a thread still waits in it
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # not a file of the system
        return sys.stdin.buffer


def _json_format(first: str) -> str | None:
    """``jsonl`` or ``json`` if a first line begins an object or a list of objects."""
    if first in ("[", "{") or first.startswith("[{"):
        return "json"
    return "jsonl" if first.startswith('{"') and first.endswith("}") else None


class _Rejoined(io.RawIOBase):
    """Bytes already read from a stream, then the rest of it, without waiting for more than has come."""

    def __init__(self, head: bytes, rest: BinaryIO):
        self.head, self.rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        part, self.head = self.head[: len(buffer)], self.head[len(buffer) :]
        part = part or self.rest.read1(len(buffer))  # readinto1 may wait though it has something
        buffer[: len(part)] = part
        return len(part)


class _ReadAhead:
    """Rows that a thread reads while others are answered; it never is more than ``most`` rows ahead."""

    def __init__(self, rows: Iterable[T], most: int):
        self._most = most
        self._waiting: list[T] = []
        self._wanted = most  # wake the consumer when so many are waiting
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._read, args=(rows,), daemon=True).start()

    def _read(self, rows: Iterable[T]) -> None:
        try:
            for row in rows:
                with self._changed:
                    while len(self._waiting) >= self._most and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    self._waiting.append(row)
                    if len(self._waiting) == self._wanted:
                        self._changed.notify()
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self, size: int, patience: float | None) -> list[T]:
        """The next ``size`` rows, or fewer at the end, or once the first has waited ``patience`` seconds for the others.

        Raises what reading has raised, after the rows before it.
        """
        with self._changed:
            if patience is not None:
                self._wait_for(1, None)
            self._wait_for(size, patience)
            block, self._waiting = self._waiting[:size], self._waiting[size:]
            self._changed.notify()
        if not block and self._error is not None:
            raise self._error
        return block

    def _wait_for(self, rows: int, seconds: float | None) -> None:
        self._wanted = rows
        self._changed.wait_for(lambda: len(self._waiting) >= rows or self._ended, seconds)

    def close(self) -> None:
        """Stop reading."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class Output:
    """Where lines go: to standard output; or to ``--output_file``, which is named ``….part`` until it is complete.

    What was written of an interrupted answer stays in the ``.part`` file: the name asked for always means a whole file.
    """

    def __init__(self, args: argparse.Namespace, before: str = "", after: str = ""):
        """``before`` and ``after`` stand around the lines."""
        self.path = Path(args.output_file) if args.output_file else None
        self.silent = not writes(args)
        self.rows = 0  # answered so far
        self._before, self._after = before, after
        self._handle = None

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    def write(self, answers: Any, rows: int) -> None:
        """Write the answers to the next ``rows`` rows, and flush them."""
        self.rows += rows  # before the reader can see them, and perhaps stops this process
        if self.silent:
            return
        with self._named_errors():
            try:
                self._open()
                self._put(answers)
                self._handle.flush()
            except OSError:
                self.rows -= rows
                raise

    def finish(self) -> None:
        """Write the end, and give the file its name."""
        if self.silent:
            return
        with self._named_errors():
            self._open()
            self._end()
            if self.path is not None:
                self.close()
                flush_to_disk(self.part)
                os.replace(self.part, self.path)
                flush_to_disk(self.path.parent)
                logger.info(f"predictions in {self.path}")

    def close(self) -> None:
        if self._handle is not None and self.path is not None:
            self._handle.close()

    def kept(self) -> str:
        """What there is after an interruption."""
        if self.silent:
            return f"{self.rows} rows were read"
        rows = "1 row is" if self.rows == 1 else f"{self.rows} rows are"
        return f"{rows} answered" + (f", in {self.part}" if self.path is not None and self._handle is not None else "")

    def _named_errors(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.path is None else writing(self.path)  # a closed pipe ends the script

    def _open(self) -> None:
        if self._handle is None:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = sys.stdout if self.path is None else self._open_part()
            self._begin()

    def _open_part(self) -> Any:
        return open(self.part, "w", encoding="utf-8", newline="\n")

    def _begin(self) -> None:
        self._handle.write(self._before)

    def _put(self, answers: list[str]) -> None:
        self._handle.writelines(answers)

    def _end(self) -> None:
        self._handle.write(self._after)
        self._handle.flush()


class ArrayOutput(Output):
    """A ``.npy`` file of float32 rows ``[rows, width]``; an interrupted one is a valid ``.part`` of fewer rows."""

    def __init__(self, args: argparse.Namespace, width: int):
        super().__init__(args)
        self.width = width

    def _open_part(self) -> Any:
        return open(self.part, "wb")

    def _begin(self) -> None:
        self._count = 0
        self._write_header()

    def _put(self, answers: np.ndarray) -> None:
        self._handle.write(np.ascontiguousarray(answers, dtype="<f4").tobytes())
        self._count += len(answers)

    def _end(self) -> None:
        self._handle.seek(0)
        self._write_header()

    def close(self) -> None:
        if self._handle is not None and not self._handle.closed:
            self._end()
        super().close()

    def _write_header(self) -> None:
        """numpy leaves room for a larger number of rows, so that its length is the same with any."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._count, self.width)}
        np.lib.format.write_array_header_1_0(self._handle, header)


def writes(args: argparse.Namespace) -> bool:
    """Whether answers are written: to a file, or to standard output unless evaluating."""
    return bool(args.output_file) or not args.evaluate


def answer_rows(
    args: argparse.Namespace,
    source: Input,
    compute: Compute,
    rows: Iterable[T],
    answer: Callable[[list[T]], tuple[Any, Any]],
    output: Output | None = None,
    most: int | None = None,
    grow: bool = True,
) -> list[Any]:
    """Answer all rows, and write the answers in order as they come.

    Blocks are dealt out to the processes in turn; each answers its own alone, and the main process writes.

    Args:
        args: the flags.
        source: where the rows come from.
        compute: its processes share the blocks, ``batch_size`` sets their size.
        rows: on every process; read in a thread.
        answer: a block -> what to write of it (see ``Output``), and what to keep of it for the evaluation.
        output: where to write; by default lines, as the flags say.
        most: rows of a full block; by default 8 batches.
        grow: begin with one row; False where a small block costs as much as a full one.

    Returns:
        On the main process, what was kept of every block, in order.

    Raises:
        UserError: a row cannot be used, or the answers cannot be written; those before it are written.
        KeyboardInterrupt, Interrupted: with what was written.
    """
    processes = compute.processes
    output = output or Output(args)
    patience = _PATIENCE if source.flows else None
    most = most or _BATCHES * compute.batch_size
    total = len(rows) if isinstance(rows, list) else None
    to_terminal = args.output_file is None and writes(args) and sys.stdout.isatty()
    shown = processes.is_main and is_shown() and not to_terminal
    if shown and total is None:
        total = source.estimated_rows()
    ahead, kept = _ReadAhead(rows, most), []
    try:
        with tqdm(total=total, unit=" rows", disable=not shown, dynamic_ncols=True) as bar:
            for number, blocks in enumerate(_rounds(ahead, 1 if grow else most, most, processes.world_size, patience)):
                mine = answer(blocks[processes.rank]) if processes.rank < len(blocks) else None
                for block, part in zip(blocks, processes.collect(mine), strict=False):
                    output.write(part[0], len(block))
                    kept.append(part[1])
                    bar.update(len(block))
                if number % _TRIM_BLOCKS == _TRIM_BLOCKS - 1 and compute.device.type == "cpu":
                    give_back_memory()
        if processes.is_main:
            output.finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(output.kept()) from None
    except Interrupted as error:
        raise Interrupted(error.signal_number, f"{error}; {output.kept()}") from None
    except UserError:
        if output.rows and not output.silent:
            logger.warning(f"{source.path}: {output.kept()}; what follows could not be answered")
        raise
    finally:
        ahead.close()
        output.close()
    return kept


def _rounds(ahead: _ReadAhead, size: int, most: int, world_size: int, patience: float | None) -> Iterator[list[list[Any]]]:
    """A block for each process, again and again; fewer at the end. Blocks grow from ``size`` to ``most`` rows."""
    problem, ended = None, False
    while not ended:
        blocks: list[list[Any]] = []
        while len(blocks) < world_size and not ended:
            try:
                block = ahead.take(size, patience)
            except UserError as error:
                block, problem = [], error
            ended = not block
            blocks += [block] if block else []
            size = min(2 * size, most)
        if blocks:
            yield blocks
    if problem is not None:
        raise problem
