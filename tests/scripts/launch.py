"""Run the entry scripts: in this process where that is enough, as a user would where it is not."""

import json
import os
import runpy
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.processes import finished, started

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
REVIEWS = DATA / "reviews"


def training_flags(encoder, saved_dir, **flags) -> list[str]:
    """The flags of a short run on the sample reviews; a flag of True stands alone."""
    values = {
        "pretrained_model_name_or_path": encoder,
        "train_data_file": REVIEWS / "train.tsv",
        "dev_data_file": REVIEWS / "dev.tsv",
        "label_file": REVIEWS / "labels.txt",
        "saved_dir": saved_dir,
        "learning_rate": 1e-3,
        "max_steps": 4,
        **flags,
    }
    return as_flags(**values)


def as_flags(**values) -> list[str]:
    """A flag of True stands alone; one of None or False is left out."""
    command = []
    for name, value in values.items():
        if value is not None and value is not False:
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return command


def call(script: str, flags: list[str], monkeypatch) -> int:
    """Run a script in this process, as ``python script flags``; returns its exit code."""
    monkeypatch.setattr(sys, "argv", [script, *flags])
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def command(script: str, flags: list[str], processes: int = 0, launcher: str = "run") -> list[str]:
    """The command of a process of its own, or of ``processes`` under torchrun."""
    launch = ["-m", f"torch.distributed.{launcher}", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    return [sys.executable, *launch, str(ROOT / script), *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(script: str, flags: list[str], processes: int = 0, **kwargs) -> AbstractContextManager[subprocess.Popen]:
    return started(command(script, flags, processes), env=environment(), **kwargs)


def run(script: str, flags: list[str], processes: int = 0, launcher: str = "run", **kwargs) -> subprocess.CompletedProcess:
    return finished(command(script, flags, processes, launcher), env=environment(), **kwargs)


def journal(saved_dir: Path, kind: str) -> list[dict]:
    """What a run wrote down: its ``train``, ``eval`` or ``test`` lines."""
    lines = [json.loads(line) for line in (saved_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["kind"] == kind]


def assert_same_model(saved_dir: Path, reference: Path) -> None:
    """The weights in both directories are the same, bit for bit."""
    expected, found = load_file(reference / "model.safetensors"), load_file(saved_dir / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def complaint(error: str) -> str:
    """The one line that a script ends with, of all it wrote to standard error; the other lines are those of its log."""
    lines = [line for line in error.splitlines() if " | INFO " not in line and " | WARNING " not in line]
    assert len(lines) == 1, error
    return lines[0]
