"""Rows of files that are not text: parquet, arrow, xlsx, and directories that Hugging Face's datasets saved to disk."""

import importlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from bertorch.data.encodings import say_once
from bertorch.errors import UserError

BINARY_FORMATS = ("parquet", "arrow", "xlsx")
_ENDINGS = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".xlsx": "xlsx"}
_AT_A_TIME = 1000  # rows turned into Python objects
_ARROW_FILE = b"ARROW1"  # how a file with an index of its batches begins; a stream of batches has none
_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def binary_format(path: str | Path) -> str | None:
    """One of ``BINARY_FORMATS``, by the file's ending, ``arrow`` for a directory; None for files of text."""
    return "arrow" if Path(path).is_dir() else _ENDINGS.get(Path(path).suffix.lower())


def files_of(path: str | Path) -> list[Path]:
    """The files that hold a data set: the file itself, or the arrow and json files of a directory, sorted."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in (".arrow", ".json"))


def read_objects(path: str | Path, kind: str, stream: BinaryIO | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(row number from 1, row)`` of parquet or arrow, a few rows in memory at a time.

    Integers that the file's features call ``ClassLabel`` become the names of their classes, also in lists; -1 becomes None.

    Args:
        path: a file; or a directory of ``Dataset.save_to_disk``, the folder of one split.
        kind: ``parquet`` or ``arrow``.
        stream: read this instead of opening ``path``.

    Raises:
        UserError: no such file, it is damaged, the directory is not one data set, or pyarrow is not installed.
    """
    pyarrow = _package("pyarrow", path, kind)
    number = 0
    for source in [stream] if stream else _parts(path):
        try:
            read, schema = (_open_parquet if kind == "parquet" else _open_arrow)(pyarrow, source)
            names = _class_names(schema.metadata, path)
            for batch in read():
                for start in range(0, batch.num_rows, _AT_A_TIME):
                    for row in batch.slice(start, _AT_A_TIME).to_pylist():
                        number += 1
                        yield number, {key: names[key](cell) if key in names else cell for key, cell in row.items()}
        except FileNotFoundError:
            raise UserError(f"{source}: no such file") from None
        except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
            reason = next(iter(str(error).splitlines()), "")[:120]
            raise UserError(f"{path}:{number + 1}: not readable as {kind} ({reason})") from None


def read_sheet(path: str | Path, stream: BinaryIO | None = None) -> Iterator[tuple[int, list[str]]]:
    """``(row number from 1, cells as text)`` of the first sheet of a workbook, as wide as its first row at least.

    Formulas give the values that were last computed. Whole numbers have no point.

    Raises:
        UserError: no such file, it is damaged or not xlsx, or openpyxl is not installed.
    """
    openpyxl = _package("openpyxl", path, "xlsx")
    number, width = 0, 0
    try:
        book = openpyxl.load_workbook(stream or open(path, "rb"), read_only=True, data_only=True)
        sheet = book.worksheets[0]
        if len(book.worksheets) > 1:
            say_once(f"{path}: sheet {sheet.title!r} is read, the other {len(book.worksheets) - 1} are not")
        sheet.reset_dimensions()  # some programs write wrong ones
        for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
            cells = [_cell(value) for value in values]
            filled = max((place + 1 for place, cell in enumerate(cells) if cell), default=0)
            width = width or filled
            yield number, cells[: max(width, filled)] + [""] * (width - len(cells))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # openpyxl raises whatever zip and XML raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:120]
        raise UserError(f"{path}:{number + 1}: not readable as xlsx ({reason}); save it as .xlsx or .csv") from None


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def _package(name: str, path: str | Path, kind: str) -> ModuleType:
    try:
        importlib.import_module("pyarrow.parquet" if name == "pyarrow" else name)
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{path}: {kind} files need {name}; install it: pip install {name}") from None


def _parts(path: str | Path) -> list[Path]:
    """The arrow files of a directory, in the order of their rows; a file is its own only part."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    if (path / _DICT).is_file():
        splits = _read_json(path / _DICT).get("splits") or []
        named = ", ".join(str(path / str(split)) for split in splits)
        raise UserError(f"{path}: a data set of several splits; name one: {named}")
    if not (path / _STATE).is_file():
        raise UserError(f"{path}: a directory, but not of Dataset.save_to_disk (no {_STATE}); name a file")
    state = _read_json(path / _STATE)
    if state.get("_indices_data_files"):
        raise UserError(f"{path}: holds a selection of its rows (_indices_data_files); flatten_indices() and save it again")
    files = [str(one.get("filename")) for one in state.get("_data_files") or [] if isinstance(one, dict)]
    files = files or ["dataset.arrow"]
    odd = next((name for name in files if Path(name).name != name), None)
    if odd is not None:
        raise UserError(f"{path / _STATE}: names the file {odd[:80]!r}, which does not belong to the directory")
    return [path / name for name in files]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def _open_parquet(pyarrow: ModuleType, source: Path | BinaryIO) -> tuple[Callable[[], Iterator[Any]], Any]:
    file = pyarrow.parquet.ParquetFile(source if isinstance(source, Path) else pyarrow.BufferReader(source.read()))
    return lambda: file.iter_batches(_AT_A_TIME), file.schema_arrow


def _open_arrow(pyarrow: ModuleType, source: Path | BinaryIO) -> tuple[Callable[[], Iterator[Any]], Any]:
    handle = pyarrow.memory_map(str(source)) if isinstance(source, Path) else pyarrow.BufferReader(source.read())
    begins = handle.read(len(_ARROW_FILE))
    handle.seek(0)
    if begins != _ARROW_FILE:
        stream = pyarrow.ipc.open_stream(handle)
        return lambda: iter(stream), stream.schema
    file = pyarrow.ipc.open_file(handle)
    return lambda: (file.get_batch(index) for index in range(file.num_record_batches)), file.schema


def _class_names(metadata: dict[bytes, bytes] | None, path: str | Path) -> dict[str, Callable[[Any], Any]]:
    """For each column whose features name classes, what turns its integers into names."""
    features: Any = None
    if metadata and b"huggingface" in metadata:
        try:
            features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features")
        except (ValueError, AttributeError, RecursionError):
            features = None
    elif (Path(path) / _INFO).is_file():
        features = _read_json(Path(path) / _INFO).get("features")
    found = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        while isinstance(feature, list) or (isinstance(feature, dict) and "feature" in feature):
            feature = feature[0] if isinstance(feature, list) and feature else feature.get("feature") if feature else None
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list):
            found[column] = _namer([str(name) for name in names])
    return found


def _namer(names: list[str]) -> Callable[[Any], Any]:
    def named(cell: Any) -> Any:
        if isinstance(cell, list):
            return [named(one) for one in cell]
        if type(cell) is not int:
            return cell
        return names[cell] if 0 <= cell < len(names) else None if cell == -1 else cell

    return named
