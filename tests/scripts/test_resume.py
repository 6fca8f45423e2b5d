"""A run that was stopped or killed, and resumed, ends with the weights of an undisturbed one, bit for bit."""

import json
import random
import shutil
import signal
import time

import pytest

from bertorch.tasks.classification.head import load_trained_classifier
from tests.processes import PATIENCE
from tests.scripts.launch import REVIEWS, assert_same_model, call, run, start, training_flags

FLAGS = {
    "max_steps": None, "epochs": 6, "batch_size": 8, "gradient_accumulation_steps": 2, "save_steps": 7, "eval_steps": 14,
    "logging_steps": 1, "warmup_proportion": 0.1, "scheduler": "cosine", "device": "cpu", "learning_rate": 3e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(small_encoder, tmp_path_factory):
    saved_dir = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run("run_classifier.py", training_flags(small_encoder, saved_dir, **FLAGS))
    assert done.returncode == 0, done.stderr
    return saved_dir


def assert_same_run(saved_dir, reference):
    assert_same_model(saved_dir, reference)
    lines = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (reference, saved_dir)
    ]
    for line in lines[0] + lines[1]:
        line.pop("steps_per_second", None), line.pop("peak_memory_mb", None), line.pop("seconds", None)
    assert lines[0] == lines[1]


def wait_for_step(process, step):
    """Read the log until that update is reported; what was read."""
    seen = ""
    for line in process.stderr:
        seen += line
        if f"global step: {step}," in line:
            return seen
    raise AssertionError(f"ended before step {step}: {seen}")


@pytest.mark.parametrize(
    ("number", "background"),
    [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGINT, True)],
)
def test_a_signal_saves_a_resumable_state(small_encoder, undisturbed, tmp_path, number, background, monkeypatch):
    saved_dir = tmp_path / "out"
    flags = training_flags(small_encoder, saved_dir, **FLAGS, save_in_background=background)
    with start("run_classifier.py", flags) as process:
        wait_for_step(process, 33)
        process.send_signal(number)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} at global step" in error.splitlines()[-1]
    assert "Traceback" not in error
    state = json.loads(next((saved_dir / "training_state").glob("step-*/state.json")).read_text())
    assert state["global_step"] >= 33
    resumed = run("run_classifier.py", [*flags, "--resume"])
    assert resumed.returncode == 0, resumed.stderr
    assert f"global step {state['global_step']}" in resumed.stderr
    assert_same_run(saved_dir, undisturbed)


@pytest.mark.parametrize("background", [False, True])
def test_killed_at_random_moments_it_always_loads_and_ends_the_same(small_encoder, undisturbed, tmp_path, background):
    saved_dir = tmp_path / "out"
    flags = [*training_flags(small_encoder, saved_dir, **FLAGS, save_in_background=background), "--resume"]
    moments = random.Random(0)
    for step in (9, 60, 120):
        with start("run_classifier.py", flags) as process:
            wait_for_step(process, step)
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
        if (saved_dir / "model.safetensors").exists():
            load_trained_classifier(saved_dir, 2)
    done = run("run_classifier.py", flags)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stderr
    assert_same_run(saved_dir, undisturbed)


def test_two_processes_stop_together_and_resume(small_encoder, tmp_path):
    flags = {**FLAGS, "epochs": 3, "device": "cpu"}
    done = run("run_classifier.py", training_flags(small_encoder, tmp_path / "whole", **flags), processes=2)
    assert done.returncode == 0, done.stderr
    with start("run_classifier.py", training_flags(small_encoder, tmp_path / "parts", **flags), processes=2) as process:
        wait_for_step(process, 10)
        process.terminate()  # torchrun passes it on
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert error.count("--resume continues from there") == 1
    flags = [*training_flags(small_encoder, tmp_path / "parts", **flags), "--resume"]
    resumed = run("run_classifier.py", flags, processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stderr
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_finished_run_has_nothing_left_to_do(small_encoder, undisturbed, tmp_path, monkeypatch, capsys):
    saved_dir = tmp_path / "out"
    shutil.copytree(undisturbed, saved_dir)
    before = (saved_dir / "model.safetensors").read_bytes()
    assert call("run_classifier.py", [*training_flags(small_encoder, saved_dir, **FLAGS), "--resume"], monkeypatch) == 0
    assert f"{saved_dir}: this run is finished, at global step" in capsys.readouterr().err
    assert (saved_dir / "model.safetensors").read_bytes() == before
    assert_same_run(saved_dir, undisturbed)


def test_nothing_to_resume_starts_anew_and_says_so(small_encoder, tmp_path, monkeypatch, capsys):
    assert call("run_classifier.py", training_flags(small_encoder, tmp_path / "out", resume=True), monkeypatch) == 0
    assert "no training state to resume; starting from scratch" in capsys.readouterr().err


def test_a_run_that_stopped_early_stays_stopped(small_encoder, tmp_path, monkeypatch, capsys):
    saved_dir = tmp_path / "out"
    values = {"max_steps": 12, "learning_rate": 0, "eval_steps": 2, "save_steps": 2, "early_stopping_patience": 2}
    assert call("run_classifier.py", training_flags(small_encoder, saved_dir, **values), monkeypatch) == 0
    states = [path.name for path in (saved_dir / "training_state").iterdir()]
    assert states == ["step-00000006"]  # the first of the evaluations, which are all alike, is the best
    capsys.readouterr()
    assert call("run_classifier.py", training_flags(small_encoder, saved_dir, **values, resume=True), monkeypatch) == 0
    assert "has stopped early, at global step 6" in capsys.readouterr().err
    assert [path.name for path in (saved_dir / "training_state").iterdir()] == states
    values["early_stopping_patience"] = 3
    assert call("run_classifier.py", training_flags(small_encoder, saved_dir, **values, resume=True), monkeypatch) == 0
    assert "has stopped early" not in capsys.readouterr().err
    assert [path.name for path in (saved_dir / "training_state").iterdir()] == ["step-00000008"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["positive", "negative"], "the labels stand in another order (number 1 was 'negative' and is 'positive')"),
        (["negative", "positive", "mixed"], "the labels have changed ('mixed' new)"),
    ],
)
def test_other_labels_are_named(labels, message, small_encoder, undisturbed, tmp_path, monkeypatch, capsys):
    (tmp_path / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    saved_dir = shutil.copytree(undisturbed, tmp_path / "out")
    flags = training_flags(small_encoder, saved_dir, **FLAGS, label_file=tmp_path / "labels.txt", resume=True)
    assert call("run_classifier.py", flags, monkeypatch) == 2
    assert f"cannot be resumed, {message}; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 16}, "batch_size was 8 and is 16"),
        ({"seed": 3}, "seed was 1000 and is 3"),
        ({"train_data_file": REVIEWS / "dev.tsv"}, "the training data has changed"),
    ],
)
def test_what_would_change_the_batches_is_refused(
    small_encoder, undisturbed, tmp_path, monkeypatch, capsys, change, message
):
    saved_dir = tmp_path / "out"
    shutil.copytree(undisturbed, saved_dir)
    before = {path: path.read_bytes() for path in saved_dir.rglob("*") if path.is_file()}
    flags = training_flags(small_encoder, saved_dir, **{**FLAGS, **change}, resume=True)
    assert call("run_classifier.py", flags, monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in saved_dir.rglob("*") if path.is_file()} == before


def test_a_damaged_state_is_one_line(small_encoder, undisturbed, tmp_path, monkeypatch, capsys):
    saved_dir = tmp_path / "out"
    shutil.copytree(undisturbed, saved_dir)
    tensors = next((saved_dir / "training_state").glob("step-*")) / "tensors.pt"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    assert call("run_classifier.py", [*training_flags(small_encoder, saved_dir, **FLAGS), "--resume"], monkeypatch) == 2
    error = capsys.readouterr().err
    assert "damaged training state" in error
    assert "Traceback" not in error
