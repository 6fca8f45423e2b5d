"""RoFormer-v2 computes what the authors' PyTorch code computes; rotary positions that were trained are kept and trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from bertorch.encoder import Encoder, EncoderConfig, TokenBatch, load_config, load_encoder
from bertorch.encoder.weights import encoder_tensors, hugging_face_names, read_weights
from bertorch.errors import UserError
from bertorch.tasks.classification.head import load_trained_classifier
from bertorch.tasks.pretraining.head import load_trained_language_model
from tests.encoder.test_parity import SHAPES, assert_close, assert_same, draw

RECORDED = Path(__file__).with_name("roformer_v2.safetensors")  # by record_roformer_v2.py, which says how


@pytest.fixture
def recorded(tmp_path):
    """What was recorded: a model directory, tensors, and the batch."""
    with safe_open(RECORDED, framework="pt") as file:
        config, lengths = (json.loads(file.metadata()[name]) for name in ("config", "lengths"))
    tensors = load_file(RECORDED)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = {name: x for name, x in tensors.items() if name.startswith(("roformer.", "cls.", "classifier."))}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path, tensors, TokenBatch.from_lengths(tensors["input_ids"], tensors["token_type_ids"], lengths)


def test_v2_is_that_of_its_authors(recorded):
    directory, expected, batch = recorded
    encoder, _ = load_encoder(directory)
    states = encoder.eval()(batch)
    assert_close(states, expected["states"], "states")
    assert_close(load_trained_language_model(directory).token_logits(states), expected["token_logits"], "masked tokens")
    assert_close(load_trained_classifier(directory, 3).logits(batch), expected["logits"], "classifier")
    (states * expected["weight"]).sum().backward()
    parameters = dict(encoder.named_parameters())
    names = hugging_face_names(encoder.config, list(parameters))
    recorded_names = {name for name in expected if name.startswith("gradient of ")}
    assert {f"gradient of roformer.{theirs}" for theirs in names.values()} == recorded_names
    for ours, theirs in names.items():
        assert_close(parameters[ours].grad, expected[f"gradient of roformer.{theirs}"], theirs)


def test_v2_is_saved_as_it_was(recorded):
    directory, expected, _ = recorded
    encoder, _ = load_encoder(directory)
    saved = encoder_tensors(encoder)
    table = saved.pop("roformer.encoder.embed_positions.weight")
    assert saved.keys() == {name for name in expected if name.startswith("roformer.")}
    assert all(torch.equal(x, expected[name]) for name, x in saved.items())
    assert table.shape == (32, 8)
    config = encoder.config.to_dict()
    assert config.items() >= json.loads((directory / "config.json").read_text()).items() - {("model_type", "roformer")}
    assert EncoderConfig.from_dict(config) == encoder.config
    model = load_trained_language_model(directory)
    assert not any("bias" in name or "transform" in name for name in model.saved_files(8)["model.safetensors"])


def test_transformers_refuses_v2(recorded):
    """It would leave out what it lacks, and compute something else."""
    directory, _, _ = recorded
    (directory / "config.json").write_text(json.dumps(load_config(directory).to_dict()))
    with pytest.raises(ValueError, match="roformer_v2"):
        AutoConfig.from_pretrained(directory)
    assert load_config(directory).family.rms_norm


def test_v2_counts_its_weights(recorded):
    encoder, _ = load_encoder(recorded[0])
    assert encoder.config.num_parameters == sum(parameter.numel() for parameter in encoder.parameters())


def test_v2_from_scratch(recorded):
    """A truncated normal whose deviation is 1 / sqrt(width * layers) after truncation."""
    config = EncoderConfig.from_dict({**load_config(recorded[0]).to_dict(), "hidden_size": 128, "vocab_size": 900})
    torch.manual_seed(0)
    encoder = Encoder(config)
    for weight in (encoder.embeddings.word.weight, encoder.blocks[1].query.weight):
        assert weight.std().item() * (128 * 2) ** 0.5 == pytest.approx(1, rel=0.02)
        assert weight.abs().max().item() * (128 * 2) ** 0.5 == pytest.approx(2 * 1.13684723, rel=0.02)
    assert encoder.blocks[0].output.weight.std().item() * (24 * 2) ** 0.5 == pytest.approx(1, rel=0.05)


def test_halves_of_v2_are_refused(recorded):
    raw = json.loads((recorded[0] / "config.json").read_text())
    for change in ({"use_bias": True}, {"norm_type": "layer_norm"}, {"embedding_size": 8}):
        with pytest.raises(UserError, match="RoFormer-v2"):
            EncoderConfig.from_dict({**raw, **change})


def with_table(tiny_model, tmp_path, change: torch.Tensor | float, kind: torch.dtype = torch.float32) -> Path:
    """A RoFormer whose saved table of sines is changed, and rounded to a type."""
    directory = Path(shutil.copytree(tiny_model("roformer"), tmp_path / f"roformer-{len(list(tmp_path.iterdir()))}"))
    tensors = load_file(directory / "model.safetensors")
    name = "encoder.embed_positions.weight"
    save_file({**tensors, name: (tensors[name] + change).to(kind)}, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_sines_stay_computed(tiny_model, tmp_path, kind):
    encoder, rest = load_encoder(with_table(tiny_model, tmp_path, 0.0, kind))
    assert encoder.embeddings.rotary is None and not rest


@pytest.mark.parametrize("change", [1e-3, 0.3], ids=["a little", "much"])
@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES)
def test_trained_positions(tiny_model, tmp_path, change, lengths):
    """transformers trains its table once it is loaded; so does this encoder, and both compute the same from it."""
    noise = torch.randn(96, 8, generator=torch.Generator().manual_seed(0)) * change
    directory = with_table(tiny_model, tmp_path, noise)
    assert_same(directory, lengths)
    encoder, rest = load_encoder(directory)
    theirs = AutoModel.from_pretrained(directory)
    batch = draw(lengths, encoder.config.vocab_size, 2)
    encoder.eval()(batch).square().sum().backward()
    table = theirs.encoder.embed_positions.weight
    assert not rest and torch.equal(encoder.embeddings.rotary.weight, table)
    assert encoder.embeddings.rotary.weight.grad[: max(lengths)].abs().sum() > 0 or max(lengths) == 1
    assert torch.equal(encoder_tensors(encoder, "")["encoder.embed_positions.weight"], table)
    assert read_weights(directory).keys() == encoder_tensors(encoder, "").keys()


def test_trained_positions_end(tiny_model, tmp_path):
    encoder, _ = load_encoder(with_table(tiny_model, tmp_path, 0.3))
    with pytest.raises(UserError, match="96 trained positions"):
        encoder(draw([97], 50, 2))
