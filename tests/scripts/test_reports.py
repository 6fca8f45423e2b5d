"""What each training script leaves for its report, and the scripts that read it."""

import html
import json
import os
import re
import shlex
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from bertorch.reporting import report
from bertorch.reporting.runs import latest_state
from bertorch.tasks.classification import report as classification
from bertorch.training import run as training_run
from bertorch.training.checkpoints import load_state
from tests.reporting.test_runs import assert_self_contained
from tests.scripts.launch import DATA, REVIEWS, as_flags, call, complaint, journal, run, training_flags
from tests.scripts.test_run_mrc import WINDOWS

HOSTILE = "<script>alert(1)</script>房间很好"
GRADED = {"dev_data_file": DATA / "graded" / "dev.tsv", "pooling_mode": "mean"}
# What each script needs beyond the flags of all, the sections of its report, and the parts of its evaluation.json.
ENTITIES = {"train_data_file": "train.jsonl", "dev_data_file": "dev.jsonl", "label_file": "labels.txt"}
SCRIPTS = {
    "run_ner.py": (
        {name: DATA / "entities" / file for name, file in ENTITIES.items()}, ["Entities", "Mistakes"], {"entities"},
    ),
    "run_mrc.py": (
        {"train_data_file": DATA / "reading" / "train.json", "dev_data_file": DATA / "reading" / "dev.json", **WINDOWS},
        ["Answers", "Kinds of answers", "Wrong answers, the surest first"], {"reading"},
    ),
    "run_choice.py": (
        {"train_data_file": DATA / "choice" / "train.jsonl", "dev_data_file": DATA / "choice" / "dev.jsonl",
         "max_seq_length": 64, "max_qa_length": 24},
        ["Choices", "By number of options", "Calibration", "Most confidently wrong"], {"choice"},
    ),
    "run_simcse.py": (
        {**GRADED, "train_data_file": DATA / "sentences" / "train.txt"},
        ["Sentence vectors", "Map of the vectors", "Pairs where cosine and score disagree most"], {"sentence_vectors"},
    ),
    "run_batchneg.py": (
        {**GRADED, "train_data_file": DATA / "paraphrases" / "train.tsv"}, ["Cosines by score"], {"sentence_vectors"},
    ),
    "run_sentencebert.py": (
        {"train_data_file": DATA / "nli" / "train.tsv", "dev_data_file": DATA / "nli" / "dev.tsv", "pooling_mode": "mean",
         "label_file": DATA / "nli" / "labels.txt", "is_nli": True},
        ["Classes", "Cosines by label", "label neutral"], {"classification", "sentence_vectors"},
    ),
    "run_pretraining.py": (
        {"train_data_file": REVIEWS / "labels.txt", "dev_data_file": REVIEWS / "labels.txt"}, ["masked_lm_accuracy"], set(),
    ),
}  # fmt: skip


def flags_of(encoder, saved_dir, **flags):
    values = {
        "max_seq_length": 32,
        "max_steps": 2,
        "logging_steps": 1,
        "batch_size": 8,
        "eval_batch_size": 128,
        "device": "cpu",
    }
    return as_flags(pretrained_model_name_or_path=encoder, saved_dir=saved_dir, **{**values, **flags})


def content(directory, name):
    return json.loads((directory / name).read_text(encoding="utf-8"))


def page_of(directory):
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert_self_contained(text)
    assert "left out" not in text.lower(), text
    return text


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script(small_encoder, tmp_path, monkeypatch, script):
    own, sections, details = SCRIPTS[script]
    assert call(script, flags_of(small_encoder, tmp_path / "out", **own), monkeypatch) == 0
    evaluation, description = content(tmp_path / "out", "evaluation.json"), content(tmp_path / "out", "bertorch.json")
    assert set(evaluation) - {"global_step", "metrics"} == details
    assert evaluation["metrics"] == description["metrics"] and evaluation["global_step"] == 2
    assert "token_ids" not in (tmp_path / "out" / "evaluation.json").read_text()
    data = content(tmp_path / "out", "data_report.json")
    assert set(data) == {"train", "dev"} and all(one["figures"] for one in data.values())
    assert all(line["peak_memory_mb"] > 50 for line in journal(tmp_path / "out", "train"))
    page = page_of(tmp_path / "out")
    assert all(section in page for section in (*sections, "Curves", "Data", "peak memory, MB"))


class TestClassifier:
    @pytest.fixture(scope="class")
    def saved(self, small_encoder, tmp_path_factory):
        """A run with a test set that evaluated after steps 2 and 4 on rows with a hostile text."""
        directory = tmp_path_factory.mktemp("<b>") / "out"
        dev = directory.parent / "dev.tsv"
        rows = (REVIEWS / "dev.tsv").read_text(encoding="utf-8").splitlines()[:30]
        dev.write_text("\n".join([*rows, *(f"{HOSTILE}\t{label}" for label in ("negative", "positive"))]) + "\n")
        how = {"save_steps": 2, "logging_steps": 2, "save_best_model": True, "do_test": True, "device": "cpu"}
        flags = training_flags(small_encoder, directory, dev_data_file=dev, test_data_file=REVIEWS / "test.tsv", **how)
        with pytest.MonkeyPatch.context() as patch:
            assert call("run_classifier.py", flags, patch) == 0
        return directory

    def test_details_are_those_of_the_saved_model(self, saved):
        evaluation, description = content(saved, "evaluation.json"), content(saved, "bertorch.json")
        first, second = journal(saved, "eval")
        best = second if second["accuracy"] > first["accuracy"] else first
        assert evaluation["global_step"] == description["global_step"] == best["global_step"]
        found = evaluation["classification"]
        assert sum(found["right"]) / sum(found["labelled"]) == pytest.approx(best["accuracy"])
        assert found["wrong"] == len(found["examples"]) == 32 - sum(found["right"])

    def test_the_page(self, saved):
        page = page_of(saved)
        assert all(part in page for part in ("Confusion matrix", "expected calibration error", "test set", "test accuracy"))
        examples = content(saved, "evaluation.json")["classification"]["examples"]
        (hostile,) = [one for one in examples if one["line"] > 30]  # the same text twice, one of them is right
        assert "script" in hostile["texts"][0] and "房间很好" in hostile["texts"][0]
        assert "&lt;b&gt;" in page and "&lt; script &gt;" in page and "<b>" not in page.split("<h1>")[1].split("</p>")[0]

    def test_report_and_compare_on_demand(self, saved, tmp_path, monkeypatch, capsys):
        copy = tmp_path / "runs" / "copy"
        shutil.copytree(saved, copy, ignore=shutil.ignore_patterns("training_state", "report.html"))
        assert call("scripts/report.py", [str(copy)], monkeypatch) == 0
        assert capsys.readouterr().out == f"{copy / 'report.html'}: 1 run\n"
        assert len(page_of(copy)) == pytest.approx(len(page_of(saved)), rel=0.02)  # but for its path

        both = tmp_path / "both.html"
        assert call("scripts/report.py", [str(copy), str(saved), "--output_file", str(both)], monkeypatch) == 0
        assert_self_contained(both.read_text(encoding="utf-8"))
        assert capsys.readouterr().out == f"{both}: 2 runs\n"

        assert call("scripts/compare.py", [str(tmp_path), "--format", "tsv", "--sort", "accuracy"], monkeypatch) == 0
        head, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
        found = dict(zip(head, row, strict=True))
        assert float(found["best accuracy"]) == content(saved, "bertorch.json")["metrics"]["accuracy"]
        assert (found["run"], found["steps"]) == ("copy", "4") and float(found["peak MB"]) > 50

    @pytest.mark.parametrize(
        ("script", "flags", "said"),
        [
            ("scripts/report.py", ["absent"], "absent: no such directory"),
            ("scripts/report.py", ["."], ".: no run here or below"),
            ("scripts/compare.py", ["."], ".: no run here or below"),
            ("scripts/report.py", ["SAVED", "--output_file", "."], "--output_file .: this is a directory"),
            ("scripts/compare.py", ["SAVED", "--sort", "em"], "--sort em: no run has this metric"),
        ],
    )
    def test_mistakes_are_one_line(self, saved, tmp_path, monkeypatch, capsys, script, flags, said):
        monkeypatch.chdir(tmp_path)
        assert call(script, [str(saved) if flag == "SAVED" else flag for flag in flags], monkeypatch) == 2
        assert said in complaint(capsys.readouterr().err)

    def test_resuming_keeps_them_and_overwriting_removes_them(self, saved, small_encoder, tmp_path, monkeypatch):
        copy = tmp_path / "out"
        shutil.copytree(saved, copy)
        before = (copy / "evaluation.json").read_bytes()
        dev = {"dev_data_file": saved.parent / "dev.tsv", "save_best_model": True, "save_steps": 2, "device": "cpu"}
        os.unlink(copy / "report.html")
        assert call("run_classifier.py", training_flags(small_encoder, copy, resume=True, **dev), monkeypatch) == 0
        assert (copy / "evaluation.json").read_bytes() == before and (copy / "report.html").is_file()
        flags = training_flags(small_encoder, copy, overwrite=True, dev_data_file=None, max_steps=1, device="cpu")
        assert call("run_classifier.py", flags, monkeypatch) == 0
        assert not (copy / "evaluation.json").exists() and "There was no evaluation." in page_of(copy)


def test_a_report_that_cannot_be_written_fails_no_run(small_encoder, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no\nway")

    monkeypatch.setattr(report, "write_report", fail)
    flags = training_flags(small_encoder, tmp_path / "out", dev_data_file=None, max_steps=1, device="cpu")
    assert call("run_classifier.py", flags, monkeypatch) == 0
    error = capsys.readouterr().err
    assert error.count("no report was written (no)") == 1 and "Traceback" not in error
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_details_that_cannot_be_made_fail_no_run(small_encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classification, "calibration", lambda *_: 1 / 0)
    flags = training_flags(small_encoder, tmp_path / "out", max_steps=1, eval_batch_size=128, device="cpu")
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert capsys.readouterr().err.count("will lack the details of this evaluation (ZeroDivisionError") == 1
    assert set(content(tmp_path / "out", "evaluation.json")) == {"global_step", "metrics"}


def test_seeds_are_shown_side_by_side(small_encoder, tmp_path, monkeypatch):
    flags = training_flags(small_encoder, tmp_path / "out", max_steps=1, eval_batch_size=128, device="cpu")
    assert call("run_classifier.py", [*flags, "--seeds", "3", "4"], monkeypatch) == 0
    assert "<h1>2 runs" in page_of(tmp_path / "out") and "--seed<" in page_of(tmp_path / "out")
    for seed in (3, 4):
        assert f"<h1>seed-{seed}" in page_of(tmp_path / "out" / f"seed-{seed}")
    best = content(tmp_path / "out", "seeds.json")["best_seed"]
    expected = content(tmp_path / "out" / f"seed-{best}", "evaluation.json")
    assert content(tmp_path / "out", "evaluation.json") == expected


def test_command_date_and_duration(small_encoder, tmp_path, monkeypatch):
    """The command is the one that was typed; a resumed run keeps its beginning, and its parts add up."""
    flags = {"save_steps": 1, "max_steps": 1, "device": "cpu", "dev_data_file": None}
    typed = training_flags(small_encoder, tmp_path / "a dir", **flags)
    before = datetime.now().astimezone().replace(microsecond=0)
    assert call("run_classifier.py", typed, monkeypatch) == 0
    description = content(tmp_path / "a dir", "bertorch.json")
    script, *found = shlex.split(description["command"])
    assert (Path(script).name, found) == ("run_classifier.py", typed)
    assert before <= datetime.fromisoformat(description["started"]) <= datetime.now().astimezone()
    state = latest_state(tmp_path / "a dir") / "state.json"
    assert {name: json.loads(state.read_text())[name] for name in ("command", "started")} == {
        name: description[name] for name in ("command", "started")
    }
    page = page_of(tmp_path / "a dir")
    assert f"started {description['started']}, took " in page and html.escape(f"'{tmp_path / 'a dir'}'") in page

    def of_long_ago(*how):
        tensors, state = load_state(*how)
        return tensors, {**state, "started": "2031-02-03 04:05:06+08:00", "seconds": 7200.0}

    monkeypatch.setattr(training_run, "load_state", of_long_ago)
    again = training_flags(small_encoder, tmp_path / "a dir", **{**flags, "max_steps": 2}, resume=True)
    assert call("run_classifier.py", again, monkeypatch) == 0
    description = content(tmp_path / "a dir", "bertorch.json")
    assert (description["started"], shlex.split(description["command"])[1:]) == ("2031-02-03 04:05:06+08:00", again)
    assert 7200 <= journal(tmp_path / "a dir", "train")[-1]["seconds"] < 10_000
    assert re.search(r"started 2031-02-03 04:05:06\+08:00, took 2 h \d+ min", page_of(tmp_path / "a dir"))


@pytest.mark.slow
def test_two_processes_write_one_report(small_encoder, tmp_path):
    flags = flags_of(small_encoder, tmp_path / "out", train_data_file=REVIEWS / "train.tsv", max_steps=1,
                     dev_data_file=REVIEWS / "dev.tsv", label_file=REVIEWS / "labels.txt")  # fmt: skip
    done = run("run_classifier.py", flags, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the report of the run is in") == 1
    assert "Classes" in page_of(tmp_path / "out")
