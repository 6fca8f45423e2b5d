"""Masked tokens and the order of segments are transformers' models, family by family, in losses, gradients and files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder import to_padded
from bertorch.encoder.weights import hugging_face_names
from bertorch.errors import UserError
from bertorch.tasks.pretraining.head import LanguageModel, load_language_model
from bertorch.tasks.pretraining.masking import MaskedBatch, Masking
from bertorch.training.checkpoints import save_model
from tests.closeness import assert_close
from tests.conftest import TINY
from tests.tasks.pretraining.test_masking import documents_of

MASKED, BOTH = "ForMaskedLM", "ForPreTraining"
# transformers' classes, and whether they have two objectives.
CASES = [(family, MASKED) for family in TINY if family != "xlnet"]
CASES += [(family, BOTH) for family in TINY if family.startswith(("bert", "albert", "ernie", "megatron-bert"))]
ONE_EACH = ["bert", "roberta", "albert", "electra", "distilbert", "modernbert"]
DECODERS = {"bert": "cls.predictions.decoder", "albert": "predictions.decoder", "roberta": "lm_head.decoder",
            "electra": "generator_lm_head", "distilbert": "vocab_projector", "modernbert": "decoder"}  # fmt: skip


def draw(directory: Path, head: str, texts: int = 6) -> MaskedBatch:
    """A masked batch of texts of unequal length, one of them of one sentence."""
    encoder = TextTokenizer(load_tokenizer(directory), 40)
    masking = Masking(encoder, ("mlm", "sop") if head == BOTH else ("mlm",), share=0.3, seed=1)
    documents = documents_of([[3, 4, 5], [9], [2, 2]], [[8, 1, 8], [6, 9], [3, 3, 3]])
    known = torch.randint(
        5, len(encoder.pretrained), (len(documents.input_ids),), generator=torch.Generator().manual_seed(0)
    )
    documents.input_ids = known.numpy().astype(np.int32)
    return masking.collate(documents, np.arange(texts), 0)


def theirs_of(directory: Path, family: str, head: str) -> torch.nn.Module:
    return getattr(transformers, TINY[family][0] + head).from_pretrained(directory).eval()


def padded(batch: MaskedBatch, model: torch.nn.Module, head: str) -> dict[str, torch.Tensor]:
    """What transformers takes."""
    tokens = batch.tokens
    labels = torch.full_like(tokens.input_ids, -100)
    labels[batch.places] = batch.targets
    ids, mask = to_padded(tokens.input_ids, tokens, model.config.pad_token_id)
    given = {
        "input_ids": ids, "attention_mask": mask.long(), "token_type_ids": to_padded(tokens.token_type_ids, tokens)[0],
        "labels": to_padded(labels, tokens, -100)[0],
    }  # fmt: skip
    if head == BOTH:
        name = "sentence_order_label" if type(model).__name__.startswith("Albert") else "next_sentence_label"
        given[name] = batch.orders.masked_fill(batch.orders < 0, -100)
    return given


def balanced(batch: MaskedBatch) -> float:
    """The weight with which both losses count alike, as they do in transformers."""
    return len(batch.targets) / max(1, int((batch.orders >= 0).sum()))


def open_both(directory: Path, family: str, head: str):
    """A batch, transformers' model and ours, of the same directory and without dropout."""
    batch = draw(directory, head)
    ours = load_language_model(directory, head == BOTH, balanced(batch)).eval()
    return batch, theirs_of(directory, family, head), ours


def assert_same_logits(ours: LanguageModel, theirs: torch.nn.Module, batch: MaskedBatch, head: str) -> None:
    with torch.no_grad():
        expected = theirs(**padded(batch, theirs, head))
        logits, order = ours.logits(batch)
    scores = expected.logits if head == MASKED else expected.prediction_logits
    scores = torch.cat([row[:length] for row, length in zip(scores, batch.tokens.lengths, strict=True)])[batch.places]
    assert_close(logits, scores)
    assert scores.std() > 0.01
    if head == MASKED:
        assert order is None
        return
    wanted = expected.seq_relationship_logits if hasattr(expected, "seq_relationship_logits") else expected.sop_logits
    assert_close(order, wanted)
    assert wanted.std() > 0.01


@pytest.mark.parametrize(("family", "head"), CASES)
def test_the_loss_and_all_gradients_of_transformers(tiny_model, family, head):
    """Word embeddings among them, which get theirs from both ends where they are the decoder."""
    batch, theirs, ours = open_both(tiny_model(family, head), family, head)
    expected = theirs(**padded(batch, theirs, head)).loss
    loss = ours(batch)
    assert_close(loss.mean, expected)
    expected.backward()
    loss.mean.backward()
    all_names = dict(theirs.named_parameters(remove_duplicate=False))  # tied ones have two
    gradients = {name: parameter.grad for name, parameter in all_names.items()}
    words = f"{ours.encoder.config.family.weights['embeddings.word']}.weight"
    (base,) = (name.removesuffix(words) for name in gradients if name.endswith(words))
    names = hugging_face_names(ours.encoder.config, [name for name, _ in ours.encoder.named_parameters()])
    names = {f"encoder.{mine}": base + name for mine, name in names.items()}
    names |= ours.weight_names()
    largest = max(gradient.abs().max().item() for gradient in gradients.values() if gradient is not None)
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == names.keys()
    for mine, name in names.items():
        found, wanted = parameters[mine].grad, gradients[name]
        assert (found - wanted).abs().max().item() <= 1e-4 * wanted.abs().max().item() + 1e-5 * largest, mine
    # transformers gives RoFormer's table of sines a gradient too.
    trained = {id(all_names[name]) for name, grad in gradients.items() if grad is not None and "embed_pos" not in name}
    assert trained == {id(all_names[name]) for name in names.values()}


@pytest.mark.parametrize(("family", "head"), CASES)
def test_what_the_loss_consists_of(tiny_model, family, head):
    batch, _, ours = open_both(tiny_model(family, head), family, head)
    ours.order_weight = 2.5
    loss, (logits, order) = ours(batch), ours.logits(batch)
    assert loss.count == len(batch.targets)
    torch.testing.assert_close(loss.masked_loss, F.cross_entropy(logits, batch.targets, reduction="sum"))
    assert loss.correct.item() == (logits.argmax(dim=1) == batch.targets).sum().item()
    if head == MASKED:
        assert (loss.total.item(), loss.orders) == (loss.masked_loss.item(), 0)
        return
    known = batch.orders >= 0
    assert 0 < known.sum() < len(known)  # a text of one sentence is no part of it
    torch.testing.assert_close(loss.order_loss, F.cross_entropy(order[known], batch.orders[known], reduction="sum"))
    torch.testing.assert_close(loss.total, loss.masked_loss + 2.5 * loss.order_loss)
    assert loss.orders == known.sum()
    assert loss.correct_orders == (order.argmax(dim=1) == batch.orders)[known].sum()


def test_a_batch_without_two_segments(tiny_model):
    """Nothing to divide: the order adds nothing, and all weights have a gradient."""
    directory = tiny_model("bert", BOTH)
    model = load_language_model(directory, True, 1.0).eval()
    loss = model(draw(directory, MASKED))
    assert (loss.orders, loss.order_loss, loss.correct_orders) == (0, 0, 0)
    assert loss.total.item() == loss.masked_loss.item()
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("family", "head"), CASES)
def test_transformers_opens_what_is_saved(tiny_model, tmp_path, family, head):
    directory = tiny_model(family, head)
    batch, _, ours = open_both(directory, family, head)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.1)
    save_model(tmp_path, ours, load_tokenizer(directory), {"task": "language_model", "max_seq_length": 40})
    kind = getattr(transformers, TINY[family][0] + head)
    theirs, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.architectures == [kind.__name__]
    assert_same_logits(ours, theirs.eval(), batch, head)
    again = load_language_model(tmp_path, head == BOTH, 1.0).eval()
    assert_same_parameters(again, ours)
    saved, given = load_file(tmp_path / "model.safetensors"), load_file(directory / "model.safetensors")
    assert {name for name in given if not name.endswith("position_ids")} == saved.keys()


def assert_same_parameters(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    found, expected = dict(found.named_parameters()), dict(expected.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in expected.items():
        assert torch.equal(found[name], parameter), name


@pytest.mark.parametrize("family", ONE_EACH)
def test_a_decoder_of_its_own(tiny_model, tmp_path, family):
    """``tie_word_embeddings: false``: read, trained and saved as transformers has it, bias included."""
    directory = tiny_model(family, MASKED, tie_word_embeddings=False)
    batch, theirs, ours = open_both(directory, family, MASKED)
    decoder = theirs.get_output_embeddings()
    assert not torch.equal(decoder.weight, theirs.get_input_embeddings().weight)
    assert torch.equal(ours.decoder, decoder.weight)
    assert_same_logits(ours, theirs, batch, MASKED)
    loss, expected = ours(batch).mean, theirs(**padded(batch, theirs, MASKED)).loss
    assert_close(loss, expected)
    pairs = (ours.decoder, decoder.weight), (ours.encoder.embeddings.word.weight, theirs.get_input_embeddings().weight)
    for mine, their in pairs:
        wanted = torch.autograd.grad(expected, their, retain_graph=True)[0]
        assert_close(torch.autograd.grad(loss, mine, retain_graph=True)[0], wanted)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.1)
    save_model(tmp_path, ours, load_tokenizer(directory), {"task": "language_model", "max_seq_length": 40})
    theirs, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    assert_same_logits(ours, theirs.eval(), batch, MASKED)
    assert_same_parameters(load_language_model(tmp_path, False, 1.0), ours)


@pytest.mark.parametrize("family", ONE_EACH)
def test_the_activation_of_the_head(tiny_model, family):
    """BERT's and ALBERT's is that of the config; RoBERTa's and ELECTRA's is gelu whatever it says."""
    batch, theirs, ours = open_both(tiny_model(family, MASKED, hidden_act="relu"), family, MASKED)
    assert_same_logits(ours, theirs, batch, MASKED)


def checkpoint(directory: Path, target: Path, change) -> Path:
    """A copy of a model directory with other tensors."""
    shutil.copytree(directory, target)
    tensors = change(load_file(directory / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    return target


@pytest.mark.parametrize("family", ["bert", "albert", "roberta"])
@pytest.mark.parametrize("names", ["the decoder's", "both", "both and the decoder's weight"])
def test_names_of_one_tensor(tiny_model, tmp_path, messages, family, names):
    """Checkpoints hold the bias under its own name, the decoder's, or both; and the decoder beside the embedding."""
    directory, decoder = tiny_model(family, MASKED), DECODERS[family]
    bias = decoder.removesuffix("decoder") + "bias"

    def change(tensors):
        value = tensors.pop(bias)
        tensors[f"{decoder}.bias"] = value
        if names != "the decoder's":
            tensors[bias] = value.clone()
        if names.endswith("weight"):
            (embedding,) = (name for name in tensors if name.endswith("word_embeddings.weight"))
            tensors[f"{decoder}.weight"] = tensors[embedding].clone()
        return tensors

    changed = checkpoint(directory, tmp_path / "changed", change)
    found = load_language_model(changed, False, 1.0)
    assert_same_parameters(found, load_language_model(directory, False, 1.0))
    assert found.bias.abs().max() > 0
    assert not any("unused" in message for message in messages)


WITHOUT_ORDER = ["roberta", "xlm-roberta", "electra", "camembert", "distilbert", "roformer", "mpnet", "modernbert"]


@pytest.mark.parametrize("decoder_bias", [True, False])
def test_biases_of_modernbert(tiny_model, tmp_path, decoder_bias):
    traits = {"classifier_bias": True, "norm_bias": True, "decoder_bias": decoder_bias, "classifier_activation": "silu"}
    directory = tiny_model("modernbert", MASKED, **traits)
    batch, theirs, ours = open_both(directory, "modernbert", MASKED)
    assert_same_logits(ours, theirs, batch, MASKED)
    save_model(tmp_path, ours, load_tokenizer(directory), {"task": "language_model", "max_seq_length": 40})
    theirs, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_same_logits(ours, theirs.eval(), batch, MASKED)


@pytest.mark.parametrize("family", WITHOUT_ORDER)
def test_families_without_an_order(tiny_model, family):
    with pytest.raises(UserError, match="--objectives mlm") as caught:
        load_language_model(tiny_model(family), True, 1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_a_checkpoint_without_an_order(tiny_model, family, messages):
    """Its masked language model is taken; pooler and order start anew, with biases of 0."""
    directory = tiny_model(family, MASKED)
    found, expected = load_language_model(directory, True, 1.0), load_language_model(directory, False, 1.0)
    for name, parameter in expected.named_parameters():
        assert torch.equal(dict(found.named_parameters())[name], parameter), name
    assert found.order.weight.std() > 0 and not found.order.bias.any()
    assert any("new weights in the head" in message and "order" in message for message in messages)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_a_checkpoint_with_an_order_that_is_not_asked_for(tiny_model, family):
    directory = tiny_model(family, BOTH)
    found, expected = load_language_model(directory, False, 1.0), load_language_model(directory, True, 1.0)
    assert found.order is None and found.encoder.pooler is None
    for name, parameter in found.named_parameters():
        assert torch.equal(dict(expected.named_parameters())[name], parameter), name


def test_an_encoder_without_a_head(family, tiny_model, messages):
    """The encoder is taken, all of the head is new: BERT's initialisation, and that is said. XLNet has no such head."""
    if family == "xlnet":
        with pytest.raises(UserError, match="fine-tune them") as caught:
            load_language_model(tiny_model(family), False, 1.0)
        assert "\n" not in str(caught.value)
        return
    model = load_language_model(tiny_model(family), False, 1.0)
    tensors = load_file(tiny_model(family) / "model.safetensors")
    words = f"{model.encoder.config.family.weights['embeddings.word']}.weight"
    assert torch.equal(model.encoder.embeddings.word.weight, tensors[words])
    assert model.transform.weight.std().item() == pytest.approx(0.02, rel=0.2)
    biases = [bias for bias in (model.transform.bias, model.norm.bias, model.bias) if bias is not None]
    assert biases and not any(bias.any() for bias in biases)
    assert (model.norm.weight == 1).all()
    assert any("the head is new" in message for message in messages)


def test_a_warm_start_needs_no_weights_in_the_model_directory(tiny_model, tmp_path):
    directory = shutil.copytree(tiny_model("bert"), tmp_path / "config-only")
    (directory / "model.safetensors").unlink()
    trained = tiny_model("bert", BOTH)
    warm = load_language_model(directory, True, 1.0, trained / "model.safetensors")
    assert_same_parameters(warm, load_language_model(trained, True, 1.0))
    cold = load_language_model(directory, True, 1.0)
    assert cold.encoder.embeddings.word.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_head_that_does_not_fit(tiny_model, tmp_path):
    def change(tensors):
        return {**tensors, "cls.predictions.transform.dense.weight": torch.zeros(3, 3)}

    with pytest.raises(UserError, match=r"transform\.dense\.weight is \[3, 3\]"):
        load_language_model(checkpoint(tiny_model("bert", MASKED), tmp_path / "changed", change), False, 1.0)


def test_a_checkpoint_of_parallel_training(tiny_model, tmp_path):
    directory = tiny_model("bert", BOTH)
    tensors = {f"module.{name}": tensor for name, tensor in load_file(directory / "model.safetensors").items()}
    torch.save(tensors, tmp_path / "model.bin")
    found = load_language_model(directory, True, 1.0, tmp_path / "model.bin")
    assert_same_parameters(found, load_language_model(directory, True, 1.0))


def test_a_config_that_ties_in_so_many_words(tiny_model, tmp_path):
    """``tie_word_embeddings: true`` is what no word of it means."""
    directory = shutil.copytree(tiny_model("bert", MASKED), tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    for value in (True, None):
        config.pop("tie_word_embeddings", None)
        if value is not None:
            config["tie_word_embeddings"] = value
        (directory / "config.json").write_text(json.dumps(config))
        assert load_language_model(directory, False, 1.0).decoder is None
