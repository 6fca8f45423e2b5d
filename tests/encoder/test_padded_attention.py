"""The padded backend launches few kernels: indices and masks are computed once for all layers, gradients are gathered."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bertorch.encoder import Encoder, EncoderConfig, TokenBatch
from bertorch.encoder.attention import attention
from tests.closeness import assert_close

# Operators that launch no kernel.
VIEWS = {
    "_unsafe_view", "alias", "as_strided", "detach", "expand", "permute", "select", "slice", "split", "t", "transpose",
    "unsqueeze", "view",
}  # fmt: skip


class _Launched(TorchDispatchMode):
    """The names of the operators that launch kernels."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        self.names += [] if name in VIEWS else [name]
        return func(*args, **(kwargs or {}))


def batch(lengths: list[int]) -> TokenBatch:
    zeros = torch.zeros(sum(lengths), dtype=torch.long)
    return TokenBatch.from_lengths(zeros, zeros, lengths)


def launched(lengths: list[int], layers: int, **given) -> tuple[list[str], list[str]]:
    """What the last of some layers launches, forward and backward, beside scaled_dot_product_attention itself."""
    tokens = batch(lengths)
    leaves = [torch.randn(sum(lengths), 2, 8, requires_grad=True) for _ in range(3)]
    for _ in range(layers):
        with _Launched() as forward:
            out = attention(*leaves, tokens, 0.0, "padded", **given)
        grad_out = torch.ones_like(out)
        with _Launched() as backward:
            torch.autograd.grad(out, leaves, grad_out)
    inner = "_scaled_dot_product_flash_attention_for_cpu"
    assert inner in forward.names and inner + "_backward" in backward.names
    return tuple([name for name in names if inner not in name] for names in (forward.names, backward.names))


def test_a_layer_gathers_and_gathers_back():
    forward, backward = launched([5, 3, 1], 2)
    assert forward == ["index_select"] * 4  # query, key and value to their places, and the output back
    assert sorted(backward) == ["index_copy_", *["index_select"] * 3, "new_zeros"]


def test_full_rows_are_not_copied():
    assert launched([4, 4, 4], 1) == ([], [])


@pytest.mark.parametrize("given", [{}, {"window": 2}], ids=str)
def test_every_layer_shares_indices_and_mask(given):
    (first, _), (second, _) = (launched([5, 3, 1], layers, **given) for layers in (1, 2))
    assert {"repeat_interleave", "masked_fill_"} <= set(first)
    assert second == ["index_select"] * 4


def test_what_is_kept_belongs_to_one_forward_pass(monkeypatch):
    """A batch whose tensors are written to, as those of a captured graph are, is not computed with the old ones."""
    config = EncoderConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    encoder = Encoder(config).eval()
    monkeypatch.setattr("bertorch.encoder.attention.choose_backend", lambda *given: "padded")
    ids = torch.arange(9)
    tokens, other = (TokenBatch.from_lengths(ids, ids * 0, lengths) for lengths in ([5, 3, 1], [5, 1, 3]))
    encoder(tokens)
    for name in ("position_ids", "cu_seqlens"):
        getattr(tokens, name).copy_(getattr(other, name))
    tokens.lengths[:] = other.lengths
    assert_close(encoder(tokens), encoder(other))
    assert not copy.copy(tokens).kept


def test_a_copy_on_another_device_keeps_nothing():
    tokens = batch([2, 1])
    attention(*(torch.randn(3, 1, 4) for _ in range(3)), tokens, backend="padded")
    assert tokens.kept and not tokens.to(torch.device("meta")).kept
