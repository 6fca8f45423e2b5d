"""Checksums (CRC-32) of saved files: a file that was corrupted on disk must not pass for a good one."""

import json
import zlib
from pathlib import Path

from torch import Tensor, uint8

_LIST = "checksums.json"
_BLOCK = 1 << 20


def tensors_checksum(tensors: dict[str, Tensor]) -> str:
    """The checksum of names, types, shapes and values, in any order; the tensors are on the CPU."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(uint8).numpy(), value)
    return f"{value:08x}"


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in ``folder`` to a file next to them."""
    sums = {path.name: _file_checksum(path) for path in sorted(folder.iterdir()) if path.name != _LIST}
    (folder / _LIST).write_text(json.dumps(sums, indent=2), encoding="utf-8")


def compare_checksums(folder: Path) -> None:
    """Compare the files of ``folder`` with what ``write_checksums`` wrote.

    Raises:
        FileNotFoundError: the list, or a file that it names, is missing.
        ValueError: a file differs from what was written; the message names it.
    """
    sums = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    if not isinstance(sums, dict):
        raise ValueError(f"{_LIST} holds no list")
    for name, expected in sums.items():
        if _file_checksum(folder / Path(name).name) != expected:
            raise ValueError(f"{name} is not as it was written")


def _file_checksum(path: Path) -> str:
    value = 0
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
