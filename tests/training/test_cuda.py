"""A training step on a GPU does not wait for the host."""

import sys
from pathlib import Path

import pytest
import torch

import run_classifier

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_step_waits_for_nothing(tmp_path, monkeypatch, precision, dropout):
    """From the second step on, and while nothing is logged, evaluated or saved; what waits raises RuntimeError."""

    class WatchedRun(run_classifier.Run):
        def __init__(self, args, model, *others, **more):
            model.encoder.set_dropout(dropout)
            super().__init__(args, model, *others, **more)

        def step(self):
            logs = self.global_step + 1 == self.total_steps
            torch.cuda.set_sync_debug_mode("default" if logs else torch.cuda.get_sync_debug_mode())
            super().step()
            torch.cuda.set_sync_debug_mode("default" if logs else "error")

    data = ROOT / "data" / "reviews"
    flags = {
        "train_data_file": data / "train.tsv", "label_file": data / "labels.txt", "precision": precision, "device": "cuda",
        "pretrained_model_name_or_path": ROOT / "data" / "tiny-encoder", "max_steps": 5, "saved_dir": tmp_path / "saved",
    }  # fmt: skip
    command = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["run_classifier.py", *command])
    monkeypatch.setattr(run_classifier, "Run", WatchedRun)
    try:
        run_classifier.main(run_classifier.parse_args())
    finally:
        torch.cuda.set_sync_debug_mode("default")
