"""Runs that save beside the training: the same is left as without, and what the thread meets ends the run."""

import errno
import threading
import time

import torch

from bertorch.reporting.runs import latest_state
from bertorch.training import checkpoints
from bertorch.training.lock import LOCK
from bertorch.training.run import Run
from bertorch.training.saving import is_writing
from tests.scripts.launch import assert_same_model, call, complaint, training_flags

FLAGS = {"batch_size": 8, "max_steps": 12, "save_steps": 4, "eval_steps": 4, "logging_steps": 1, "device": "cpu"}


def test_a_run_that_saves_beside_the_training_leaves_the_same(small_encoder, tmp_path, monkeypatch):
    for background in (False, True):
        flags = training_flags(small_encoder, tmp_path / str(background), **FLAGS, ema_decay=0.9)
        flags += ["--save_in_background"] if background else []
        assert call("run_classifier.py", flags, monkeypatch) == 0
    assert_same_model(tmp_path / "True", tmp_path / "False")
    states = [latest_state(tmp_path / name) for name in ("True", "False")]
    assert states[0].name == states[1].name == "step-00000012"
    assert_same_model(*states)
    tensors = [torch.load(state / "tensors.pt", weights_only=True) for state in states]
    torch.testing.assert_close(*tensors, rtol=0, atol=0)
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("True", "False")]
    assert names[0] == names[1]


def test_a_failure_of_the_thread_ends_the_run_at_the_next_update(small_encoder, tmp_path, monkeypatch, capsys):
    original, failed = checkpoints.write_checksums, threading.Event()

    def full(folder):
        if folder.name.startswith(".step-00000008"):
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        original(folder)

    save = Run.save

    def save_and_wait(run):
        save(run)
        if run.global_step == 8:
            assert failed.wait(60)
            while is_writing():
                time.sleep(0.001)

    monkeypatch.setattr(Run, "save", save_and_wait)
    monkeypatch.setattr(checkpoints, "write_checksums", full)
    flags = training_flags(small_encoder, tmp_path / "out", **FLAGS, save_in_background=True)
    assert call("run_classifier.py", flags, monkeypatch) == 2
    error = capsys.readouterr().err
    assert "step-00000008: cannot be written (No space left on device); what was saved before is kept" in complaint(error)
    assert "global step: 8," in error and "global step: 9," not in error
    assert latest_state(tmp_path / "out").name == "step-00000004"
    assert not is_writing() and not (tmp_path / "out" / LOCK).exists()


def test_a_failure_of_the_last_save_is_not_lost(small_encoder, tmp_path, monkeypatch, capsys):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bertorch.training.checkpoints.write_checksums", full)
    flags = training_flags(small_encoder, tmp_path / "out", **{**FLAGS, "max_steps": 4}, save_in_background=True)
    assert call("run_classifier.py", flags, monkeypatch) == 2
    assert "No space left on device" in complaint(capsys.readouterr().err)


def test_a_run_saves_by_the_clock(small_encoder, tmp_path, monkeypatch):
    """Each update is later than 0 seconds: each is saved, and only the last is kept."""
    saved, original = [], Run.save
    monkeypatch.setattr(Run, "save", lambda run: (saved.append(run.global_step), original(run)))
    values = {**FLAGS, "save_steps": None, "max_steps": 3}
    flags = training_flags(small_encoder, tmp_path / "out", **values, save_seconds=0)
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert saved == [1, 2, 3]
