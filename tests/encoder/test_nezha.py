"""NEZHA computes what the last transformers that has it computes: states, gradients, and the scores of every head."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from bertorch.encoder import EncoderConfig, TokenBatch, load_config, load_encoder
from bertorch.encoder.layers import first_tokens
from bertorch.encoder.weights import encoder_tensors, hugging_face_names
from bertorch.heads.loading import load_trained_head
from bertorch.tasks.classification.head import load_trained_classifier
from bertorch.tasks.entities.head import Tagger
from bertorch.tasks.entities.tags import TagSet
from bertorch.tasks.pretraining.head import LanguageModel, load_language_model
from bertorch.tasks.reading.head import Reader
from tests.encoder.test_parity import assert_close

RECORDED = Path(__file__).with_name("nezha.safetensors")  # by record_nezha.py, which says how
TAGS = TagSet(["O", "B-a", "I-a", "B-b"], "bio")


@pytest.fixture(params=["short", "long"])
def recorded(request, tmp_path):
    """What was recorded of a model: its directory, with the pretraining heads, its tensors, and the batch."""
    with safe_open(RECORDED, framework="pt") as file:
        said = json.loads(file.metadata()[request.param])
    tensors = load_file(RECORDED)
    tensors = {name.split("/")[1]: x for name, x in tensors.items() if name.startswith(f"{request.param}/")}
    (tmp_path / "config.json").write_text(json.dumps(said["config"]))
    save_file(
        {name: x for name, x in tensors.items() if name.startswith(("nezha.", "cls."))}, tmp_path / "model.safetensors"
    )
    return tmp_path, tensors, TokenBatch.from_lengths(tensors["input_ids"], tensors["token_type_ids"], said["lengths"])


def with_head(directory: Path, tensors: dict[str, torch.Tensor], head: str, layer: str) -> Path:
    weights = load_file(directory / "model.safetensors")
    head = {f"{layer}.{kind}": tensors[f"{head} {kind}"] for kind in ("weight", "bias")}
    save_file({**weights, **head}, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_states_and_gradients(recorded, dtype):
    """In double precision, rounded to single as what is recorded, each gradient by itself; in single by the largest."""
    directory, expected, batch = recorded
    encoder, rest = load_encoder(directory, with_pooler=True)
    assert all(name.startswith("cls.") for name in rest)
    states = encoder.to(dtype).eval()(batch)
    pooled = encoder.pooler(first_tokens(states, batch))
    assert_close(states.float(), expected["states"], "states")
    assert_close(pooled.float(), expected["pooled"], "pooled vectors")
    ((states * expected["weight of states"]).sum() + (pooled * expected["weight of pooled"]).sum()).backward()
    parameters = dict(encoder.named_parameters())
    names = hugging_face_names(encoder.config, list(parameters))
    gradients = {name.removeprefix("gradient of "): x for name, x in expected.items() if name.startswith("gradient of ")}
    assert set(names.values()) == gradients.keys()
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for ours, theirs in names.items():
        # A bias on the keys shifts all scores of a query alike: its gradient is rounding.
        scale = largest if ours.endswith("key.bias") or dtype == torch.float32 else None
        assert_close(parameters[ours].grad.float(), gradients[theirs], f"gradient of {theirs}", scale)
    assert encoder.config.num_parameters + sum(x.numel() for x in encoder.pooler.parameters()) == sum(
        parameter.numel() for parameter in parameters.values()
    )


def test_scores_of_masked_tokens_and_of_both_orders(recorded):
    directory, expected, batch = recorded
    model = load_language_model(directory, with_order=True, order_weight=1.0).eval()
    states = model.encoder(batch)
    assert_close(model.token_logits(states), expected["token_logits"], "masked tokens")
    order = model.order(model.encoder.pooler(first_tokens(states, batch)))
    assert_close(order, expected["order_logits"], "both orders")
    assert model.saved_files(8)["config.json"]["architectures"] == ["NezhaForPreTraining"]


def test_classifier(recorded):
    directory, expected, batch = recorded
    model = load_trained_classifier(with_head(directory, expected, "ForSequenceClassification", "classifier"), 3)
    assert_close(model.logits(batch), expected["ForSequenceClassification scores"], "classifier")


def test_tagger(recorded):
    directory, expected, batch = recorded
    directory = with_head(directory, expected, "ForTokenClassification", "classifier")
    model = load_trained_head(directory, lambda encoder: Tagger(encoder, TAGS))
    assert_close(model.logits(batch), expected["ForTokenClassification scores"], "tags")


def test_reader(recorded):
    directory, expected, batch = recorded
    model = load_trained_head(with_head(directory, expected, "ForQuestionAnswering", "qa_outputs"), Reader)
    assert_close(model.logits(batch), expected["ForQuestionAnswering scores"], "answers")


def test_saved_as_it_was(recorded):
    directory, expected, _ = recorded
    encoder, _ = load_encoder(directory, with_pooler=True)
    saved = encoder_tensors(encoder)
    assert saved.keys() == {name for name in expected if name.startswith("nezha.")}
    assert all(torch.equal(x, expected[name]) for name, x in saved.items())
    raw = json.loads((directory / "config.json").read_text())
    assert encoder.config.to_dict().items() >= raw.items()
    assert EncoderConfig.from_dict(encoder.config.to_dict()) == encoder.config
    assert isinstance(load_trained_head(directory, LanguageModel), LanguageModel)


def test_transformers_has_no_class_for_it(recorded):
    with pytest.raises(ValueError, match="nezha"):
        AutoConfig.from_pretrained(recorded[0])


@pytest.mark.parametrize("model_type", [{}, {"model_type": "bert"}], ids=str)
def test_huawei_calls_it_a_bert_with_relative_positions(recorded, model_type):
    """Its PyTorch checkpoints have the names ``bert.`` and no ``model_type``."""
    directory, expected, batch = recorded
    raw = json.loads((directory / "config.json").read_text())
    del raw["model_type"]
    (directory / "config.json").write_text(json.dumps({**raw, **model_type, "use_relative_position": True}))
    weights = {name.replace("nezha.", "bert."): x for name, x in load_file(directory / "model.safetensors").items()}
    save_file(weights, directory / "model.safetensors")
    assert load_config(directory).model_type == "nezha"
    assert_close(load_encoder(directory)[0].eval()(batch), expected["states"], "states")


def test_bf16_stays_within_its_rounding(recorded):
    """A number of bf16 is rounded by up to 1 / 256 of itself; over all states that is less, a few times a layer."""
    directory, expected, batch = recorded
    encoder, _ = load_encoder(directory)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = encoder.eval()(batch)
    error = float((states - expected["states"]).norm() / expected["states"].norm())
    assert 0 < error < 2 * encoder.config.num_hidden_layers / 256


def test_longer_texts_than_in_training(recorded):
    """Distances beyond the longest are one: a text of any length is read."""
    directory, _, _ = recorded
    encoder, _ = load_encoder(directory)
    ids = torch.randint(5, 40, (400,), generator=torch.Generator().manual_seed(0))
    states = encoder.double().eval()(TokenBatch.from_lengths(ids, torch.zeros_like(ids), [400]))
    assert torch.isfinite(states).all() and states.shape == (400, encoder.config.hidden_size)
