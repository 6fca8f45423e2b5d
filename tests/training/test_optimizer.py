"""Parameter groups of AdamW, and clipping against PyTorch's."""

import copy

import pytest
import torch
from torch import nn

from bertorch.training.optimizer import make_optimizer, scale_and_clip


class Model(nn.Module):
    """Layer norms under names that do not give them away, and a weight whose name does falsely."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.dense = nn.Linear(4, 3)
        self.gate = nn.LayerNorm(3)
        self.layer_norm_of_sorts = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))])
        self.transitions = nn.Parameter(torch.ones(3, 3))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_biases_and_layer_norms_do_not_decay():
    model = Model()
    optimizer = make_optimizer("adamw", model, 1e-3, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups
    }
    assert groups == {
        0.1: {"embedding.weight", "dense.weight", "layer_norm_of_sorts.weight", "blocks.0.0.weight", "transitions"},
        0.0: {
            "dense.bias", "gate.weight", "gate.bias", "layer_norm_of_sorts.bias", "blocks.0.0.bias", "blocks.0.1.weight",
            "blocks.0.1.bias",
        },
    }  # fmt: skip
    assert [(group["lr"], group["highest"]) for group in optimizer.param_groups] == [(1e-3, 1e-3)] * 2


def test_updates_are_those_of_adamw_with_that_decay():
    """One update from rest moves a weight by the rate, and decay takes rate * decay of it besides (Loshchilov & Hutter)."""
    model = Model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer("adamw", model, 0.01, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step()
    after = dict(model.named_parameters())
    for name, decay in (("dense.weight", 0.5), ("dense.bias", 0.0), ("gate.weight", 0.0), ("transitions", 0.5)):
        torch.testing.assert_close(after[name].detach(), before[name] * (1 - 0.01 * decay) - 0.01)
    assert torch.equal(after["frozen.weight"], before["frozen.weight"])


def parameters_with_gradients(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2, 2, 2), ())]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return [*parameters, nn.Parameter(torch.zeros(3))]  # the last one had no gradient


@pytest.mark.parametrize("scale", [1.0, 0.125, 3.7])
@pytest.mark.parametrize("max_norm", [0.01, 1.0, 5.0, 1e3, 0.0])
def test_scaling_and_clipping_in_one_pass_is_clipping_of_scaled_gradients(scale, max_norm):
    found = parameters_with_gradients(0)
    wanted = copy.deepcopy(found)
    for parameter, source in zip(wanted[:-1], found, strict=False):
        parameter.grad = source.grad * scale
    total = torch.nn.utils.clip_grad_norm_(wanted, max_norm or float("inf"))
    norm = scale_and_clip(found, scale, max_norm)
    for left, right in zip(found[:-1], wanted, strict=False):
        torch.testing.assert_close(left.grad, right.grad)
    assert found[-1].grad is None
    if max_norm:
        torch.testing.assert_close(norm, total)
        length = torch.linalg.vector_norm(torch.cat([parameter.grad.flatten() for parameter in found[:-1]]))
        assert length <= max_norm * (1 + 1e-5)


def test_parameters_without_gradients_are_left_alone():
    parameters = [nn.Parameter(torch.ones(2))]
    assert scale_and_clip(parameters, 0.5, 1.0) is None
    assert parameters[0].grad is None


def test_parts_with_rates_of_their_own():
    """By the first part of a parameter's name; what decays does so there as well."""
    model = Model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(
        "adamw", model, 0.01, 0.5, {"transitions": 0.2, "gate": 0.03, "blocks": 0.04, "frozen": 1.0, "absent": 1.0}
    )
    expected = {name: (0.01, 0.0 if name.endswith("bias") else 0.5) for name in before}
    expected.update(
        {
            "transitions": (0.2, 0.5), "gate.weight": (0.03, 0.0), "gate.bias": (0.03, 0.0),
            "blocks.0.0.weight": (0.04, 0.5), "blocks.0.0.bias": (0.04, 0.0), "blocks.0.1.weight": (0.04, 0.0),
            "blocks.0.1.bias": (0.04, 0.0),
        }
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(parameter)], group["highest"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len({name for name, _, _ in found})
    assert {name: (rate, decay) for name, rate, decay in found} == {
        name: value for name, value in expected.items() if not name.startswith("frozen")
    }

    for group in optimizer.param_groups:  # as a run does before each update
        group["lr"] = group["highest"]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step()
    for name, parameter in model.named_parameters():
        rate, decay = (0.0, 0.0) if name.startswith("frozen") else expected[name]
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - rate * decay) - rate, msg=name)


def test_the_rate_that_is_logged_is_that_of_the_rest():
    """The first group's, though the first parameter has a rate of its own."""
    assert make_optimizer("adamw", Model(), 0.01, 0.1, {"embedding": 0.2}).param_groups[0]["highest"] == 0.01
