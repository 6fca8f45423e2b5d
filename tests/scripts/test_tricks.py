"""The training tricks on every script: they train, they save what they say, and what does not fit is refused in one line."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file

from tests.scripts.launch import DATA, as_flags, call, journal, training_flags
from tests.scripts.test_run_mrc import WINDOWS, rows, write_squad

PAIRS = {"train_data_file": DATA / "nli" / "train.tsv", "label_file": DATA / "nli" / "labels.txt", "is_nli": True}
ENTITIES = {"train_data_file": DATA / "entities" / "train.jsonl", "label_file": DATA / "entities" / "labels.txt"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Flags of each script."""
    directory = tmp_path_factory.mktemp("tricks")
    passages = write_squad(directory / "train.json", rows(20, random.Random(0)))
    return {
        "run_classifier.py": {"train_data_file": DATA / "reviews/train.tsv", "label_file": DATA / "reviews/labels.txt"},
        "run_sentencebert.py": {**PAIRS, "pooling_mode": "mean"},
        "run_simcse.py": {"train_data_file": DATA / "sentences/train.txt", "pooling_mode": "mean"},
        "run_batchneg.py": {"train_data_file": DATA / "paraphrases/train.tsv", "pooling_mode": "mean"},
        "run_ner.py": ENTITIES,
        "run_mrc.py": {"train_data_file": passages, **WINDOWS},
        "run_pretraining.py": {"train_data_file": DATA / "sentences/train.txt", "objectives": "mlm"},
    }


SCRIPTS = ("run_classifier.py", "run_sentencebert.py", "run_simcse.py", "run_batchneg.py", "run_ner.py", "run_mrc.py",
           "run_pretraining.py")  # fmt: skip


def short(encoder, saved_dir, **flags):
    values = {"pretrained_model_name_or_path": encoder, "saved_dir": saved_dir, "max_steps": 2, "logging_steps": 1}
    return as_flags(**{**values, "batch_size": 8, "device": "cpu", "learning_rate": 1e-3, "seed": 3, **flags})


def first_loss(saved_dir):
    return journal(saved_dir, "train")[0]["loss"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_them(tasks, script, small_encoder, tmp_path, monkeypatch):
    plain = short(small_encoder, tmp_path / "plain", **tasks[script])
    assert call(script, plain, monkeypatch) == 0
    tricks = {"fgm_epsilon": 1.0, "r_drop_weight": 4.0, "ema_decay": 0.9, "layer_decay": 0.8}
    assert call(script, short(small_encoder, tmp_path / "tricks", **tasks[script], **tricks), monkeypatch) == 0
    assert first_loss(tmp_path / "tricks") != first_loss(tmp_path / "plain")
    frozen = {"freeze_embeddings": True}
    assert call(script, short(small_encoder, tmp_path / "frozen", **tasks[script], **frozen), monkeypatch) == 0
    saved = {name: load_file(tmp_path / name / "model.safetensors") for name in ("plain", "tricks", "frozen")}
    words = next(name for name in saved["plain"] if name.endswith("word_embeddings.weight"))
    top = next(name for name in saved["plain"] if name.endswith("layer.0.output.dense.weight"))
    assert not torch.equal(saved["plain"][words], saved["tricks"][words])
    assert not torch.equal(saved["plain"][words], saved["frozen"][words])  # those it began with
    assert not torch.equal(saved["plain"][top], saved["frozen"][top])


def test_averages_are_evaluated_saved_and_resumed(small_encoder, tmp_path, monkeypatch):
    def train(name, steps, **more):
        given = {"max_steps": steps, "save_steps": 3, "logging_steps": 1, "scheduler": "constant", "device": "cpu", **more}
        flags = training_flags(small_encoder, tmp_path / name, ema_decay=0.9, batch_size=8, **given)
        assert call("run_classifier.py", flags, monkeypatch) == 0
        state = next((tmp_path / name / "training_state").glob("step-*"))
        averages = torch.load(state / "tensors.pt", weights_only=True)["averages"]
        return load_file(tmp_path / name / "model.safetensors"), load_file(state / "model.safetensors"), averages

    saved, trained, averages = train("whole", 6)
    name = "bert.embeddings.word_embeddings.weight"
    ours = "encoder.embeddings.word.weight"
    shape = trained[ours].shape
    (average,) = [one for one in averages if one.shape == shape]
    assert torch.equal(saved[name], average)
    assert not torch.equal(saved[name], trained[ours])
    train("halves", 3)
    resumed, _, _ = train("halves", 6, resume=True)
    assert all(torch.equal(resumed[key], saved[key]) for key in saved)
    whole, halves = ([line["loss"] for line in journal(tmp_path / one, "eval")] for one in ("whole", "halves"))
    assert whole == halves


REFUSED = [
    ("run_classifier.py", {"class_weights": "1"}, "--class_weights 1: give balanced, or a number above 0 for each of the 2"),
    ("run_simcse.py", {"freeze_layers": 1}, "--freeze_layers 1 leaves nothing to train; freeze fewer"),
    ("run_classifier.py", {"freeze_layers": 9}, "--freeze_layers 9: the encoder has 1 layers"),
    ("run_classifier.py", {"fgm_epsilon": 1, "freeze_embeddings": True}, "frozen ones have none"),
    ("run_sentencebert.py", {"objective": "cosent", "r_drop_weight": 1, "is_nli": False, "label_file": None},
     "--r_drop_weight is for classes; --objective cosent has none"),
    ("run_sentencebert.py", {"objective": "triplet", "focal_gamma": 1, "is_nli": False, "label_file": None},
     "--focal_gamma is for classes"),
    ("run_ner.py", {"use_crf": True, "label_smoothing": 0.1}, "--label_smoothing is for tags that are decided one by one"),
    ("run_ner.py", {"ner_head": "global_pointer", "r_drop_weight": 1}, "--r_drop_weight is for tags"),
    ("run_ner.py", {"ner_head": "global_pointer", "dropout_samples": 2}, "--dropout_samples is for tags"),
    ("run_classifier.py", {"ema_decay": 1}, "must lie between 0 and below 1"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "given", "said"), REFUSED)
def test_what_does_not_fit_is_refused(tasks, script, given, said, small_encoder, tmp_path, monkeypatch, capsys):
    flags = short(small_encoder, tmp_path / "out", **{**tasks[script], **given})
    assert call(script, flags, monkeypatch) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "flags", [{"label_smoothing": 0.1}, {"focal_gamma": 2}, {"class_weights": "balanced"}, {"dropout_samples": 3}]
)
@pytest.mark.parametrize("script", ["run_classifier.py", "run_ner.py"])
def test_losses_over_classes(tasks, script, flags, small_encoder, tmp_path, monkeypatch):
    """At the first step, before anything is learnt: smoothing changes little, a focal term (1/n of n classes) much."""
    losses = []
    for name, given in (("plain", {}), ("trick", flags)):
        assert call(script, short(small_encoder, tmp_path / name, max_steps=1, **tasks[script], **given), monkeypatch) == 0
        losses.append(first_loss(tmp_path / name))
        description = json.loads((tmp_path / name / "bertorch.json").read_text(encoding="utf-8"))
        assert "labels" in description
    if "focal_gamma" in flags:
        assert losses[1] < 0.98 * losses[0]
    else:
        assert losses[1] == pytest.approx(losses[0], rel=0.25) and losses[1] != losses[0]
