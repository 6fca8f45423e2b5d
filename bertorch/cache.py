"""Where the files of the cache are kept."""

import os
from pathlib import Path


def cache_root(cache_dir: str | Path | None) -> Path:
    """``cache_dir``, ``BERTORCH_CACHE`` or ``~/.cache/bertorch``."""
    return Path(cache_dir or os.environ.get("BERTORCH_CACHE") or Path.home() / ".cache" / "bertorch").expanduser()
