"""scripts/half_precision.py: weights in 16 bit, and every file that the tokenizer needs."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from bertorch.data.tokenizing import load_tokenizer
from tests.scripts.launch import as_flags, call


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model", "30k-clean.model"])
def test_the_tokenizer_goes_with_the_weights(tiny_model, tmp_path, monkeypatch, name):
    shutil.copytree(tiny_model("albert"), tmp_path / "model")
    vocabulary = tmp_path / "model" / "vocab.txt"
    if name != "vocab.txt":
        vocabulary = vocabulary.rename(tmp_path / "model" / name)
    flags = as_flags(model_dir=tmp_path / "model", output_dir=tmp_path / "half")
    assert call("scripts/half_precision.py", flags, monkeypatch) == 0
    assert (tmp_path / "half" / name).read_bytes() == vocabulary.read_bytes()
    weights = load_file(tmp_path / "half" / "model.safetensors")
    assert weights and all(tensor.dtype == torch.float16 for tensor in weights.values())
    if name == "vocab.txt":
        assert load_tokenizer(tmp_path / "half")("天")["input_ids"] == load_tokenizer(tmp_path / "model")("天")["input_ids"]
