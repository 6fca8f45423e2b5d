"""One run at a time in a saved directory."""

import shutil
import signal
import socket
import time

import pytest

from tests.scripts.launch import DATA, assert_same_model, call, complaint, run, start, training_flags
from tests.scripts.test_resume import wait_for_step

LONG = {"epochs": 500, "max_steps": None, "batch_size": 8, "logging_steps": 1, "save_steps": 5, "device": "cpu"}


def files_of(directory):
    """Those that a run writes, by name and content."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def running(small_encoder, tmp_path):
    """``(process, saved_dir)`` of a run that goes on until it is killed."""
    saved_dir = tmp_path / "out"
    with start("run_classifier.py", training_flags(small_encoder, saved_dir, **LONG)) as process:
        wait_for_step(process, 6)
        yield process, saved_dir


def test_two_that_are_started_together(small_encoder, tmp_path):
    flags = training_flags(small_encoder, tmp_path / "out", **LONG)
    with start("run_classifier.py", flags) as one, start("run_classifier.py", flags) as another:
        both = [one, another]
        while all(process.poll() is None for process in both):  # nobody reads the log of the other, which may wait for that
            time.sleep(0.05)
        refused, other = sorted(both, key=lambda process: process.poll() is None)
        error = refused.stderr.read()
        assert refused.returncode == 2, error
        assert f"process {other.pid} on {socket.gethostname()}" in complaint(error)
        assert other.poll() is None


def test_a_running_one_is_left_alone_and_its_death_gives_the_directory_back(small_encoder, running, tmp_path):
    """Beside --overwrite, --resume and --seeds the first goes on; killed, it needs no cleaning up."""
    process, saved_dir = running
    process.send_signal(signal.SIGSTOP)  # its files stay as they are meanwhile
    before = files_of(saved_dir)
    for flags in ({"overwrite": True}, {"resume": True}):
        second = run("run_classifier.py", training_flags(small_encoder, saved_dir, **{**LONG, **flags}))
        assert second.returncode == 2, second.stderr
        said = complaint(second.stderr)
        assert f"--saved_dir {saved_dir} is in use by another run" in said
        assert f"process {process.pid} on {socket.gethostname()}, since " in said
    assert files_of(saved_dir) == before
    assert call_predict(saved_dir).returncode == 0  # reading is free
    process.kill()
    process.communicate()
    resumed = run("run_classifier.py", training_flags(small_encoder, saved_dir, **{**LONG, "epochs": 1}, resume=True))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stderr
    assert not [path for path in saved_dir.iterdir() if "lock" in path.name]


def call_predict(saved_dir):
    return run("predict.py", ["--model_dir", str(saved_dir), "--input_file", str(DATA / "reviews" / "test.tsv")])


def test_the_seeds_of_a_run_belong_to_it(small_encoder, tmp_path):
    """The directory of all seeds, and the one of the seed that is being trained."""
    root = tmp_path / "out"
    with start("run_classifier.py", [*training_flags(small_encoder, root, **LONG), "--seeds", "1", "2"]) as process:
        wait_for_step(process, 3)
        for saved_dir in (root, root / "seed-1"):
            second = run("run_classifier.py", training_flags(small_encoder, saved_dir, overwrite=True))
            assert second.returncode == 2, second.stderr
            assert f"--saved_dir {saved_dir} is in use by another run (process {process.pid} " in complaint(second.stderr)
        assert process.poll() is None


def test_the_processes_of_one_run_do_not_refuse_each_other(small_encoder, tmp_path):
    """Two ranks train; a second run of two ranks beside them ends with one line."""
    flags = training_flags(small_encoder, tmp_path / "out", **LONG)
    with start("run_classifier.py", flags, processes=2) as process:
        wait_for_step(process, 3)
        second = run("run_classifier.py", [*flags, "--resume"], processes=2)
        assert second.returncode != 0
        lines = [line for line in second.stderr.splitlines() if line.startswith("run_classifier.py: ")]
        assert len(lines) == 1 and "is in use by another run" in lines[0], second.stderr
        assert process.poll() is None


def test_a_refused_run_leaves_no_directory_behind(small_encoder, tmp_path, monkeypatch):
    flags = training_flags(small_encoder, tmp_path / "new" / "out", train_data_file=tmp_path / "missing.tsv")
    assert call("run_classifier.py", flags, monkeypatch) == 2
    assert not (tmp_path / "new").exists()


def test_the_lock_of_a_dead_run_is_not_a_run(small_encoder, tmp_path, monkeypatch):
    """The file that a killed run leaves: a first run may begin there, and its directory is like any other in the end."""
    for directory in (tmp_path / "fresh", tmp_path / "left"):
        directory.mkdir()
    (tmp_path / "left" / ".run.lock").write_text("process 1 on elsewhere, since 2020-01-01 00:00:00\n")
    for directory in (tmp_path / "fresh", tmp_path / "left"):
        assert call("run_classifier.py", training_flags(small_encoder, directory, device="cpu"), monkeypatch) == 0
    assert_same_model(tmp_path / "left", tmp_path / "fresh")
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("fresh", "left")]
    assert names[0] == names[1] and not [name for name in names[0] if "lock" in name]
    copy = shutil.copytree(tmp_path / "left", tmp_path / "copy")
    assert call_predict(copy).returncode == 0
