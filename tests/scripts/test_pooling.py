"""Learned pooling and heads of several layers, from training to answers."""

import json

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from bertorch import load_predictor
from bertorch.errors import UserError
from tests.scripts.launch import DATA, as_flags, call, journal

SCRIPTS = {
    "run_sentencebert.py": {"train_data_file": DATA / "nli" / "train.tsv", "label_file": DATA / "nli" / "labels.txt"},
    "run_simcse.py": {"train_data_file": DATA / "sentences" / "train.txt"},
    "run_batchneg.py": {"train_data_file": DATA / "paraphrases" / "train.tsv"},
}
TEXTS = ["房间干净", "服务员不好，早餐便宜"]


@pytest.fixture
def train(tiny_model, tmp_path, monkeypatch):
    """``train(script, **flags)`` -> its saved directory after three steps."""

    def run(script: str, **flags):
        values = {"pretrained_model_name_or_path": tiny_model("bert"), "saved_dir": tmp_path / "saved", "max_steps": 3,
                  "learning_rate": 1e-2, "max_seq_length": 48, "device": "cpu", "seed": 1, **flags}  # fmt: skip
        assert call(script, as_flags(**values), monkeypatch) == 0
        return tmp_path / "saved"

    return run


@pytest.mark.parametrize(
    ("flags", "widths"),
    [
        ({"pooling_mode": "scalar_mix", "pooling_layers": 2}, {"pooling.layer_weights": [2], "classifier.weight": [2, 32]}),
        ({"pooling_mode": "cls_layers", "pooling_layers": 2, "head_layers": 2},
         {"hidden.0.weight": [32, 64], "classifier.weight": [2, 32]}),
        ({"pooling_mode": "attention"}, {"pooling.scores": [32], "classifier.weight": [2, 32]}),
        ({"head_layers": 3, "head_activation": "relu"}, {"hidden.0.weight": [32, 32], "hidden.1.weight": [32, 32]}),
    ],
    ids=str,
)  # fmt: skip
def test_classifiers(train, flags, widths):
    """What is learned is saved, and predicts as in training."""
    reviews = DATA / "reviews"
    files = {
        "train_data_file": reviews / "train.tsv",
        "dev_data_file": reviews / "dev.tsv",
        "label_file": reviews / "labels.txt",
    }
    saved = train("run_classifier.py", save_steps=3, **files, **flags)
    weights = load_file(saved / "model.safetensors")
    for name, shape in widths.items():
        assert list(weights[name].shape) == shape and weights[name].any(), name
    description = json.loads((saved / "bertorch.json").read_text())
    assert description.items() >= flags.items()
    predictor = load_predictor(saved, device="cpu")
    assert predictor.model.hidden_act == flags.get("head_activation", "tanh")
    lines = (DATA / "reviews" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    right = sum(answer["label"] == label for answer, (_, label) in zip(predictor([t for t, _ in rows]), rows, strict=True))
    accuracy = journal(saved, "eval")[-1]["accuracy"]
    assert right / len(rows) == pytest.approx(accuracy)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scalar_mix_of_sentences(train, script):
    """sentence-transformers opens it, with the same vectors; the layers' weights have been learned."""
    saved = train(script, pooling_mode="scalar_mix", pooling_layers=2, **SCRIPTS[script])
    weights = load_file(saved / "1_WeightedLayerPooling" / "model.safetensors")["layer_weights"]
    assert not weights[:2].any() and weights.sum().item() == pytest.approx(1) and weights[2] != weights[3]
    ours = [answer["vector"] for answer in load_predictor(saved, device="cpu")(TEXTS)]
    theirs = SentenceTransformer(str(saved), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(torch.tensor(ours), theirs.float(), rtol=1e-4, atol=1e-5)


def test_layers_that_no_mode_takes(tiny_model, tmp_path, monkeypatch, capsys):
    flags = as_flags(
        pretrained_model_name_or_path=tiny_model("bert"), train_data_file=DATA / "reviews" / "train.tsv", max_seq_length=48,
        saved_dir=tmp_path / "saved", pooling_layers=2, device="cpu",
    )  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 2
    assert "--pooling_mode linear takes none" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["scalar_mix", "cls_layers", "attention"])
def test_a_plain_encoder_has_not_learned_it(tiny_model, mode):
    with pytest.raises(UserError, match="only a run can learn it"):
        load_predictor(tiny_model("bert"), device="cpu", pooling_mode=mode)
