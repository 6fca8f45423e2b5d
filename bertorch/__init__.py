"""bertorch: fine-tune BERT-family encoders with scripts that read top to bottom."""

import gc
import os
import signal
import sys
import threading
from pathlib import Path

__version__ = "0.1.0"

# What the libraries read while they are loaded. Threads that wait for their next work sleep: they would spin on cores that
# other programs want (RESULTS.md, "Threads"). A choice of the user's stands.
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# oneDNN, which computes bf16, compiles a kernel for each shape and keeps 1,024 of them, about a megabyte each. Hardly any
# shape comes back without padding; these are enough for those of one update.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


def _stop_quietly(number: int, frame: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode())
    os._exit(128 + number)  # nothing has begun, and an exception would go through whatever is being imported


def _runs_a_script() -> bool:
    """Whether one of our scripts, and no notebook or program of others, is what imports this package."""
    file, root = getattr(sys.modules["__main__"], "__file__", None), Path(__file__).resolve().parents[1]
    return file is not None and Path(file).resolve().parent in (root, root / "scripts")


# Ctrl-C while the libraries are loaded, which takes seconds; from run_script on it is an exception as usual.
if (
    _runs_a_script()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _stop_quietly)

# The two large libraries make a great many objects, which stay: looking for garbage among them again and again would slow
# down every start.
_collected = gc.isenabled()
gc.disable()
try:
    import torch  # noqa: F401
    from transformers import AutoTokenizer  # noqa: F401
finally:
    gc.freeze()
    if _collected:
        gc.enable()
