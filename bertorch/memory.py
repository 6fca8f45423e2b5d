"""Memory: how much the machine has, how much a process has used, and how much its allocator keeps."""

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

from bertorch.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def total_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(source: str | Path, what: str, size: int) -> None:
    """Raises UserError if ``what``, of ``size`` bytes, exceeds the machine's memory: a file may ask for any size."""
    total = total_memory()
    if size > total:
        raise UserError(
            f"{source}: {what} would take {size / 1e9:,.0f} GB of memory, and this machine has {total / 1e9:,.0f} GB"
        )


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks: otherwise the system has to clear the pages of each new one."""
    with contextlib.suppress(OSError, AttributeError):  # another C library, another system
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps the fragments that batches of varying sizes leave."""
    with contextlib.suppress(OSError, AttributeError):  # another C library, another system
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has held so far, in MB (10^6 bytes).

    On a GPU: what torch has allocated there. Elsewhere: the resident memory of the process, libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
