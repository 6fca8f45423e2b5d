"""Flags of dropout, the optimizer and the warm-up are in effect in every script."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import bertorch.training.run
from tests.scripts.launch import DATA, as_flags, call, journal

SCRIPTS = {
    "run_classifier.py": {"train_data_file": DATA / "reviews/train.tsv", "label_file": DATA / "reviews/labels.txt"},
    "run_sentencebert.py": {"train_data_file": DATA / "nli/train.tsv", "label_file": DATA / "nli/labels.txt"},
    "run_simcse.py": {"train_data_file": DATA / "sentences/train.txt"},
    "run_batchneg.py": {"train_data_file": DATA / "paraphrases/train.tsv"},
    "run_ner.py": {"train_data_file": DATA / "entities/train.jsonl", "label_file": DATA / "entities/labels.txt"},
    "run_mrc.py": {"train_data_file": DATA / "reading/train.json", "max_query_length": 24, "doc_stride": 16},
    "run_choice.py": {"train_data_file": DATA / "choice/train.jsonl", "max_qa_length": 24},
    "run_pretraining.py": {"train_data_file": DATA / "sentences/train.txt"},
}


@pytest.fixture
def trained(tiny_model, tmp_path, monkeypatch):
    """``trained(script, name, flags, **values)`` -> the saved directory of a run on the CPU."""

    def run(script, name, further=(), **values):
        flags = {
            "pretrained_model_name_or_path": tiny_model("bert"), "saved_dir": tmp_path / name, "max_steps": 2, "seed": 1,
            "learning_rate": 1e-2, "max_seq_length": 48, "batch_size": 8, "device": "cpu", **SCRIPTS[script], **values,
        }  # fmt: skip
        assert call(script, [*as_flags(**flags), *further], monkeypatch) == 0
        return tmp_path / name

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_dropout(script, trained, tiny_model, tmp_path):
    """Without it a run trains as from a configuration that has none; the saved one keeps its own."""
    still = shutil.copytree(tiny_model("bert"), tmp_path / "still")
    for directory, changes in ((still, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
                               (shutil.copytree(tiny_model("bert"), tmp_path / "own"), {})):  # fmt: skip
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "classifier_dropout": 0.1, **changes}))
    own = ["--dropout", "0"] if script == "run_simcse.py" else []  # it has dropout of its own
    flagged = trained(script, "flagged", ["--dropout", "0"], pretrained_model_name_or_path=tmp_path / "own")
    expected = trained(script, "expected", own, pretrained_model_name_or_path=still)
    found, wanted = (load_file(directory / "model.safetensors") for directory in (flagged, expected))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert json.loads((flagged / "config.json").read_text())["hidden_dropout_prob"] == 0.1
    if script == "run_classifier.py":
        plain = load_file(trained(script, "plain", pretrained_model_name_or_path=tmp_path / "own") / "model.safetensors")
        assert not torch.equal(plain["classifier.weight"], wanted["classifier.weight"])


@pytest.mark.parametrize(
    ("optimizer", "flags", "expected"),
    [("adamw", [], ((0.9, 0.999), 1e-8)), ("lamb", [], ((0.9, 0.999), 1e-6)),
     ("adamw", ["--adam_betas", "0.8", "0.95", "--adam_epsilon", "1e-3"], ((0.8, 0.95), 1e-3)),
     ("lamb", ["--adam_betas", "0", "0.5"], ((0.0, 0.5), 1e-6))],
)  # fmt: skip
def test_optimizer(optimizer, flags, expected, trained, monkeypatch):
    made, make = [], bertorch.training.run.make_optimizer
    monkeypatch.setattr(bertorch.training.run, "make_optimizer", lambda *a, **k: made.append(make(*a, **k)) or made[0])
    trained("run_classifier.py", "saved", flags, optimizer=optimizer)
    assert {(group["betas"], group["eps"]) for group in made[0].param_groups} == {expected}


def test_warmup_steps(trained):
    """The rate rises from 0 in three updates, then falls over the two that are left."""
    saved = trained("run_classifier.py", "saved", ["--warmup_steps", "3"], max_steps=5, logging_steps=1, learning_rate=1e-3)
    rates = [line["learning_rate"] for line in journal(saved, "train")]
    assert rates == pytest.approx([0.0, 1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3 / 2])


def test_two_warmups(tmp_path, monkeypatch, capsys):
    flags = as_flags(train_data_file=DATA / "reviews/train.tsv", saved_dir=tmp_path, warmup_steps=3, warmup_proportion=0.1)
    assert call("run_classifier.py", flags, monkeypatch) == 2
    assert "--warmup_steps and --warmup_proportion contradict" in capsys.readouterr().err


def test_max_predictions(trained):
    """Of texts of up to 46 tokens, 15 % is more than one."""
    saved = trained("run_pretraining.py", "limited", ["--max_predictions", "1"])
    other = trained("run_pretraining.py", "free")
    found, free = (load_file(directory / "model.safetensors") for directory in (saved, other))
    assert not torch.equal(found["cls.predictions.bias"], free["cls.predictions.bias"])
