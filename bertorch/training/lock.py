"""A lock on a saved directory, so that only one run at a time writes there."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from loguru import logger

from bertorch.errors import UserError
from bertorch.training.process_group import Processes
from bertorch.training.saving import is_writing

LOCK = ".run.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def saved_dir_lock(directory: Path, processes: Processes) -> Iterator[None]:
    """Lock ``directory`` against other runs. The main process holds the lock for all processes of the run.

    It is a system lock (flock): it ends with the process, however that ends, and holds across machines if the shared file
    system supports locks (NFS does). The lock file says who holds it, and is removed at the end.

    Raises:
        UserError: another run holds the lock, or the directory cannot be made or written to; raised on every process.
    """
    descriptor, problem = None, None
    if processes.is_main:
        try:
            made = _make(directory)
            descriptor = _take(directory)
        except UserError as error:
            problem = str(error)
    problem = processes.gather(problem)[0]
    if problem is not None:
        raise UserError(problem)
    try:
        yield
    finally:
        if descriptor is not None and not is_writing():  # else the lock ends with this process, which is about to end
            with contextlib.suppress(OSError):  # still locked, so that no other run takes a file about to be removed
                (directory / LOCK).unlink()
            os.close(descriptor)
            with contextlib.suppress(OSError):  # fails if the run has left anything in it
                for path in made:
                    path.rmdir()


def _make(directory: Path) -> list[Path]:
    """Make the directory; return the directories made, innermost first."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--saved_dir {directory}: this is a file; name a directory") from None
    except OSError as error:
        raise UserError(f"--saved_dir {directory} cannot be written to ({error.strerror})") from None
    return made


def _take(directory: Path) -> int:
    """Return the descriptor of the locked file. The caller closes it, which releases the lock."""
    path = directory / LOCK
    while True:
        descriptor = _open_locked(path)
        with contextlib.suppress(OSError):  # the run that held it may have removed the file since it was opened
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    return descriptor


def _open_locked(path: Path) -> int:
    # Try reading first: a file open for writing keeps its file system from being remounted read-only. NFS may require it.
    for mode in (os.O_RDONLY, os.O_RDWR):
        try:
            descriptor = os.open(path, mode | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"--saved_dir {path.parent} cannot be written to ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UserError(
                f"--saved_dir {path.parent} is in use by another run ({holder or 'it has just started'}); wait for its end, "
                f"or name another directory"
            ) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                logger.warning(f"{path.parent}: its file system has no locks; do not start a second run there")
                return descriptor
            os.close(descriptor)
            if error.errno != errno.EBADF or mode == os.O_RDWR:
                raise
    raise AssertionError("both modes were tried")


def _holder(descriptor: int) -> str:
    """What the file says of the run that holds it, which writes that a moment after it has the lock."""
    for _ in range(100):
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        if holder:
            return holder
        time.sleep(0.05)
    return ""
