"""Settings made before torch is loaded: how threads wait, how many kernels are kept, Ctrl-C, garbage collection.

On a shared Xeon with AMX: without garbage collection the two large libraries load in 1.6 s of CPU time instead of 2.2
(medians of five, alternating); beside a busy program five updates use 9 s of CPU time with threads that sleep, and 53 s
with threads that spin; bf16 training peaks at 1,157 MB with 128 kernels, and at 1,623 MB and growing with 1,024
(`benchmarks/RESULTS.md`, "Threads that wait, and kernels that are kept").
"""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


def let_waiting_threads_sleep() -> None:
    """Otherwise they spin on cores that other programs need. A setting of the user's is kept."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def keep_few_kernels() -> None:
    """Limit oneDNN's cache: it compiles a bf16 kernel for each shape and keeps 1,024 of them, about a megabyte each.

    Without padding, hardly any shape comes back; 128 are enough for one update.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def interrupt_quietly() -> None:
    """Make Ctrl-C print one line while the libraries load, which takes seconds; from ``run_script`` on it is an exception.

    Only in our own scripts: notebooks and other programs keep their own handler.
    """
    file, root = getattr(sys.modules["__main__"], "__file__", None), Path(__file__).resolve().parents[1]
    ours = file is not None and Path(file).resolve().parent in (root, root / "scripts")
    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours and free and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _stop_quietly)


def _stop_quietly(number: int, frame: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode())
    os._exit(128 + number)  # nothing has begun, and an exception would pass through whatever is being imported


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Turn the garbage collector off inside, and never let it scan the objects made there.

    The two large libraries make a great many objects, which stay alive.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collected:
            gc.enable()
