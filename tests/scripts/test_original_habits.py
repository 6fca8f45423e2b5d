"""What users of the original bertorch search logs for and look up."""

import json
import re

import pytest

from tests.scripts.launch import DATA, REVIEWS, as_flags, call, journal, training_flags

SHORT = {"max_steps": 2, "max_seq_length": 16, "device": "cpu", "batch_size": 8}


def log_of(script, saved_dir, capsys, monkeypatch, **flags):
    assert call(script, as_flags(**SHORT, **{"saved_dir": saved_dir, **flags}), monkeypatch) == 0
    return capsys.readouterr().err


@pytest.mark.parametrize("script", ["run_simcse.py", "run_batchneg.py"])
def test_correlations(script, small_encoder, tmp_path, capsys, monkeypatch):
    train = {"run_simcse.py": "sentences/train.txt", "run_batchneg.py": "paraphrases/train.tsv"}[script]
    files = {"train_data_file": DATA / train, "dev_data_file": DATA / "graded" / "dev.tsv"}
    log = log_of(
        script,
        tmp_path / "out",
        capsys,
        monkeypatch,
        pretrained_model_name_or_path=small_encoder,
        learning_rate=1e-3,
        **files,
    )
    found = re.findall(r"spearman corr: (-?\d\.\d{4}), pearson corr: (-?\d\.\d{4})", log)
    assert found == [(f"{line['spearman']:.4f}", f"{line['pearson']:.4f}") for line in journal(tmp_path / "out", "eval")]
    assert len(found) == 1


def test_f1_of_entities(small_encoder, tmp_path, capsys, monkeypatch):
    files = {name: DATA / "entities" / file for name, file in (
        ("train_data_file", "train.jsonl"), ("dev_data_file", "dev.jsonl"), ("label_file", "labels.txt"))}  # fmt: skip
    log = log_of("run_ner.py", tmp_path / "out", capsys, monkeypatch, pretrained_model_name_or_path=small_encoder, **files)
    found = re.findall(r"eval loss: (\d\.\d{5}), F1: (\d\.\d{5})", log)
    assert found == [(f"{line['loss']:.5f}", f"{line['f1']:.5f}") for line in journal(tmp_path / "out", "eval")]
    assert len(found) == 1


@pytest.mark.parametrize("script", ["run_classifier.py", "run_pretraining.py"])
def test_local_rank_is_explained(script, monkeypatch, capsys):
    assert call(script, ["--help"], monkeypatch) == 0
    assert "--local_rank LOCAL_RANK" in capsys.readouterr().out


@pytest.mark.parametrize("spelling", ["--local_rank=0", "--local-rank=0"])
def test_both_spellings_of_the_launchers(spelling, small_encoder, tmp_path, monkeypatch):
    flags = [*training_flags(small_encoder, tmp_path / "out", max_steps=1, device="cpu"), spelling]
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "bertorch.json").read_text())["arguments"]["local_rank"] == 0


@pytest.mark.parametrize("do_test", [False, True])
def test_a_test_set_that_is_not_read_is_a_warning(do_test, small_encoder, tmp_path, monkeypatch, capsys):
    more = {"test_data_file": REVIEWS / "test.tsv", "do_test": do_test}
    assert call("run_classifier.py", training_flags(small_encoder, tmp_path / "out", max_steps=1, **more), monkeypatch) == 0
    said = capsys.readouterr().err.count("test.tsv is not read; add --do_test to predict it after training")
    assert said == (not do_test)
