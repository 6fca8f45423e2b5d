"""Training tricks: averages are resumed, and what does not fit is refused. What they do is tested in test_wiring.py."""

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
        "run_choice.py": {"train_data_file": DATA / "choice/train.jsonl", "max_seq_length": 64, "max_qa_length": 24},
        "run_pretraining.py": {"train_data_file": DATA / "sentences/train.txt", "objectives": "mlm"},
    }


def short(encoder, saved_dir, **flags):
    values = {"pretrained_model_name_or_path": encoder, "saved_dir": saved_dir, "max_steps": 2, "logging_steps": 1}
    return as_flags(**{**values, "batch_size": 8, "device": "cpu", "learning_rate": 1e-3, "seed": 3, **flags})


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
    ("run_classifier.py", {"fgm_epsilon": 1, "freeze_embeddings": True}, "frozen ones have none; leave one flag out"),
    ("run_sentencebert.py", {"objective": "cosent", "r_drop_weight": 1, "is_nli": False, "label_file": None},
     "--r_drop_weight is for classes; --objective cosent has none"),
    ("run_sentencebert.py", {"objective": "triplet", "focal_gamma": 1, "is_nli": False, "label_file": None},
     "--focal_gamma is for classes"),
    ("run_ner.py", {"use_crf": True, "label_smoothing": 0.1}, "--label_smoothing is for tags that are decided one by one"),
    ("run_ner.py", {"ner_head": "global_pointer", "r_drop_weight": 1}, "--r_drop_weight is for tags"),
    ("run_ner.py", {"ner_head": "global_pointer", "dropout_samples": 2}, "--dropout_samples is for tags"),
    ("run_classifier.py", {"ema_decay": 1}, "must be at least 0 and below 1"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "given", "said"), REFUSED)
def test_what_does_not_fit_is_refused(tasks, script, given, said, small_encoder, tmp_path, monkeypatch, capsys):
    flags = short(small_encoder, tmp_path / "out", **{**tasks[script], **given})
    assert call(script, flags, monkeypatch) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "out" / "model.safetensors").exists()
