"""Memory that the allocator keeps."""

import contextlib
import ctypes


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps what batches of ever different sizes leave in pieces."""
    with contextlib.suppress(OSError, AttributeError):  # another C library, another system
        ctypes.CDLL("libc.so.6").malloc_trim(0)
