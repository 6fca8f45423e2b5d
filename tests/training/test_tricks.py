"""Each trick against a step written by hand."""

import argparse
import contextlib
import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch.distributions import Categorical, kl_divergence

from bertorch.data.batching import Batch
from bertorch.encoder import Encoder, TokenBatch, load_config
from bertorch.encoder.layers import first_tokens
from bertorch.errors import UserError
from bertorch.heads.loss import ClassLoss, Loss
from bertorch.tasks.classification.head import Classifier, load_classifier
from bertorch.training.optimizer import make_optimizer
from bertorch.training.step import adversarial_step
from bertorch.training.tricks import average, class_loss, freeze, r_drop
from tests.closeness import assert_close


def batch_of(lengths, labels):
    tokens = TokenBatch.from_lengths(
        torch.randint(5, 100, (sum(lengths),)), torch.zeros(sum(lengths), dtype=torch.long), lengths
    )
    rows = torch.arange(len(lengths))
    return Batch(tokens, torch.tensor(labels), rows.numpy(), rows, rows, rows)


@pytest.fixture
def classifier(tiny_model):
    model = load_classifier(tiny_model("bert"), 3)
    model.encoder.set_dropout(0.0)
    model.dropout.p = 0.0
    return model.train()


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


# FGM


def run_of(model):
    """As much of a Run as a step needs."""
    return SimpleNamespace(
        bare_model=model, model=model, autocast=contextlib.nullcontext, backward=lambda loss: loss.mean.backward()
    )


def test_an_adversarial_step_adds_the_gradient_of_the_moved_embeddings(classifier):
    batch, epsilon = batch_of([9, 6, 4], [0, 2, 1]), 0.7
    by_hand = copy.deepcopy(classifier)
    by_hand(batch).mean.backward()
    plain = gradients(by_hand)
    slope = plain["encoder.embeddings.word.weight"]
    by_hand.zero_grad()
    with torch.no_grad():
        by_hand.encoder.embeddings.word.weight += epsilon * slope / math.sqrt((slope.double() ** 2).sum())
    by_hand(batch).mean.backward()

    before = classifier.encoder.embeddings.word.weight.detach().clone()
    run = run_of(classifier)
    run.backward(classifier(batch))
    adversarial_step(run, batch, epsilon)
    assert torch.equal(classifier.encoder.embeddings.word.weight, before)
    found, attacked = gradients(classifier), gradients(by_hand)
    assert not torch.allclose(attacked["classifier.weight"], plain["classifier.weight"], rtol=1e-2)
    largest = max(gradient.abs().max() for gradient in attacked.values())
    for name, expected in plain.items():
        assert_close(found[name], expected + attacked[name], of=largest, name=name)


def test_an_attack_raises_the_loss(classifier):
    batch = batch_of([9, 6, 4], [0, 2, 1])
    losses = []
    run = run_of(classifier)
    run.backward = lambda loss: (losses.append(loss.mean.item()), loss.mean.backward())
    run.backward(classifier(batch))
    adversarial_step(run, batch, 0.05)
    assert losses[1] > losses[0]


def test_without_a_gradient_nothing_is_moved(classifier):
    classifier.encoder.embeddings.word.weight.grad = torch.zeros_like(classifier.encoder.embeddings.word.weight)
    run = run_of(classifier)
    run.backward = lambda loss: None
    adversarial_step(run, batch_of([5], [1]), 1.0)
    assert classifier.encoder.embeddings.word.weight.isfinite().all()


# R-Drop


def losses_of(*logits):
    return [Loss(torch.tensor(2.0 + place), 4, logits=one) for place, one in enumerate(logits)]


def test_r_drop_is_half_of_the_papers_loss():
    logits = [torch.randn(4, 5), torch.randn(4, 5)]
    first, second = losses_of(*logits)
    p, q = (Categorical(logits=one) for one in logits)
    paper = first.total + second.total + 3.0 * (kl_divergence(p, q) + kl_divergence(q, p)).sum() / 2
    found = r_drop(first, second, 3.0)
    torch.testing.assert_close(found.total, paper / 2)
    assert found.count == 4


def test_two_distributions_a_term_count_as_their_mean():
    """A reader has those of the first and of the last token."""
    logits = [torch.randn(4, 2, 5), torch.randn(4, 2, 5)]
    p, q = (Categorical(logits=one) for one in logits)
    apart = (kl_divergence(p, q) + kl_divergence(q, p)).sum() / 2
    found = r_drop(*losses_of(*logits), 1.0).total
    torch.testing.assert_close(found, torch.tensor(2.5) + apart / 4)


def test_what_is_impossible_in_both_has_no_part_and_no_gradient():
    short = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
    long = [torch.cat([one, torch.full((2, 2), -torch.inf)], dim=1) for one in short]
    found, expected = (r_drop(*losses_of(*logits), 2.0).total for logits in (long, short))
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, short), torch.autograd.grad(expected, short), strict=True):
        torch.testing.assert_close(one, other)


def test_two_equal_passes_cost_what_one_costs(classifier):
    batch = batch_of([9, 6, 4], [0, 2, 1])
    once = classifier(batch)
    torch.testing.assert_close(r_drop(once, classifier(batch), 5.0).total, once.total)


# averages


def test_averages_by_hand():
    weights, averages = torch.tensor([4.0, -2.0]), [torch.tensor([0.0, 0.0])]
    expected = np.zeros(2)
    for step in range(1, 31):
        weights = weights + step
        average(averages, [weights], 0.7, step)
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights.numpy()
    np.testing.assert_allclose(averages[0].numpy(), expected, rtol=1e-5)


# rates and frozen layers


def test_the_rate_falls_from_layer_to_layer(tiny_model):
    model = load_classifier(tiny_model("bert"), 3)
    optimizer = make_optimizer("adamw", model, 1.0, 0.1, layer_decay=0.5)
    rates = {id(p): (g["highest"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    layers = model.encoder.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        rate, decay = rates[id(parameter)]
        if ".embeddings." in name:
            assert rate == 0.5 ** (layers + 1), name
        elif ".blocks." in name:
            assert rate == 0.5 ** (layers - int(name.split(".blocks.")[1].split(".")[0])), name
        else:
            assert rate == 1.0, name
        assert decay == (0.0 if name.endswith("bias") or "norm" in name else 0.1), name
    assert len(rates) == len(list(model.parameters()))


@pytest.mark.parametrize("config", [{}, {"inner_group_num": 2, "num_hidden_groups": 1, "num_hidden_layers": 2}])
def test_shared_layers_have_no_rates_of_their_own(tiny_model, config):
    model = load_classifier(tiny_model("albert", **config), 3)
    with pytest.raises(UserError, match="--layer_decay 0.9: the layers of this albert share their weights"):
        make_optimizer("adamw", model, 1.0, 0.0, layer_decay=0.9)
    with pytest.raises(UserError, match="--freeze_layers 1: the layers of this albert share"):
        freeze(model.encoder, False, 1)


@pytest.mark.parametrize(("embeddings", "layers"), [(False, 0), (True, 0), (False, 1)])
def test_frozen_parts_stay_as_they_are(classifier, embeddings, layers):
    freeze(classifier.encoder, embeddings, layers)
    before = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
    optimizer = make_optimizer("adamw", classifier, 0.1, 0.1)
    classifier(batch_of([9, 6, 4], [0, 2, 1])).mean.backward()
    optimizer.step()
    for name, parameter in classifier.named_parameters():
        frozen = (".embeddings." in name and (embeddings or layers)) or any(f".blocks.{n}." in name for n in range(layers))
        assert torch.equal(parameter, before[name]) == bool(frozen), name


def test_there_are_not_so_many_layers(classifier):
    with pytest.raises(UserError, match="--freeze_layers 99: the encoder has"):
        freeze(classifier.encoder, False, 99)


# the loss over classes


def test_label_smoothing_by_hand():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 1])
    wanted = 0.9 * F.one_hot(targets, 4) + 0.1 / 4
    expected = -(wanted * logits.log_softmax(dim=1)).sum()
    torch.testing.assert_close(ClassLoss(label_smoothing=0.1)(logits, targets), expected)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 3.0])])
def test_focal_loss_by_hand(weights):
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 1])
    expected = 0.0
    for row, target in zip(logits.double().softmax(dim=1), targets, strict=True):
        factor = 1.0 if weights is None else float(weights[target])
        expected -= factor * (1 - float(row[target])) ** 1.5 * math.log(row[target])
    found = ClassLoss(focal_gamma=1.5, class_weights=weights)(logits, targets)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_has_a_gradient_where_all_is_learnt():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    ClassLoss(focal_gamma=0.5)(logits, torch.tensor([0])).backward()
    assert logits.grad.isfinite().all()


def flags(**given):
    return argparse.Namespace(**{"label_smoothing": 0.0, "focal_gamma": 0.0, "class_weights": None, **given})


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    found = class_loss(flags(class_weights=["balanced"]), np.bincount(labels)).class_weights
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)
    np.testing.assert_allclose(found.numpy()[labels].mean(), 1.0, rtol=1e-6)


def test_a_class_without_rows_keeps_the_others_finite():
    assert class_loss(flags(class_weights=["balanced"]), [3, 0, 3]).class_weights.isfinite().all()


def test_weights_as_given(classifier):
    classifier.class_loss = class_loss(flags(class_weights=["1", "2.5", "4"]), [1, 1, 1])
    batch = batch_of([9, 6, 4], [0, 2, 1])
    logits = classifier.logits(batch.tokens)
    terms = F.cross_entropy(logits, batch.labels, reduction="none")
    torch.testing.assert_close(classifier(batch).total, (terms * torch.tensor([1.0, 4.0, 2.5])).sum())


@pytest.mark.parametrize(
    "weights", [["1", "2"], ["1", "2", "x"], ["1", "2", "0"], ["1", "2", "inf"], ["balanced", "1", "1"]]
)
def test_weights_that_are_none(weights):
    with pytest.raises(UserError, match=r"--class_weights .*: give balanced, or a number above 0 for each of the 3 classes"):
        class_loss(flags(class_weights=weights), [1, 1, 1])


# dropout masks


def test_several_masks_are_averaged(tiny_model):
    model = load_classifier(tiny_model("bert"), 3).train()
    model.encoder.set_dropout(0.0)
    model.dropout.p = 0.5
    model.dropout_samples = 3
    batch = batch_of([9, 6, 4], [0, 2, 1])
    torch.manual_seed(1)
    found = model(batch)
    torch.manual_seed(1)
    vectors = model.encoder.pooler(first_tokens(model.encoder(batch.tokens), batch.tokens))
    drawn = [model.classifier(model.dropout(vectors)) for _ in range(3)]
    terms = [F.cross_entropy(logits, batch.labels, reduction="sum") for logits in drawn]
    assert len({term.item() for term in terms}) == 3
    torch.testing.assert_close(found.total, sum(terms) / 3)
    torch.testing.assert_close(found.logits, sum(drawn) / 3)


def test_no_mask_without_dropout(tiny_model):
    config = load_config(tiny_model("bert"))
    model = Classifier(Encoder(config, with_pooler=True), 3).eval()
    batch = batch_of([9, 6], [0, 2])
    plain = model(batch).total
    model.dropout_samples = 4
    torch.testing.assert_close(model(batch).total, plain)
