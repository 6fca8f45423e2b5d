"""The classifier is transformers' sequence classifier, family by family; pooling and loss by hand; warm starts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bertorch.data.batching import Batch, collate
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer, tokenize
from bertorch.encoder import TokenBatch, load_config, to_padded
from bertorch.encoder.layers import first_tokens
from bertorch.errors import UserError
from bertorch.heads.pooling import POOLING_MODES, Pooling, pool
from bertorch.tasks.classification.head import Classifier, load_classifier, load_trained_classifier
from bertorch.training.checkpoints import save_model
from tests.closeness import assert_close
from tests.padding import given_to, padded_left

LENGTHS = [9, 9, 4, 1]
HEAD = "ForSequenceClassification"
POOLED = ("cls", "mean", "max")


def draw(lengths: list[int] = LENGTHS, vocab_size: int = 100) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab_size, (sum(lengths),), generator=generator)
    return TokenBatch.from_lengths(ids, torch.randint(2, ids.shape, generator=generator), lengths)


def labelled(tokens: TokenBatch, labels: list[int]) -> Batch:
    order = torch.arange(len(labels))
    return Batch(tokens, torch.tensor(labels), order.numpy(), places=order, owners=order, text_hashes=order)


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_logits_of_transformers(family, tiny_model):
    directory = tiny_model(family, HEAD, num_labels=3)
    theirs = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    ours = load_trained_classifier(directory, num_labels=3)
    assert not ours.training
    tokens = draw()
    given = given_to(theirs, tokens)
    with torch.no_grad():
        expected = theirs(**(padded_left(given) if family == "xlnet" else given)).logits
        assert_close(ours.logits(tokens), expected)
    assert expected.std() > 0.01  # tiny as they are, the models tell the texts apart


@pytest.mark.parametrize("texts", [("房间干净",), ("房间干净", "服务员 a")], ids=len)
def test_xlnet_reads_segments_as_transformers_does(tiny_model, tmp_path, texts):
    """Two texts and the classification token behind them are three segments, for the saved tokenizer too."""
    directory = tiny_model("xlnet", HEAD, num_labels=3)
    ours, encoder = load_trained_classifier(directory, num_labels=3), TextTokenizer(load_tokenizer(directory), 32)
    save_model(tmp_path, ours, encoder.pretrained, {"task": "classification", "labels": list("abc"), "max_seq_length": 32})
    theirs, tokenizer = (kind.from_pretrained(tmp_path) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    given = tokenizer(*texts, return_tensors="pt")
    assert given["token_type_ids"][0].unique().tolist() == [*range(len(texts)), 2]
    with torch.no_grad():
        found = ours.logits(collate(tokenize([(1, texts, -1)], encoder), np.array([0])).tokens)
        assert_close(found, theirs.eval()(**given).logits)


def test_modernbert_classifies_the_mean(tiny_model):
    """As the published checkpoints do, in the mode that is transformers' own."""
    directory = tiny_model("modernbert", HEAD, num_labels=3, classifier_pooling="mean", classifier_bias=True)
    theirs = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    ours, tokens = load_trained_classifier(directory, num_labels=3), draw()
    ids, mask = to_padded(tokens.input_ids, tokens, theirs.config.pad_token_id)
    with torch.no_grad():
        assert_close(ours.logits(tokens), theirs(input_ids=ids, attention_mask=mask.long()).logits)
    assert ours.saved_files(96)["config.json"]["classifier_pooling"] == "mean"


def test_modernbert_starts_with_the_pretrained_dense_layer(tiny_model, messages):
    """As in transformers, where it has the same name in both heads."""
    directory = tiny_model("modernbert", "ForMaskedLM")
    pretrained = load_file(directory / "model.safetensors")
    own = load_classifier(directory, 3).saved_files(96)["model.safetensors"]
    for name in ("head.dense.weight", "head.norm.weight"):
        assert torch.equal(own[name], pretrained[name])
    assert not any("head.dense" in message for message in messages)


def test_weights_of_transformers(family, tiny_model):
    """Saved under transformers' names: all of the class's weights, as they were read."""
    directory = tiny_model(family, HEAD, num_labels=3)
    model = load_trained_classifier(directory, num_labels=3)
    assert_equal(model.saved_files(96)["model.safetensors"], load_file(directory / "model.safetensors"))
    reference = getattr(transformers, model.saved_files(96)["config.json"]["architectures"][0])
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(directory), reference)


def test_fresh_head_on_a_pretrained_encoder(family, tiny_model):
    directory = tiny_model(family)
    model = load_classifier(directory, 4)
    theirs = load_file(directory / "model.safetensors")
    ours = {name.split(".", 1)[1]: tensor for name, tensor in model.saved_files(96)["model.safetensors"].items()}
    shared = [name for name in theirs if not name.startswith("pooler") or name in ours]
    assert shared and all(torch.equal(ours[name], theirs[name]) for name in shared)
    assert model.classifier.out_features == 4
    assert (model.classifier.bias == 0).all() and model.classifier.weight.std() > 0


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_every_weight_has_a_gradient(family, tiny_model, mode):
    """A weight without one would keep DistributedDataParallel waiting."""
    model = load_classifier(tiny_model(family), 3, mode)
    model(labelled(draw(), [0, 2, 1, 1])).mean.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_pool_by_hand(tiny_model):
    states = torch.tensor([[1.0, 8.0], [3.0, 2.0], [5.0, -4.0], [-7.0, -1.0], [2.0, 2.0], [4.0, -2.0]])
    batch = TokenBatch.from_lengths(torch.arange(6), torch.zeros(6, dtype=torch.long), [3, 1, 2])
    assert first_tokens(states, batch).tolist() == [[1.0, 8.0], [-7.0, -1.0], [2.0, 2.0]]
    assert pool(states, batch, "mean").tolist() == [[3.0, 2.0], [-7.0, -1.0], [3.0, 0.0]]
    assert pool(states, batch, "max").tolist() == [[5.0, 8.0], [-7.0, -1.0], [4.0, 2.0]]
    assert pool(states, batch, "sum").tolist() == [[9.0, 6.0], [-7.0, -1.0], [6.0, 0.0]]
    with pytest.raises(ValueError, match="median"):
        Pooling(load_config(tiny_model("bert")), "median")


@pytest.mark.parametrize(("mode", "layers"), [("linear", 3), ("mean", 2), ("attention", 1)])
@pytest.mark.parametrize("act", ["tanh", "relu"])
def test_a_head_of_several_layers(tiny_model, mode, layers, act):
    """Each layer before the last is a product, a bias and the activation; the first takes what pooling gives."""
    directory = tiny_model("bert", hidden_dropout_prob=0.0)
    model = load_classifier(directory, 4, mode, head_layers=layers, head_activation=act).eval()
    assert len(model.hidden) == layers - 1
    vectors = model.pooling(model.encoder, draw())
    vectors = model.encoder.pooler(vectors) if mode == "linear" else vectors
    for layer in model.hidden:
        vectors = getattr(torch, act)(vectors @ layer.weight.T + layer.bias)
    assert_close(model.logits(draw()), (vectors @ model.classifier.weight.T + model.classifier.bias).detach())
    names = {name.removeprefix("bert.") for name in model.saved_files(9)["model.safetensors"]}
    assert {f"hidden.{number}.weight" for number in range(layers - 1)} <= names


def test_a_head_of_one_layer_has_the_names_of_transformers(tiny_model):
    model = load_classifier(tiny_model("roberta"), 4)
    assert sorted(model.weight_names().values()) == [
        "classifier.dense.bias", "classifier.dense.weight", "classifier.out_proj.bias", "classifier.out_proj.weight",
    ]  # fmt: skip


def test_a_head_with_other_layers_is_not_taken(tiny_model, tmp_path, messages):
    plain, deep = (load_classifier(tiny_model("bert"), 3, "mean", head_layers=layers) for layers in (1, 2))
    for model, other in ((plain, 2), (deep, 1)):
        torch.save(model.saved_files(9)["model.safetensors"], tmp_path / "model.bin")
        new = load_classifier(tiny_model("bert"), 3, "mean", tmp_path / "model.bin", head_layers=other)
        assert any("has other layers" in line for line in messages[-3:])
        assert not torch.equal(new.classifier.weight, model.classifier.weight)
        same = load_classifier(tiny_model("bert"), 3, "mean", tmp_path / "model.bin", head_layers=3 - other)
        assert torch.equal(same.classifier.weight, model.classifier.weight)
    messages.clear()
    load_classifier(tiny_model("bert"), 3, "mean", tiny_model("bert"), head_layers=2)  # it has no head
    assert not any("has other layers" in line for line in messages)


@pytest.mark.parametrize("mode", POOLED)
def test_pool_gradient(mode):
    batch = TokenBatch.from_lengths(torch.arange(6), torch.zeros(6, dtype=torch.long), [3, 1, 2])
    states = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    pooled = first_tokens(states, batch) if mode == "cls" else pool(states, batch, mode)
    (gradient,) = torch.autograd.grad((pooled * weight).sum(), states)
    reduce = {"cls": lambda x: x[0], "mean": lambda x: x.mean(dim=0), "max": lambda x: x.amax(dim=0)}[mode]
    expected = torch.stack([reduce(part) for part in states.split([3, 1, 2])])
    assert_close(gradient, torch.autograd.grad((expected * weight).sum(), states)[0])


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_pool_of_half_precision_sums_in_fp32(mode):
    states = torch.full((4096, 1), 1.001, dtype=torch.bfloat16)
    batch = TokenBatch.from_lengths(torch.arange(4096), torch.zeros(4096, dtype=torch.long), [4096])
    pooled = pool(states, batch, mode)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, states[:1])


@pytest.mark.parametrize("mode", POOLED)
def test_pooled_logits(tiny_model, mode):
    model = load_classifier(tiny_model("bert"), 3, mode).eval()
    tokens = draw()
    states = model.encoder(tokens).split(LENGTHS)
    reduce = {"cls": lambda x: x[0], "mean": lambda x: x.mean(dim=0), "max": lambda x: x.amax(dim=0)}[mode]
    expected = torch.stack([reduce(part) for part in states]) @ model.classifier.weight.T + model.classifier.bias
    assert_close(model.logits(tokens), expected)
    assert model.encoder.pooler is None and model.dense is None


def test_loss(tiny_model):
    model = load_classifier(tiny_model("bert"), 3, "mean").eval()
    tokens, labels = draw(), torch.tensor([0, 2, 1, 1])
    loss = model(labelled(tokens, labels.tolist()))
    logits = model.logits(tokens)
    assert (loss.count, loss.total.shape) == (4, ())
    assert_close(loss.mean, F.cross_entropy(logits, labels))
    assert loss.correct.item() == (logits.argmax(dim=1) == labels).sum().item()
    # Sums add up over parts of any size, the means of parts would not.
    parts = [model(labelled(draw_part, some)) for draw_part, some in zip(split(tokens), ([0], [2, 1, 1]), strict=True)]
    assert_close(sum(part.total for part in parts), loss.total)
    assert sum(part.count for part in parts) == loss.count
    assert sum(part.correct for part in parts) == loss.correct


def split(tokens: TokenBatch) -> list[TokenBatch]:
    """The first sequence, and the others."""
    first = tokens.lengths[0]
    return [
        TokenBatch.from_lengths(tokens.input_ids[part], tokens.token_type_ids[part], lengths)
        for part, lengths in ((slice(first), tokens.lengths[:1]), (slice(first, None), tokens.lengths[1:]))
    ]


def test_dropout_is_off_in_evaluation_and_on_in_training(tiny_model):
    model = load_classifier(tiny_model("bert"), 3)
    tokens = draw()
    assert not torch.equal(model.logits(tokens), model.logits(tokens))
    model.eval()
    assert torch.equal(model.logits(tokens), model.logits(tokens))


@pytest.mark.parametrize(
    ("family", "config", "expected"),
    [
        ("bert", {"classifier_dropout": 0.4}, 0.4),
        ("bert", {"classifier_dropout": 0.0}, 0.0),
        ("bert", {"hidden_dropout_prob": 0.3}, 0.3),
        ("albert", {"classifier_dropout_prob": 0.25}, 0.25),
        ("roberta", {"classifier_dropout": 0.4}, 0.4),
        ("distilbert", {"hidden_dropout_prob": 0.3}, 0.2),  # what transformers takes where nothing is said
        ("distilbert", {"seq_classif_dropout": 0.35}, 0.35),
        ("megatron-bert", {"hidden_dropout_prob": 0.3}, 0.3),
    ],
)
def test_classifier_dropout(tiny_model, family, config, expected):
    assert load_classifier(tiny_model(family, **config), 2).dropout.p == expected


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("source", ["directory", "safetensors", "bin", "bin of DistributedDataParallel"])
def test_warm_start(tiny_model, tmp_path, family, source):
    trained = tiny_model(family, HEAD, num_labels=3)
    tensors = load_file(trained / "model.safetensors")
    checkpoint = {"directory": trained, "safetensors": trained / "model.safetensors"}.get(source, tmp_path / "x.bin")
    if source == "bin":
        torch.save(tensors, checkpoint)
    elif source.startswith("bin"):
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, checkpoint)
    model = load_classifier(tiny_model(family), 3, init_from_ckpt=checkpoint)
    assert_equal(parameters(model), parameters(load_trained_classifier(trained, 3)))


def test_warm_start_of_the_encoder_alone(tiny_model, tmp_path, messages):
    """A checkpoint without a head gives the encoder; the head is new, and that is said."""
    tensors = {name: tensor + 1 for name, tensor in load_file(tiny_model("bert") / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_classifier(tiny_model("bert"), 3, init_from_ckpt=tmp_path / "model.safetensors")
    assert torch.equal(model.encoder.embeddings.word.weight, tensors["embeddings.word_embeddings.weight"])
    assert any("the head is new" in line for line in messages)


def test_warm_start_needs_no_weights_in_the_model_directory(tiny_model, tmp_path):
    directory = Path(shutil.copytree(tiny_model("bert"), tmp_path / "config-only"))
    (directory / "model.safetensors").unlink()
    trained = tiny_model("bert", HEAD, num_labels=3)
    model = load_classifier(directory, 3, init_from_ckpt=trained)
    assert_equal(parameters(model), parameters(load_trained_classifier(trained, 3)))


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_another_number_of_labels(tiny_model, messages, family):
    """To be trained, the head is new, all layers of it; to predict with, it must be there."""
    trained = tiny_model(family, HEAD, num_labels=3)
    torch.manual_seed(1)
    expected = load_classifier(tiny_model(family), 5)
    torch.manual_seed(1)
    found = load_classifier(tiny_model(family), 5, init_from_ckpt=trained)
    assert [line for line in messages if "[3, 32], expected [5, 32]" in line and "the head starts from scratch" in line]
    kept = load_classifier(tiny_model(family), 3, init_from_ckpt=trained).state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, (kept if name.startswith("encoder.") else expected.state_dict())[name]), name
    with pytest.raises(UserError, match=r"\[3, 32\], expected \[5, 32\]"):
        load_trained_classifier(trained, 5)


def test_predicting_needs_every_weight(tiny_model, tmp_path):
    with pytest.raises(UserError, match="classifier.weight"):
        load_trained_classifier(tiny_model("bert"), 3)
    trained = tiny_model("bert", HEAD, num_labels=3)
    tensors = load_file(trained / "model.safetensors")
    shutil.copy(trained / "config.json", tmp_path)
    partial = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_file(partial, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="pooler"):
        load_trained_classifier(tmp_path, 3)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        load_trained_classifier(tmp_path, 3)


def test_weights_from_another_file(tiny_model, tmp_path):
    """The configuration of the directory, the weights of the file: an earlier epoch of a training."""
    trained = tiny_model("bert", HEAD, num_labels=3)
    earlier = {name: tensor * 0.5 for name, tensor in load_file(trained / "model.safetensors").items()}
    save_file(earlier, tmp_path / "epoch.safetensors")
    model = load_trained_classifier(trained, 3, weights=tmp_path / "epoch.safetensors")
    assert isinstance(model, Classifier)
    assert_equal(model.saved_files(96)["model.safetensors"], earlier)
