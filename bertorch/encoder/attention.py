"""Attention over packed sequences: one function, one signature, three backends that agree.

``grouped``  matrix products over runs of equally long sequences; the fast way on CPU, where SDPA with a mask and
             dropout takes a slow path. Batches sorted by length have the longest runs.
``varlen``   flash attention on CUDA (``torch.nn.attention.varlen``), fp16 and bf16. That kernel has no dropout.
``padded``   scaled_dot_product_attention over a padded rectangle: the plain reference, and what CUDA uses where the
             varlen kernel cannot follow BERT (attention dropout in training, fp32).

All: softmax(q k^T / sqrt(head_dim)) v with dropout on the probabilities (Vaswani et al. 2017, section 3.2.1; the
dropout is BERT's ``attention_probs_dropout_prob``).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bertorch.encoder.tokens import TokenBatch, to_padded

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # older torch
    varlen_attn = None


def choose_backend(query: Tensor, dropout_p: float) -> str:
    """The fastest backend that computes what BERT computes for this tensor."""
    if query.device.type == "cpu":
        return "grouped"
    if varlen_attn is not None and dropout_p == 0.0 and query.dtype in (torch.float16, torch.bfloat16):
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
        return varlen_attn(query, key, value, batch.cu_seqlens, batch.cu_seqlens, batch.max_seqlen, batch.max_seqlen)
    return _padded(query, key, value, batch, dropout_p)


def _padded(query: Tensor, key: Tensor, value: Tensor, batch: TokenBatch, dropout_p: float) -> Tensor:
    q, mask = to_padded(query, batch)  # [batch_size, max_seqlen, num_heads, head_dim], [batch_size, max_seqlen]
    k, _ = to_padded(key, batch)
    v, _ = to_padded(value, batch)
    # [batch_size, 1, 1, max_seqlen]: every query sees the real keys of its sequence
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask[:, None, None, :], dropout_p=dropout_p
    )
    flat = mask.flatten().nonzero_static(size=batch.total_tokens).squeeze(1)  # a fixed size spares a device sync
    return out.transpose(1, 2).flatten(0, 1).index_select(0, flat)


@torch.compiler.disable  # Python loops over lengths that change with each batch
def _grouped(query: Tensor, key: Tensor, value: Tensor, batch: TokenBatch, dropout_p: float) -> Tensor:
    return _GroupedAttention.apply(query, key, value, _equal_length_runs(batch.lengths), dropout_p)


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
    """Attention run by run. One autograd node for all runs: slicing outside would cost a full-size gradient a run."""

    @staticmethod
    def forward(ctx, query, key, value, runs, dropout_p):
        heads, head_dim = query.shape[1:]
        scale = 1.0 / math.sqrt(head_dim)
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        saved = []
        for start, count, length in runs:
            q, k, v = (_heads_first(x, start, count, length) for x in (query, key, value))  # [count * heads, length, d]
            probs = torch.softmax(torch.bmm(q, k.transpose(1, 2)).mul_(scale), dim=-1)  # [count * heads, length, length]
            mask = None
            dropped = probs
            if dropout_p:
                mask = _keep_mask(probs, dropout_p)
                dropped = probs * mask
            run = out[start : start + count * length].view(count, length, heads, head_dim)
            run.copy_(torch.bmm(dropped, v).view(count, heads, length, head_dim).transpose(1, 2))
            saved += [probs, mask]
        ctx.save_for_backward(query, key, value, *saved)
        ctx.runs, ctx.scale = runs, scale
        return out

    @staticmethod
    def backward(ctx, grad_out):
        query, key, value, *saved = ctx.saved_tensors
        heads, head_dim = query.shape[1:]
        grads = [torch.empty_like(query, memory_format=torch.contiguous_format) for _ in range(3)]
        for index, (start, count, length) in enumerate(ctx.runs):
            probs, mask = saved[2 * index : 2 * index + 2]
            q, k, v, g = (_heads_first(x, start, count, length) for x in (query, key, value, grad_out))
            dropped = probs if mask is None else probs * mask
            grad_v = torch.bmm(dropped.transpose(1, 2), g)
            grad_probs = torch.bmm(g, v.transpose(1, 2))
            if mask is not None:
                grad_probs.mul_(mask)
            # d softmax: p * (g - sum(g * p))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_probs, probs, -1, probs.dtype).mul_(ctx.scale)
            grad_q = torch.bmm(grad_scores, k)
            grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
            for grad, part in zip(grads, (grad_q, grad_k, grad_v), strict=True):
                run = grad[start : start + count * length].view(count, length, heads, head_dim)
                run.copy_(part.view(count, heads, length, head_dim).transpose(1, 2))
        return *grads, None, None


def _heads_first(x: Tensor, start: int, count: int, length: int) -> Tensor:
    """``[total_tokens, heads, head_dim]`` -> ``[count * heads, length, head_dim]`` of one run."""
    heads, head_dim = x.shape[1:]
    run = x[start : start + count * length].view(count, length, heads, head_dim)
    return run.transpose(1, 2).reshape(count * heads, length, head_dim)


def _keep_mask(probs: Tensor, dropout_p: float) -> Tensor:
    """Inverted dropout: 0 where dropped, ``1 / (1 - p)`` where kept."""
    return torch.empty_like(probs).bernoulli_(1.0 - dropout_p).div_(1.0 - dropout_p)
