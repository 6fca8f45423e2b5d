"""Run the entry scripts: in this process where that is enough, as a user would where it is not."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REVIEWS = ROOT / "data" / "reviews"


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


def start(script: str, flags: list[str], processes: int = 0, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(
        command(script, flags, processes),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def run(script: str, flags: list[str], processes: int = 0, launcher: str = "run", **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(script, flags, processes, launcher), env=environment(), capture_output=True, text=True, timeout=150, **kwargs
    )
