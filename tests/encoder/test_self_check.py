"""The self-check accepts the backends that are right and rejects one for each way of being wrong."""

import pytest
import torch
from loguru import logger
from torch.utils.checkpoint import checkpoint

import bertorch.encoder.attention as module
from bertorch.encoder import TokenBatch
from bertorch.encoder.attention import BACKENDS, choose_backend
from bertorch.encoder.grouped_attention import grouped_attention
from bertorch.encoder.self_check import find_fault

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_size", [8, 20, 64])
@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("name", ["grouped", "padded"])
def test_right_backends_are_accepted(name, windowed, head_size, dtype):
    assert find_fault(BACKENDS[name], CPU, dtype, head_size, windowed) is None


def test_a_window_that_is_not_kept_is_found():
    assert "output is" in find_fault(
        lambda *given: BACKENDS["padded"](*given[:-2], None, None), CPU, torch.float32, 20, True
    )
    assert "output is" in find_fault(lambda *given: BACKENDS["padded"](*given[:-2], 17, None), CPU, torch.float32, 20, True)


def right(query, key, value, batch, dropout_p, *others):
    return grouped_attention(query, key, value, batch, dropout_p)


class _Redrawn(torch.autograd.Function):
    """Attention whose backward draws another dropout mask than the forward."""

    @staticmethod
    def forward(ctx, query, key, value, batch, dropout_p):
        ctx.save_for_backward(query, key, value)
        ctx.others = batch, dropout_p
        return grouped_attention(query, key, value, batch, dropout_p)

    @staticmethod
    def backward(ctx, grad_out):
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            out = grouped_attention(*leaves, *ctx.others)
        return *torch.autograd.grad(out, leaves, grad_out), None, None


def redrawn(query, key, value, batch, dropout_p, *others):
    return _Redrawn.apply(query, key, value, batch, dropout_p)


def without_dropout(query, key, value, batch, dropout_p, *others):
    return grouped_attention(query, key, value, batch, 0.0)


def more_dropout(query, key, value, batch, dropout_p, *others):
    return grouped_attention(query, key, value, batch, 0.4 if dropout_p else 0.0)


def unscaled_dropout(query, key, value, batch, dropout_p, *others):
    return grouped_attention(query, key, value, batch, dropout_p) * (1 - dropout_p)


def same_mask_every_time(query, key, value, batch, dropout_p, *others):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return grouped_attention(query, key, value, batch, dropout_p)


def across_sequences(query, key, value, batch, dropout_p, *others):
    """The first two sequences see each other."""
    lengths = [batch.lengths[0] + batch.lengths[1], *batch.lengths[2:]]
    zeros = torch.zeros(len(key), dtype=torch.long)
    joined = TokenBatch.from_lengths(zeros, zeros, lengths)
    if len(query) == len(key):
        return grouped_attention(query, key, value, joined, dropout_p)
    out = grouped_attention(torch.cat([query[:1], query[2:]]), key, value, joined, dropout_p)
    return torch.cat([out[:1], out])


def wrong_scale(query, key, value, batch, dropout_p, *others):
    """As if heads of 20 had been padded to 24 and the scale had followed."""
    return grouped_attention(query * (20 / 24) ** 0.5, key, value, batch, dropout_p)


def wrong_first_tokens(query, key, value, batch, dropout_p, *others):
    if len(query) != len(key):
        return grouped_attention(query.flip(0), key, value, batch, dropout_p)
    return grouped_attention(query, key, value, batch, dropout_p)


def no_gradient_of_keys(query, key, value, batch, dropout_p, *others):
    return grouped_attention(query, key.detach() + 0 * key, value, batch, dropout_p)


def not_a_number(query, key, value, batch, dropout_p, *others):
    return grouped_attention(query, key, value, batch, dropout_p) * torch.nan


def no_kernel(query, key, value, batch, dropout_p, *others):
    raise RuntimeError("no kernel image is available for execution on the device\nCUDA kernel errors might be")


BROKEN = {
    redrawn: "gradient of the", without_dropout: "drops 0.0%",
    more_dropout: "of the probabilities instead of 25.0%",
    unscaled_dropout: "output is 25",
    same_mask_every_time: "same dropout mask", across_sequences: "output is", wrong_scale: "off",
    wrong_first_tokens: "queries of first tokens", no_gradient_of_keys: "gradient of the key", not_a_number: "output is nan",
    no_kernel: "RuntimeError: no kernel image is available for execution on the device",
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_broken_backends_are_rejected(broken, dtype):
    fault = find_fault(broken, CPU, dtype, 20)
    assert fault is not None and BROKEN[broken] in fault and "\n" not in fault


def test_the_training_draws_the_same_numbers_as_without_a_check():
    torch.manual_seed(3)
    expected = torch.rand(5)
    for backend in (right, redrawn, no_kernel):
        torch.manual_seed(3)
        find_fault(backend, CPU, torch.float32, 8)
        assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize("around", ["no_grad", "inference_mode", "autocast", "checkpoint"])
def test_where_the_check_runs_makes_no_difference(around):
    """The first attention of a run may stand in any of these."""
    found, calls = [], []

    def first_use(x):
        calls.append(None)
        if len(calls) == 1:
            found.append(find_fault(BACKENDS["padded"], CPU, torch.float32, 8))
        return (x * x).exp()

    x = torch.ones(3, requires_grad=True)
    if around == "checkpoint":
        checkpoint(first_use, x, use_reentrant=False).sum().backward()
        assert len(calls) == 2  # the forward, and once more for the backward
    else:
        contexts = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
        with contexts[around]() if around in contexts else torch.autocast("cpu", dtype=torch.bfloat16):
            first_use(x)
    assert found == [None]


@pytest.fixture
def accelerator(monkeypatch):
    """Tensors of the "meta" device are taken for those of a GPU whose kernels compute on the CPU."""
    monkeypatch.setattr(module, "packed_fits", lambda *given: True)
    monkeypatch.setattr(module, "find_fault", lambda backend, device, *others: find_fault(backend, CPU, *others))
    module._proved.cache_clear()
    said = []
    handler = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    yield said
    logger.remove(handler)
    module._proved.cache_clear()


def test_a_backend_that_fails_is_replaced_with_one_warning(accelerator, monkeypatch):
    monkeypatch.setitem(BACKENDS, "packed", redrawn)
    query = torch.empty(3, 4, 16, device="meta")
    assert [choose_backend(query) for _ in range(3)] == ["padded"] * 3
    assert len(accelerator) == 1 and "gradient of the" in accelerator[0] and "float32, heads of 16 (" in accelerator[0]


def test_a_backend_that_proves_right_is_used(accelerator, monkeypatch):
    checks = []

    def watched(*inputs):
        checks.append(inputs)
        return grouped_attention(*inputs)

    monkeypatch.setitem(BACKENDS, "packed", watched)
    query = torch.empty(3, 4, 16, device="meta")
    assert choose_backend(query) == "packed"
    count = len(checks)
    assert choose_backend(query) == "packed" and len(checks) == count > 0  # asked once in a process
    assert choose_backend(query.bfloat16()) == "packed" and len(checks) > count
    count = len(checks)
    assert choose_backend(query, windowed=True) == "packed" and len(checks) > count
    assert choose_backend(query, beyond_packed=True) == "padded" and not accelerator
