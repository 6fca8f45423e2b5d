"""What befalls a training from outside or from within: it ends with one line, and what was saved before stays loadable."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bertorch.encoder import Encoder
from bertorch.reporting.runs import latest_state
from bertorch.tasks.classification.head import load_trained_classifier
from tests.processes import PATIENCE, finished, started
from tests.scripts.launch import ROOT, assert_same_model, call, command, complaint, environment, run, start, training_flags
from tests.training.mounts import needs_mounts

SMALL = {
    "batch_size": 8,
    "epochs": 1,
    "max_steps": None,
    "save_steps": 5,
    "eval_steps": 5,
    "logging_steps": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def undisturbed(small_encoder, tmp_path_factory):
    """A run of two processes that nothing happened to."""
    saved_dir = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run("run_classifier.py", training_flags(small_encoder, saved_dir, **SMALL), processes=2)
    assert done.returncode == 0, done.stderr
    return saved_dir


def assert_loadable(saved_dir):
    load_trained_classifier(saved_dir, 2)
    state = latest_state(saved_dir)
    assert json.loads((state / "state.json").read_text())["global_step"] == int(state.name.removeprefix("step-"))
    return state


# A loss that is no number, no memory


@pytest.mark.parametrize(("processes", "background"), [(0, False), (2, False), (0, True), (2, True)])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_state(small_encoder, tmp_path, processes, background):
    saved_dir = tmp_path / "out"
    flags = {
        **SMALL,
        "save_in_background": background,
        "scheduler": "constant",
        "save_steps": 1,
        "max_grad_norm": 0,
        "learning_rate": 1e30,
    }
    done = run("run_classifier.py", training_flags(small_encoder, saved_dir, **flags), processes=processes)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("run_classifier.py: ")]
    assert len(said) == 1, done.stderr
    found = re.search(r"global step (\d+) \(epoch 1, batch (\d+)\).*not a finite number", said[0])
    assert found, said[0]
    assert found[1] == found[2]
    assert "--learning_rate" in said[0]
    state = latest_state(saved_dir)
    assert str(state) in said[0]
    for path in (state, saved_dir):
        assert all(tensor.isfinite().all() for tensor in load_file(path / "model.safetensors").values())


def test_weights_that_are_no_numbers_are_not_saved(small_encoder, tmp_path, monkeypatch, capsys):
    """The third loss is finite and its gradient is not; what the second step saved stays."""
    saved_dir, steps = tmp_path / "out", []

    def spoil(parameters, *_):
        steps.append(None)
        if len(steps) == 3:
            parameters[0].grad[0] = float("nan")

    monkeypatch.setattr("bertorch.training.run.scale_and_clip", spoil)
    flags = training_flags(small_encoder, saved_dir, **SMALL | {"save_steps": 1, "max_steps": 6})
    assert call("run_classifier.py", flags, monkeypatch) == 2
    said = complaint(capsys.readouterr().err)
    assert "global step 3 " in said and "weights that are not finite numbers" in said
    assert assert_loadable(saved_dir).name == "step-00000002"


def no_memory_on_a_gpu(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def no_memory_on_a_cpu(*_, **__):
    torch.empty(10**16)


@pytest.mark.parametrize("allocate", [no_memory_on_a_gpu, no_memory_on_a_cpu])
def test_out_of_memory_is_one_line_with_what_to_lower(small_encoder, tmp_path, monkeypatch, capsys, allocate):
    monkeypatch.setattr(Encoder, "forward", allocate)
    flags = training_flags(small_encoder, tmp_path / "out", batch_size=24, max_seq_length=48)
    assert call("run_classifier.py", flags, monkeypatch) == 2
    said = complaint(capsys.readouterr().err)
    assert "out of memory with --batch_size 24," in said
    assert "--max_seq_length 48" in said
    assert "--gradient_accumulation_steps" in said


# Disks

# Mount a disk of $1 on $2, run the rest there, copy what it left to $3.
ON_A_DISK = """
size=$1 place=$2 copy=$3; shift 3
mount -t tmpfs -o size=$size none "$place" || exit 99
%s
"$@"; code=$?
cp -r "$place/." "$copy"; exit $code
"""
# Run a script, and a shell's command as soon as the state of step 10 is saved: nothing depends on which of two is faster.
AFTER_STEP_10 = """
import runpy, subprocess, sys
from bertorch.training import run
from bertorch.training.saving import wait_for
befalls, sys.argv = sys.argv[1], sys.argv[2:]
def save_state(directory, step, *rest, save=run.save_state):
    save(directory, step, *rest)
    wait_for("state")
    if step == 10:
        subprocess.run(["sh", "-c", befalls], check=True)
run.save_state = save_state
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def on_a_disk(size, place, copy, command, first=""):
    place.mkdir(), copy.mkdir()
    shell = ["unshare", "-rm", "sh", "-c", ON_A_DISK % first, "sh", str(size), str(place), str(copy)]
    return finished([*shell, *command], env=environment())


def befallen(befalls, flags):
    return [sys.executable, "-c", AFTER_STEP_10, befalls, str(ROOT / "run_classifier.py"), *flags]


@needs_mounts
@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_becomes_full_keeps_what_was_saved(small_encoder, tmp_path, background):
    place, copy = tmp_path / "disk", tmp_path / "copy"
    flags = training_flags(small_encoder, place / "out", **SMALL, save_in_background=background)
    full = f'head -c 100m /dev/zero >"{place}/something" 2>/dev/null || true'
    done = on_a_disk("20m", place, copy, befallen(full, flags))
    assert done.returncode == 2, done.stderr
    said = complaint(done.stderr)
    assert "No space left on device); what was saved before is kept" in said and str(place) in said
    state = assert_loadable(copy / "out")
    resumed = run("run_classifier.py", training_flags(small_encoder, copy / "out", **SMALL, resume=True))
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {state}" in resumed.stderr


@needs_mounts
@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_becomes_read_only_keeps_what_was_saved(small_encoder, tmp_path, background):
    """Mounted once more, read-only, over itself: the system refuses to change a disk while a file of it is being written."""
    place, copy = tmp_path / "disk", tmp_path / "copy"
    flags = training_flags(small_encoder, place / "out", **SMALL, save_in_background=background)
    done = on_a_disk("100m", place, copy, befallen(f'mount --bind -o ro "{place}" "{place}"', flags))
    assert done.returncode == 2, done.stderr
    said = complaint(done.stderr)
    assert "Read-only file system" in said and str(place) in said
    assert assert_loadable(copy / "out").name == "step-00000010"


@needs_mounts
def test_a_read_only_directory_is_refused_before_the_training(small_encoder, tmp_path):
    place, copy = tmp_path / "disk", tmp_path / "copy"
    flags = training_flags(small_encoder, place / "out", **SMALL)
    done = on_a_disk("1m", place, copy, command("run_classifier.py", flags), f'mount -o remount,ro "{place}"')
    assert done.returncode == 2
    assert "cannot be written to" in complaint(done.stderr)
    assert "global step" not in done.stderr


@needs_mounts
def test_a_full_disk_for_the_cache_is_no_obstacle(small_encoder, tmp_path):
    place, copy = tmp_path / "disk", tmp_path / "copy"
    flags = training_flags(small_encoder, tmp_path / "out", cache_dir=place / "cache")
    done = on_a_disk("8k", place, copy, command("run_classifier.py", flags))
    assert done.returncode == 0, done.stderr
    assert "the token cache cannot be written" in done.stderr
    assert not list((copy / "cache").glob("*"))


# Processes


def rank_pid(launchers, rank):
    """The process of this rank, among the launchers' children."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for launcher in launchers:
            for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
                with contextlib.suppress(OSError):  # gone meanwhile
                    if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                        return int(pid)
        assert any(launcher.poll() is None for launcher in launchers), "the run has ended"
        time.sleep(0.05)
    raise AssertionError("no such process")


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_rank_dies_the_others_end_with_one_line(small_encoder, tmp_path, rank):
    saved_dir = tmp_path / "out"
    flags = training_flags(small_encoder, saved_dir, **SMALL | {"epochs": 200})
    with start("run_classifier.py", flags, processes=2) as process:
        wait_for(saved_dir / "training_state" / "step-00000005", process)
        os.kill(rank_pid([process], rank), signal.SIGKILL)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    said = [line for line in error.splitlines() if line.startswith("run_classifier.py: ")]
    who = "rank 1: " if rank == 0 else ""
    assert len(said) == 1 and said[0].startswith(f"run_classifier.py: {who}another process of the run has ended"), error
    assert_loadable(saved_dir)


def test_a_restart_does_not_remove_what_the_run_has_saved(small_encoder, undisturbed, tmp_path):
    saved_dir = tmp_path / "out"
    shutil.copytree(undisturbed, saved_dir)
    flags = training_flags(small_encoder, saved_dir, **SMALL, overwrite=True)
    done = finished(command("run_classifier.py", flags), env={**environment(), "TORCHELASTIC_RESTART_COUNT": "1"})
    assert done.returncode == 2
    assert "start it with --resume" in complaint(done.stderr)
    assert_same_model(saved_dir, undisturbed)


@pytest.fixture
def free_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@contextlib.contextmanager
def machines(small_encoder, saved_dir, caches, *launch, **flags):
    """Start two launchers of one process each, as on two machines that share ``saved_dir`` and nothing else."""
    script = [str(ROOT / "run_classifier.py"), *training_flags(small_encoder, saved_dir, **SMALL, **flags)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *launch]
    env = {**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                started([*launch, "--node_rank", str(node), *script], env={**env, "BERTORCH_CACHE": str(cache)})
            )
            for node, cache in enumerate(caches)
        ]


def test_two_machines_train_as_one(small_encoder, undisturbed, tmp_path, free_port):
    saved_dir, caches = tmp_path / "out", [tmp_path / "cache-0", tmp_path / "cache-1"]
    address = ["--master_addr", "127.0.0.1", "--master_port", str(free_port)]
    with machines(small_encoder, saved_dir, caches, *address) as launchers:
        for node, process in enumerate(launchers):
            _, error = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, error
            assert ("saved the model" in error) is (node == 0)
    assert all(list(cache.iterdir()) for cache in caches)
    assert_same_model(saved_dir, undisturbed)


def test_two_machines_start_again_when_one_loses_its_process(small_encoder, undisturbed, tmp_path, free_port):
    saved_dir, caches = tmp_path / "out", [tmp_path / "cache-0", tmp_path / "cache-1"]
    meeting = [
        "--rdzv_backend",
        "c10d",
        "--rdzv_endpoint",
        f"127.0.0.1:{free_port}",
        "--rdzv_id",
        "1",
        "--max-restarts",
        "3",
    ]
    with machines(small_encoder, saved_dir, caches, *meeting, resume=True) as launchers:
        wait_for(saved_dir / "training_state" / "step-00000005", launchers[0])
        os.kill(rank_pid(launchers, 1), signal.SIGKILL)
        errors = [launcher.communicate(timeout=PATIENCE)[1] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], errors
    assert sum(error.count("resumed from") for error in errors) == 1
    assert_same_model(saved_dir, undisturbed)
