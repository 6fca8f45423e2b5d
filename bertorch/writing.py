"""Files and folders that are complete or absent: written under a temporary name, flushed to the disk, then renamed."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bertorch.errors import UserError

_UMASK = os.umask(0o022)
os.umask(_UMASK)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a system error inside (a full disk, a directory that became read-only) into a UserError that says so."""
    try:
        yield
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise UserError(f"{path}: cannot be written ({reason}); what was saved before is kept") from None


def _refusal(error: Exception) -> str | None:
    for one in (error, error.__context__):  # torch.save hides the system's error behind its own
        if isinstance(one, OSError):
            return one.strerror or str(one)
    found = re.search(r"([^:]+) \(os error \d+\)", str(error))  # from safetensors and tokenizers, which are Rust
    return found and found[1].strip()


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make a file beside ``path``, flush it to the disk, then rename it: complete or absent."""
    write_all({path: write})


def write_all(files: dict[Path, Callable[[Path], Any]]) -> None:
    """``write_whole`` for files that belong together: none is renamed before all are on the disk."""
    unfinished = {path: path.with_name(f".{path.name}.tmp") for path in files}
    try:
        for path, write in files.items():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write(unfinished[path])
                os.chmod(unfinished[path], 0o666 & ~_UMASK)  # safetensors makes files that only their owner may read
                flush_to_disk(unfinished[path])
        for path in files:
            with writing(path):
                os.replace(unfinished[path], path)
        for directory in {path.parent for path in files}:
            flush_to_disk(directory)
    finally:
        for path in unfinished.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, flush: bool = True) -> Iterator[Path]:
    """Give a folder to fill; it becomes ``path`` at the end, and is removed if something fails.

    Args:
        path: the folder to make; an empty folder may already be there.
        flush: flush the files to the disk first. Without it, check the files when they are read again.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if flush:
            for part in (*unfinished.iterdir(), unfinished):
                flush_to_disk(part)
        unfinished.rename(path)
        if flush:
            flush_to_disk(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
