"""Memory: how much a process has needed, and what its allocator keeps."""

import contextlib
import ctypes
import resource
import sys

import torch


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps what batches of ever different sizes leave in pieces."""
    with contextlib.suppress(OSError, AttributeError):  # another C library, another system
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has held so far, in MB (10^6 bytes).

    On a GPU what torch has allocated there, elsewhere the resident memory of the process, libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
