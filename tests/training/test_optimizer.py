"""Parameter groups, LAMB against its algorithm, and clipping against PyTorch's."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bertorch.training.optimizer import Lamb, make_optimizer, scale_and_clip
from tests.closeness import assert_close
from tests.processes import finished


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


# LAMB


def lamb_by_hand(weights, gradients, rate, decay, adapts, betas=(0.9, 0.999), eps=1e-6):
    """Algorithm 2 of You et al. 2019, with phi the identity; plain Adam where a layer does not adapt."""
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        update = (m / (1 - betas[0] ** step)) / (np.sqrt(v / (1 - betas[1] ** step)) + eps) + decay * weights
        of_weights, of_update = np.linalg.norm(weights), np.linalg.norm(update)
        ratio = of_weights / of_update if adapts and of_weights > 0 and of_update > 0 else 1.0
        weights = weights - rate * ratio * update
    return weights


def layers(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (4, 3), "vector": (5,), "cube": (2, 3, 2), "scalar": (), "nothing yet": (3, 3)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64) * (name != "nothing yet"))
        for name, shape in shapes.items()
    }


def gradients_of(parameters: dict[str, nn.Parameter], steps: int, seed: int = 1) -> list[dict[str, Tensor]]:
    """Of very unequal sizes from one step to the next."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 10.0 ** (step % 5 - 2)
            for name, parameter in parameters.items()
        }
        for step in range(steps)
    ]


def take_steps(optimizer, parameters, gradients):
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = step[name].to(parameter.dtype)
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("adapts", [True, False])
def test_lamb_is_the_algorithm_of_its_authors(decay, adapts):
    """Each layer with a ratio of its own; weights that are all 0 take the step as it is."""
    decay = decay if adapts else 0.0
    parameters = layers()
    before = {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
    gradients = gradients_of(parameters, 12)
    optimizer = Lamb([{"params": list(parameters.values()), "weight_decay": decay, "decays": adapts}], lr=0.03)
    take_steps(optimizer, parameters, gradients)
    for name, parameter in parameters.items():
        expected = lamb_by_hand(before[name], [step[name].numpy() for step in gradients], 0.03, decay, adapts)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9, atol=1e-12, err_msg=name)
        assert np.abs(expected - before[name]).max() > 0.03


def test_lamb_in_single_precision():
    parameters = {name: nn.Parameter(parameter.detach().float()) for name, parameter in layers().items()}
    before = {name: parameter.detach().double().numpy() for name, parameter in parameters.items()}
    gradients = gradients_of(parameters, 6)
    take_steps(Lamb([{"params": list(parameters.values()), "weight_decay": 0.1}], lr=0.01), parameters, gradients)
    for name, parameter in parameters.items():
        expected = lamb_by_hand(before[name], [step[name].numpy() for step in gradients], 0.01, 0.1, True)
        assert_close(parameter, expected, name=name)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_of_lamb_is_as_long_as_the_weights_say(decay):
    """Whatever the gradient's size; without decay as well."""
    for scale in (1e-2, 1.0, 1e3):
        weight = nn.Parameter(torch.full((3, 3), 2.0, dtype=torch.float64))
        before = weight.detach().clone()
        weight.grad = scale * torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        Lamb([{"params": [weight], "weight_decay": decay}], lr=0.25).step()
        torch.testing.assert_close((weight.detach() - before).norm(), 0.25 * before.norm())


def test_lamb_without_a_step_to_take():
    """A gradient of 0 and no decay: nothing moves, and nothing is divided by 0."""
    for value in (0.0, 1.0):
        weight = nn.Parameter(torch.full((2, 2), value))
        weight.grad = torch.zeros(2, 2)
        Lamb([{"params": [weight]}], lr=0.1).step()
        assert (weight == value).all()


def test_lamb_counts_the_steps_of_each_parameter():
    """One that gets its first gradient later than the others is corrected for as many steps as it has made."""
    parameters = layers()
    late = "vector"
    before = {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
    gradients = gradients_of(parameters, 5)
    for order in (1, -1):
        parameters = layers()
        optimizer = Lamb([{"params": list(parameters.values())[::order], "weight_decay": 0.1}], lr=0.03)
        for number, step in enumerate(gradients):
            for name, parameter in parameters.items():
                parameter.grad = None if name == late and number < 2 else step[name]
            optimizer.step()
        for name, parameter in parameters.items():
            taken = [step[name].numpy() for step in gradients[2 if name == late else 0 :]]
            expected = lamb_by_hand(before[name], taken, 0.03, 0.1, True)
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("overflows", [(), (0,), (2, 3)])
def test_lamb_skips_what_has_overflowed(overflows):
    """As GradScaler does with other optimizers, but without asking whether: weights, moments and steps stay as they were."""
    parameters = {name: nn.Parameter(parameter.detach().float()) for name, parameter in layers().items()}
    before = {name: parameter.detach().double().numpy() for name, parameter in parameters.items()}
    gradients = gradients_of(parameters, 6)
    optimizer = Lamb([{"params": list(parameters.values()), "weight_decay": 0.1}], lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number, step in enumerate(gradients):
        for name, parameter in parameters.items():
            parameter.grad = scaler.scale(step[name].float())
        if number in overflows:
            parameters["cube"].grad[0, 0, 0] = torch.inf
            parameters["matrix"].grad[0, 0] = torch.nan
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    for name, parameter in parameters.items():
        taken = [step[name].numpy() for number, step in enumerate(gradients) if number not in overflows]
        assert_close(parameter, lamb_by_hand(before[name], taken, 0.01, 0.1, True), name=name)


def test_lamb_goes_on_from_a_saved_state(tmp_path):
    parameters = layers()
    gradients = gradients_of(parameters, 8)
    optimizer = Lamb([{"params": list(parameters.values()), "weight_decay": 0.1, "highest": 0.03}], lr=0.03)
    take_steps(optimizer, parameters, gradients[:5])
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in parameters.items()}
    other = Lamb([{"params": list(resumed.values()), "weight_decay": 0.9, "highest": 0.03}], lr=1.0)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for run, own in ((optimizer, parameters), (other, resumed)):
        take_steps(run, own, gradients[5:])
    assert all(torch.equal(resumed[name], parameter) for name, parameter in parameters.items())


def test_lamb_of_a_model():
    """``make_optimizer``: weights decay and adapt, biases and layer norms do neither; parts have their own rates."""
    model = Model().double()
    before = {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = gradients_of(trained, 4)
    optimizer = make_optimizer("lamb", model, 0.01, 0.5, {"transitions": 0.2})
    assert isinstance(optimizer, Lamb)
    for group in optimizer.param_groups:  # as a run does before each update
        group["lr"] = group["highest"]
    take_steps(optimizer, trained, gradients)
    plain = {"gate.weight", "blocks.0.1.weight", *(name for name in before if name.endswith("bias"))}
    for name, parameter in trained.items():
        rate, taken = 0.2 if name == "transitions" else 0.01, [step[name].numpy() for step in gradients]
        expected = lamb_by_hand(before[name], taken, rate, 0.0 if name in plain else 0.5, name not in plain)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-9, atol=1e-12, err_msg=name)
    assert (model.frozen.weight.detach().numpy() == before["frozen.weight"]).all()


def test_a_lamb_without_decay_adapts_the_same_layers():
    """Which layers adapt is what they are, and not whether the decay happens to be 0."""
    model = Model().double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    make_optimizer("lamb", model, 0.01, 0.0).step()
    moved = {name: (parameter.detach() - before[name]).norm() for name, parameter in model.named_parameters()}
    torch.testing.assert_close(moved["dense.weight"], 0.01 * before["dense.weight"].norm())
    torch.testing.assert_close(moved["gate.weight"], torch.tensor(0.01 * 3**0.5, dtype=torch.float64))


@pytest.mark.slow
def test_adamw_is_that_of_torch():
    """Updates, state and its loading; but torch's own methods load its compiler, a second of every start."""
    code = """
import sys, torch
from bertorch.training.optimizer import AdamW
optimizers, loaded = [], "torch._dynamo" in sys.modules  # by torch 2.6 itself, before there is an optimizer
for kind in (AdamW, torch.optim.AdamW):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = kind([weight], lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    optimizers.append((weight, optimizer.state_dict()))
    assert ("torch._dynamo" in sys.modules) == (loaded or kind is not AdamW)
(ours, state), (theirs, expected) = optimizers
assert torch.equal(ours, theirs) and state["param_groups"] == expected["param_groups"]
assert all(torch.equal(state["state"][0][name], value) for name, value in expected["state"][0].items())
"""
    done = finished([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
