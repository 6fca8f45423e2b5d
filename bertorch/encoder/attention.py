"""Attention over packed sequences: one function, one signature, three backends that agree.

``grouped``  matrix products over runs of equally long sequences; the fast way on CPU, where SDPA with a mask and
             dropout takes a slow path. Batches sorted by length have the longest runs.
``varlen``   flash attention on CUDA (``torch.nn.attention.varlen``), fp16 and bf16. That kernel has no dropout.
``padded``   scaled_dot_product_attention over a padded rectangle: the plain reference, and what CUDA uses where the
             varlen kernel cannot follow BERT (attention dropout in training, fp32).

All: softmax(q k^T / sqrt(head_dim)) v with dropout on the probabilities (Vaswani et al. 2017, section 3.2.1; the
dropout is BERT's ``attention_probs_dropout_prob``).
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bertorch.encoder.dropout import keep_mask
from bertorch.encoder.tokens import TokenBatch, padded_places, to_padded


@functools.cache
def varlen_kernel() -> Callable | None:
    """``varlen_attn`` where torch has it. Imported when it is asked for: it loads torch's compiler, a second of start-up."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # older torch
        return None
    return varlen_attn


def choose_backend(query: Tensor, dropout_p: float) -> str:
    """The fastest backend that computes what BERT computes for this tensor."""
    if query.device.type == "cpu":
        return "grouped"
    fits = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    if dropout_p == 0.0 and fits and varlen_kernel() is not None:
        return "varlen"
    return "padded"


def attention(
    query: Tensor, key: Tensor, value: Tensor, batch: TokenBatch, dropout_p: float = 0.0, backend: str | None = None
) -> Tensor:
    """Self-attention within each sequence of ``batch``.

    Args:
        query, key, value: ``[total_tokens, num_heads, head_dim]``.
        batch: gives the sequence boundaries.
        dropout_p: share of the attention probabilities set to zero; 0 outside training.
        backend: ``grouped``, ``varlen`` or ``padded``; None takes ``choose_backend``'s.

    Returns:
        ``[total_tokens, num_heads, head_dim]``.
    """
    backend = backend or choose_backend(query, dropout_p)
    if backend == "grouped":
        return _grouped(query, key, value, batch, dropout_p)
    if backend == "varlen":
        if dropout_p:
            raise ValueError("the varlen kernel has no dropout; use the padded backend")
        return varlen_kernel()(query, key, value, batch.cu_seqlens, batch.cu_seqlens, batch.max_seqlen, batch.max_seqlen)
    return _padded(query, key, value, batch, dropout_p)


def _padded(query: Tensor, key: Tensor, value: Tensor, batch: TokenBatch, dropout_p: float) -> Tensor:
    padded, mask = to_padded(torch.stack([query, key, value], dim=1), batch)
    q, k, v = padded.permute(2, 0, 3, 1, 4)  # each [batch_size, num_heads, max_seqlen, head_dim]
    # [batch_size, 1, 1, max_seqlen]: every query sees the real keys of its sequence
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :], dropout_p=dropout_p)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, padded_places(batch))


def _grouped(query: Tensor, key: Tensor, value: Tensor, batch: TokenBatch, dropout_p: float) -> Tensor:
    return _GroupedAttention.apply(query, key, value, _equal_length_runs(batch.lengths), dropout_p)


def leave_uncompiled() -> None:
    """Keep ``torch.compile`` off the grouped backend: it loops over lengths that change with each batch."""
    global _grouped
    _grouped = torch.compiler.disable(_grouped)  # not as a decorator: it loads torch's compiler


def _equal_length_runs(lengths: list[int]) -> list[tuple[int, int, int]]:
    """``(first token, sequences, length)`` of each run of neighbours of one length."""
    runs: list[tuple[int, int, int]] = []
    start = 0
    for length in lengths:
        if runs and runs[-1][2] == length:
            first, count, _ = runs[-1]
            runs[-1] = (first, count + 1, length)
        else:
            runs.append((start, 1, length))
        start += length
    return runs


class _GroupedAttention(torch.autograd.Function):
    """Attention run by run. One autograd node for all runs: slicing outside would cost a full-size gradient a run.

    The probabilities of all runs lie in one buffer, and so does their dropout mask: many blocks of ever other sizes would
    leave the heap in pieces.
    """

    @staticmethod
    def forward(ctx, query, key, value, runs, dropout_p):
        heads, head_dim = query.shape[1:]
        scale = 1.0 / math.sqrt(head_dim)
        keep = 1.0 / (1.0 - dropout_p)  # inverted dropout: what is kept grows by this
        sizes = [count * heads * length * length for _, count, length in runs]
        probs = query.new_empty(sum(sizes))
        mask = keep_mask(len(probs), dropout_p, probs.device) if dropout_p else None
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for (start, count, length), p, m in zip(runs, *_squares(probs, mask, runs, sizes), strict=True):
            q, k, v = (_heads_first(x, start, count, length) for x in (query, key, value))  # [count * heads, length, d]
            torch.softmax(torch.bmm(q, k.transpose(1, 2)).mul_(scale), dim=-1, out=p)  # [count * heads, length, length]
            context = torch.bmm(p, v) if m is None else torch.bmm(p * m, v).mul_(keep)
            _write_run(out, context, start, count, length)
        ctx.save_for_backward(query, key, value, probs, mask)
        ctx.runs, ctx.sizes, ctx.scale, ctx.keep = runs, sizes, scale, keep
        return out

    @staticmethod
    def backward(ctx, grad_out):
        query, key, value, probs, mask = ctx.saved_tensors
        grads = [torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(3)]
        for (start, count, length), p, m in zip(ctx.runs, *_squares(probs, mask, ctx.runs, ctx.sizes), strict=True):
            q, k, v, g = (_heads_first(x, start, count, length) for x in (query, key, value, grad_out))
            grad_p = torch.bmm(g, v.transpose(1, 2))
            if m is None:
                grad_v = torch.bmm(p.transpose(1, 2), g)
            else:
                grad_v = torch.bmm((p * m).transpose(1, 2), g).mul_(ctx.keep)
                grad_p.mul_(m).mul_(ctx.keep)
            # d softmax: p * (g - sum(g * p))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(ctx.scale)
            for grad, part in zip(
                grads, (torch.bmm(grad_scores, k), torch.bmm(grad_scores.transpose(1, 2), q), grad_v), strict=True
            ):
                _write_run(grad, part, start, count, length)
        return *grads, None, None


def _squares(
    probs: Tensor, mask: Tensor | None, runs: list[tuple[int, int, int]], sizes: list[int]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """The buffers of probabilities and mask, cut into ``[count * heads, length, length]`` of each run."""
    shapes = [(-1, length, length) for _, _, length in runs]
    cut = [part.view(shape) for part, shape in zip(probs.split(sizes), shapes, strict=True)]
    if mask is None:
        return cut, [None] * len(runs)
    return cut, [part.view(shape) for part, shape in zip(mask.split(sizes), shapes, strict=True)]


def _write_run(out: Tensor, values: Tensor, start: int, count: int, length: int) -> None:
    """Put ``[count * heads, length, head_dim]`` of a run into its place in ``[total_tokens, heads, head_dim]``."""
    heads, head_dim = out.shape[1:]
    run = out[start : start + count * length].view(count, length, heads, head_dim)
    run.copy_(values.view(count, heads, length, head_dim).transpose(1, 2))


def _heads_first(x: Tensor, start: int, count: int, length: int) -> Tensor:
    """``[total_tokens, heads, head_dim]`` -> ``[count * heads, length, head_dim]`` of one run."""
    heads, head_dim = x.shape[1:]
    run = x[start : start + count * length].view(count, length, heads, head_dim)
    return run.transpose(1, 2).reshape(count * heads, length, head_dim)
