"""--seeds: one training a seed, their figures together, the best model; for any training script."""

import json
import os
import random
import shutil
import signal
import statistics

import pytest
import torch
from safetensors.torch import load_file

from bertorch.training.run import Run
from tests.scripts.launch import REVIEWS, as_flags, call, complaint, journal, training_flags
from tests.scripts.test_run_mrc import QUESTION, WINDOWS, rows, write_squad


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    return write_squad(tmp_path_factory.mktemp("passages") / "train.json", rows(40, random.Random(0)))


@pytest.fixture
def flags_of(small_encoder, passages):
    """``flags_of(script, saved_dir, **flags)`` of a few steps."""

    def flags(script, saved_dir, **more):
        if script == "run_classifier.py":
            values = {"max_steps": 6, "save_steps": 3, "learning_rate": 3e-3, "device": "cpu", "eval_batch_size": 64}
            return training_flags(small_encoder, saved_dir, **{**values, **more})
        values = {
            "pretrained_model_name_or_path": small_encoder, "train_data_file": passages, "dev_data_file": passages,
            "saved_dir": saved_dir, "max_steps": 6, "save_steps": 3, "learning_rate": 3e-3, "batch_size": 8, "device": "cpu",
            **WINDOWS, **more,
        }  # fmt: skip
        return as_flags(**values)

    return flags


def seeds(*numbers):
    return ["--seeds", *map(str, numbers)]


def files_of(directory):
    """Of a run, without its training states and its report, which shows all seeds where there are several."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "training_state" not in path.parts and path.name != "report.html"
    }


def assert_same_weights(found, expected):
    found, expected = (load_file(path / "model.safetensors") for path in (found, expected))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def assert_summary(root, numbers, metric, best_kept):
    """``seeds.json`` and the model in ``root`` by what each seed's folder says; returns the summary."""
    summary = json.loads((root / "seeds.json").read_text(encoding="utf-8"))
    assert (summary["seeds"], summary["metric"]) == (numbers, metric)
    kept = {}
    for seed in numbers:
        lines = journal(root / f"seed-{seed}", "eval")
        kept[seed] = max(lines, key=lambda line: line[metric]) if best_kept else lines[-1]
        description = json.loads((root / f"seed-{seed}" / "bertorch.json").read_text())
        assert description["metrics"] == {
            name: value for name, value in kept[seed].items() if name in description["metrics"]
        }
    tests = {seed: (journal(root / f"seed-{seed}", "test") or [{}])[-1] for seed in numbers}
    for kind, figures in (("eval", kept), ("test", tests)):
        names = set(figures[numbers[0]]) - {"kind", "global_step"}
        assert set(summary[kind]) == names
        for name in names:
            values = [figures[seed][name] for seed in numbers]
            spread = dict(summary[kind][name])
            assert spread.pop("values") == values
            deviation = statistics.stdev(values) if len(values) > 1 else 0
            assert spread == pytest.approx({"mean": sum(values) / len(values), "max": max(values), "std": deviation})
    best = summary["best_seed"]
    assert kept[best][metric] == max(line[metric] for line in kept.values())
    folder, copied = files_of(root / f"seed-{best}"), files_of(root)
    assert {name: copied[name] for name in folder} == folder
    others = {name for name in copied if not name.startswith("seed-")} - set(folder)
    assert others == {"seeds.json"}
    return summary


def test_reading(flags_of, tmp_path, monkeypatch, capsys):
    """Each folder is the run that --seed alone makes, bit for bit, and the best of them opens in predict.py."""
    root = tmp_path / "out"
    how = {"save_best_model": True, "do_test": True}
    test = ["--test_data_file", str(write_squad(tmp_path / "test.json", rows(15, random.Random(5))))]
    assert call("run_mrc.py", [*flags_of("run_mrc.py", root, **how), *test, *seeds(1, 2)], monkeypatch) == 0
    error = capsys.readouterr().err
    summary = assert_summary(root, [1, 2], "f1", best_kept=True)
    spread = summary["eval"]["f1"]
    assert f"eval f1: {spread['mean']:.5f} ({spread['max']:.5f}), sd {spread['std']:.5f}" in error
    for seed in (1, 2):
        alone = tmp_path / f"alone-{seed}"
        assert call("run_mrc.py", [*flags_of("run_mrc.py", alone, seed=seed, **how), *test], monkeypatch) == 0
        assert_same_weights(root / f"seed-{seed}", alone)
        assert journal(root / f"seed-{seed}", "eval") == journal(alone, "eval")
        assert journal(root / f"seed-{seed}", "test") == journal(alone, "test")
    weights = [load_file(root / f"seed-{seed}" / "model.safetensors") for seed in (1, 2)]
    assert not torch.equal(*(tensors["qa_outputs.weight"] for tensors in weights))

    ask = {"question": QUESTION, "context": "他说诸葛曹很好", "device": "cpu"}
    printed = []
    for directory in (root, root / f"seed-{summary['best_seed']}"):
        capsys.readouterr()
        assert call("predict.py", as_flags(model_dir=directory, **ask), monkeypatch) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and json.loads(printed[0])["id"] == "1"


def test_classification(flags_of, tmp_path, monkeypatch):
    """Here the last model is the one kept; another metric decides."""
    root = tmp_path / "out"
    flags = flags_of("run_classifier.py", root, metric="macro_f1", tensorboard=True)
    assert call("run_classifier.py", [*flags, *seeds(7, 3)], monkeypatch) == 0
    for seed in (7, 3):  # events stay with their seeds
        assert (root / f"seed-{seed}" / "tensorboard").is_dir()
        shutil.rmtree(root / f"seed-{seed}" / "tensorboard")
    assert_summary(root, [7, 3], "macro_f1", best_kept=False)
    alone = tmp_path / "alone"
    assert call("run_classifier.py", flags_of("run_classifier.py", alone, metric="macro_f1", seed=3), monkeypatch) == 0
    assert_same_weights(root / "seed-3", alone)
    flags = as_flags(model_dir=root, input_file=REVIEWS / "dev.tsv", output_file=tmp_path / "out.tsv", device="cpu")
    assert call("predict.py", flags, monkeypatch) == 0
    assert len((tmp_path / "out.tsv").read_text().splitlines()) == 132


def test_one_seed_has_no_deviation(flags_of, tmp_path, monkeypatch):
    assert call("run_mrc.py", [*flags_of("run_mrc.py", tmp_path / "out", max_steps=2), *seeds(4)], monkeypatch) == 0
    summary = assert_summary(tmp_path / "out", [4], "f1", best_kept=False)
    assert {spread["std"] for spread in summary["eval"].values()} == {0}


@pytest.fixture(scope="module")
def whole(small_encoder, passages, tmp_path_factory):
    """Two seeds, undisturbed."""
    root = tmp_path_factory.mktemp("whole") / "out"
    values = {
        "pretrained_model_name_or_path": small_encoder, "train_data_file": passages, "dev_data_file": passages,
        "saved_dir": root, "max_steps": 6, "save_steps": 3, "learning_rate": 3e-3, "batch_size": 8, "device": "cpu",
        **WINDOWS,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        assert call("run_mrc.py", [*as_flags(**values), *seeds(1, 2)], patch) == 0
    return root


def test_resuming(whole, flags_of, tmp_path, monkeypatch):
    """Stopped in the second seed: the first is left as it is, and the end is the same."""
    root = tmp_path / "out"
    flags = [*flags_of("run_mrc.py", root), *seeds(1, 2)]
    step = Run.step

    def step_after_signal(run):
        if run.args.seed == 2 and run.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", step_after_signal)
        assert call("run_mrc.py", flags, patch) == 128 + signal.SIGTERM
    assert not (root / "seeds.json").exists() and not (root / "bertorch.json").exists()
    first = files_of(root / "seed-1")
    assert call("run_mrc.py", flags, monkeypatch) == 2  # not without being told
    assert call("run_mrc.py", [*flags, "--resume"], monkeypatch) == 0
    assert files_of(root / "seed-1") == first
    for seed in (1, 2):
        assert_same_weights(root / f"seed-{seed}", whole / f"seed-{seed}")
        assert journal(root / f"seed-{seed}", "eval") == journal(whole / f"seed-{seed}", "eval")
    assert_summary(root, [1, 2], "f1", best_kept=False)
    assert (root / "seeds.json").read_bytes() == (whole / "seeds.json").read_bytes()


def test_a_finished_root(whole, flags_of, tmp_path, monkeypatch, capsys):
    """Refused as it is, left as it is with --resume, replaced with --overwrite."""
    root = shutil.copytree(whole, tmp_path / "out")
    flags, before = flags_of("run_mrc.py", root), files_of(root)
    capsys.readouterr()
    assert call("run_mrc.py", [*flags, *seeds(1, 2)], monkeypatch) == 2
    error = complaint(capsys.readouterr().err)
    assert f"--saved_dir {root} already holds a run; continue it with --resume or replace it with --overwrite" in error
    assert files_of(root) == before
    assert call("run_mrc.py", [*flags, *seeds(1, 2), "--resume"], monkeypatch) == 0
    assert files_of(root)["seeds.json"] == before["seeds.json"]
    assert_same_weights(root, whole)
    assert call("run_mrc.py", [*flags, *seeds(2, 1), "--overwrite"], monkeypatch) == 0
    assert_summary(root, [2, 1], "f1", best_kept=False)


def test_a_folder_that_holds_a_run(whole, flags_of, tmp_path, monkeypatch, capsys):
    """Of one of the seeds, while the others are new."""
    shutil.copytree(whole / "seed-1", tmp_path / "out" / "seed-1")
    capsys.readouterr()
    assert call("run_mrc.py", [*flags_of("run_mrc.py", tmp_path / "out"), *seeds(1, 2)], monkeypatch) == 2
    assert "seed-1 already holds a run" in complaint(capsys.readouterr().err)


def test_a_later_folder_that_holds_a_run_costs_nothing(whole, flags_of, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole / "seed-1", tmp_path / "out" / "seed-1")
    capsys.readouterr()
    assert call("run_mrc.py", [*flags_of("run_mrc.py", tmp_path / "out", max_steps=1), *seeds(2, 1)], monkeypatch) == 2
    assert "seed-1 already holds a run" in complaint(capsys.readouterr().err)
    assert not (tmp_path / "out" / "seed-2").exists()


MISTAKES = {
    "a seed twice": ({}, (1, 2, 1), "--seeds 1 2 1: give each seed once"),
    "no development set": (
        {"dev_data_file": None},
        (1, 2),
        "--seeds compares runs on the development set; give --dev_data_file",
    ),
    "no number": ({}, ("x",), "--seeds: invalid seed value: 'x'"),
    "no seeds": ({}, (), "--seeds: expected at least one argument"),
    "a negative one": ({}, (-1,), "--seeds"),
}


@pytest.mark.parametrize("script", ["run_mrc.py", "run_classifier.py"])
@pytest.mark.parametrize(("flags", "numbers", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_costs_nothing(script, flags, numbers, message, flags_of, tmp_path, monkeypatch, capsys):
    assert call(script, [*flags_of(script, tmp_path / "out", **flags), *seeds(*numbers)], monkeypatch) == 2
    error = complaint(capsys.readouterr().err)
    assert error.startswith(f"{script}: ") and message in error
    assert not (tmp_path / "out").exists()


def test_a_directory_that_holds_another_run(flags_of, tmp_path, monkeypatch, capsys):
    """One without --seeds."""
    assert call("run_classifier.py", flags_of("run_classifier.py", tmp_path / "out", max_steps=1), monkeypatch) == 0
    before = files_of(tmp_path / "out")
    capsys.readouterr()
    assert call("run_classifier.py", [*flags_of("run_classifier.py", tmp_path / "out"), *seeds(1, 2)], monkeypatch) == 2
    assert "already holds a run" in complaint(capsys.readouterr().err)
    assert files_of(tmp_path / "out") == before
