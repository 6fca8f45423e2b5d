"""Whether an attention backend computes what BERT computes, asked of each backend on the GPU at hand before it is used.

A tiny batch goes through it, forward and backward, with dropout and without, beside softmax attention in float64. A backend
draws its dropout mask where nobody sees it. So it draws twice from the same state of the random generator: once with values
that are one-hot, which makes the output the dropped probabilities and shows the mask, and once with random values.
"""

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bertorch.encoder.relative import Relative
from bertorch.encoder.tokens import TokenBatch

Backend = Callable[[Tensor, Tensor, Tensor, TokenBatch, float, Tensor | None, int | None, Relative | None], Tensor]
"""The arguments of ``attention.attention``, without ``backend``."""

_LENGTHS = [130, 40, 33, 17, 9, 7, 2, 1]  # kernels work on blocks of up to 128 tokens: more than a block, and less
_WINDOW = 16
_HEADS = 2
_DROPOUT = 0.25
# The largest error, as a share of the norm: a few times what the number format rounds away, for fp32 that of TF32. On a CPU
# fp16 gives up to 1e-3 and bf16 7e-3; a wrong formula gives 0.05 and more.
_TOLERANCES = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}


def find_fault(
    backend: Backend, device: torch.device, dtype: torch.dtype, head_size: int, windowed: bool = False
) -> str | None:
    """What is wrong with ``backend`` for tensors like these, in a few words; None if nothing is.

    An exception that it raises is a fault too. The random generators and the gradients of the caller stay as they are.
    ``windowed``: queries see the keys near them, and none are those of first tokens alone.
    """
    with contextlib.ExitStack() as own:
        own.enter_context(torch.inference_mode(False))  # this enables gradients too
        own.enter_context(torch.autocast(device.type, enabled=False))
        # Within a checkpointed block, what the backward needs would else be dropped and computed again.
        own.enter_context(torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved))
        try:
            for dropout in (0.0, _DROPOUT):
                for first_only in (False,) if windowed else (False, True):
                    fault = _fault(backend, device, dtype, head_size, dropout, first_only, _WINDOW if windowed else None)
                    if fault is not None:
                        return fault + ", with dropout" * (dropout > 0) + ", queries of first tokens" * first_only
        except Exception as error:  # of any class: a kernel may be missing, or not be made for this GPU
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return None


def _fault(
    backend: Backend,
    device: torch.device,
    dtype: torch.dtype,
    head_size: int,
    dropout: float,
    first_only: bool,
    window: int | None,
) -> str | None:
    ids = torch.zeros(sum(_LENGTHS), dtype=torch.long)
    on_host = TokenBatch.from_lengths(ids, ids, _LENGTHS)
    batch, firsts = on_host.to(device), on_host.cu_seqlens[:-1].long()
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad = (torch.randn(len(ids), _HEADS, head_size, generator=generator) for _ in range(4))
    if first_only:
        query, grad = query[firsts], grad[firsts]
    query, key, value = leaves = [x.to(device, dtype).requires_grad_() for x in (query, key, value)]
    grad = grad.to(device, dtype)

    def attend(values: Tensor) -> Tensor:
        return backend(query, key, values, batch, dropout, None, window, None)

    with _same_draw(device):
        out = attend(value)
        found = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    seen = []  # the probabilities after dropout, as many keys at a time as a value has numbers
    for start in range(0, max(_LENGTHS), head_size) if dropout else ():
        places = on_host.position_ids - start
        hot = F.one_hot(places.clamp(0, head_size - 1), head_size) * ((places >= 0) & (places < head_size))[:, None]
        with _same_draw(device):
            seen.append(attend(hot[:, None].expand(-1, _HEADS, -1).to(device, dtype)).detach().double().cpu())

    inputs = [x.detach().double().cpu().requires_grad_() for x in leaves]
    out, dropped, count = _reference(*inputs, first_only, window, torch.cat(seen, dim=-1) if dropout else None, dropout)
    expected = [out.detach(), *torch.autograd.grad(out, inputs, grad.double().cpu())]
    if abs(dropped / count - dropout) > 6 * (dropout * (1 - dropout) / count) ** 0.5:  # six standard deviations
        return f"drops {dropped / count:.1%} of the probabilities instead of {dropout:.1%}"
    for name, one, other in zip(("output", "query", "key", "value"), found, expected, strict=True):
        error = ((one.double().cpu() - other).norm() / other.norm()).item()
        if not error <= _TOLERANCES[dtype]:  # NaN is wrong too
            return f"{'' if name == 'output' else 'gradient of the '}{name} is {error:.1%} off"
    if dropout:
        with _same_draw(device):
            draws = [attend(value) for _ in range(2)]
        if torch.equal(*draws):
            return "draws the same dropout mask again"
    return None


def _reference(
    query: Tensor, key: Tensor, value: Tensor, first_only: bool, window: int | None, seen: Tensor | None, dropout: float
) -> tuple[Tensor, int, int]:
    """softmax(q k^T / sqrt(head_size)) v of each sequence, and how many of how many probabilities are dropped.

    ``seen``: the probabilities after dropout, ``[queries, heads, at least the longest sequence]``; None: without dropout.
    """
    rows, start, dropped, count = [], 0, 0, 0
    for number, length in enumerate(_LENGTHS):
        places = slice(number, number + 1) if first_only else slice(start, start + length)
        own = slice(start, start + length)
        start += length
        scores = torch.einsum("qhd,khd->qhk", query[places], key[own]) / key.shape[-1] ** 0.5
        away = torch.arange(length) - torch.arange(len(scores))[:, None]
        hidden = (away.abs() > (length if window is None else window))[:, None].expand_as(scores)
        probs = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
        if seen is not None:
            kept = seen[places, :, :length] > 0.5 * probs.detach() / (1 - dropout)
            dropped += int((~kept & ~hidden).sum())
            probs = probs * kept / (1 - dropout)
        count += int((~hidden).sum())
        rows.append(torch.einsum("qhk,khd->qhd", probs, value[own]))
    return torch.cat(rows), dropped, count


def _same_draw(device: torch.device) -> contextlib.AbstractContextManager:
    """Give the random generators back the state that they had before, on the way out."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)
