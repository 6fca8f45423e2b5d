"""Attention on a CPU: matrix products over groups of sequences of similar length, in one autograd node.

scaled_dot_product_attention with a mask and dropout takes a slow path on a CPU. Forward and backward of 32 sequences of 8 to
128 tokens, 12 heads of 64, dropout 0.1: padded SDPA takes 4.3 to 4.7 times as long as this, and with up to 256 tokens 5.4 to
5.8 times (`python benchmarks/attention_speed.py`, one thread of a busy Xeon with AMX). Batches are sorted by length, so
neighbours differ little: padding a group to its longest sequence is cheaper than adding a group.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertorch.encoder.dropout import keep_mask
from bertorch.encoder.tokens import TokenBatch

_MOST_WASTED = 8192  # padding scores in a group, over all heads; beyond this, one more group is faster


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, batch: TokenBatch, dropout_p: float, bias: Tensor | None = None
) -> Tensor:
    """See ``attention.attention``."""
    groups = _Groups.of(tuple(batch.lengths), key.shape[1], key.device)
    return _GroupedAttention.apply(query, key, value, groups, dropout_p, bias)


def distances(queries: int, keys: int, longest: int, device: torch.device) -> Tensor:
    """The column of ``attention``'s bias for each query and key of a sequence, LongTensor ``[queries, keys]``."""
    return torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] + longest - 1


@dataclass(frozen=True)
class _Groups:
    """Groups of neighbouring sequences of similar length, padded to the longest of them, and where their tokens go.

    A row is one head of one token. Packed rows are ordered by token; rows of the groups are ordered by sequence, then by
    head, so that each group is one batched matrix product.

    Attributes:
        shapes: for each group, the number of matrices (sequences * heads) and the length that they are padded to.
        gather: the packed row that each row of the groups holds; for padding, a row of the same sequence, LongTensor.
        scatter: where in the groups each packed row is, LongTensor ``[total_tokens * heads]``.
        padding: the rows of the groups that are padding, LongTensor.
        biases: for each group, what is added to its scores: 0, and -inf on padded keys, ``[matrices, 1, length]``; None
            if nothing is padded.
    """

    shapes: list[tuple[int, int]]
    gather: Tensor
    scatter: Tensor
    padding: Tensor
    biases: list[Tensor | None]

    @classmethod
    @functools.lru_cache(maxsize=1)  # all layers of an encoder ask for the same
    def of(cls, lengths: tuple[int, ...], heads: int, device: torch.device) -> "_Groups":
        groups = _cut(lengths, heads)
        sizes = np.array(lengths)
        widths = np.repeat([width for _, width in groups], [count for count, _ in groups])
        rows = widths * heads  # of each sequence
        sequence = np.repeat(np.arange(len(sizes)), rows)
        inside = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        head, place = np.divmod(inside, widths[sequence])
        token = np.cumsum(sizes)[sequence] - np.maximum(sizes[sequence] - place, 1)  # for padding, the sequence's last
        gather = token * heads + head
        padded = place >= sizes[sequence]
        padding, real = np.flatnonzero(padded), np.flatnonzero(~padded)
        scatter = np.empty_like(real)
        scatter[gather[real]] = real
        biases, first = [], 0
        for count, width in groups:
            outside = np.arange(width) >= sizes[first : first + count, None]
            bias = torch.zeros(outside.shape).masked_fill_(torch.from_numpy(outside), -torch.inf)
            biases.append(bias.repeat_interleave(heads, 0)[:, None].to(device) if outside.any() else None)
            first += count
        indices = (torch.from_numpy(index).to(device) for index in (gather, scatter, padding))
        return cls([(count * heads, width) for count, width in groups], *indices, biases)


def _cut(lengths: tuple[int, ...], heads: int) -> list[tuple[int, int]]:
    """``(sequences, longest)`` of each group: a neighbour joins while that is cheaper than another group."""
    groups: list[tuple[int, int]] = []
    wasted = 0  # scores of the last group that are padding
    for length in lengths:
        count, width = groups[-1] if groups else (0, 0)
        joint = max(width, length)
        waste = wasted + (joint**2 - length**2) + count * (joint**2 - width**2)
        if groups and waste * heads <= _MOST_WASTED:
            groups[-1], wasted = (count + 1, joint), waste
        else:
            groups.append((1, length))
            wasted = 0
    return groups


class _GroupedAttention(torch.autograd.Function):
    """Attention group by group. One autograd node for all groups: slicing outside would cost a full-size gradient per group.

    The probabilities of all groups share one buffer, and so do those after dropout: many blocks of varying sizes would
    fragment the heap.
    """

    @staticmethod
    def forward(ctx, query, key, value, groups, dropout_p, relative):
        head_dim = query.shape[-1]
        scale, keep = 1.0 / math.sqrt(head_dim), 1.0 / (1.0 - dropout_p)  # inverted dropout: kept values are scaled by this
        first_only = len(query) != len(key)  # then the queries are already in the order of the groups
        gather, scatter = (None, None) if first_only else (groups.gather, groups.scatter)
        keys = groups.shapes
        queries = [(count, 1) for count, _ in keys] if first_only else keys
        squares = [(*rows, width) for rows, (_, width) in zip(queries, keys, strict=True)]
        q, k, v = _rows(query, gather), _rows(key, groups.gather), _rows(value, groups.gather)
        probs = query.new_empty(sum(map(math.prod, squares)))
        kept = keep_mask(len(probs), dropout_p, query) if dropout_p else probs
        context = torch.empty_like(q)
        parts = zip(
            _parts(q, queries), _parts(k, keys), _parts(v, keys), _parts(context, queries), _parts(probs, squares),
            _parts(kept, squares), groups.biases, strict=True,
        )  # fmt: skip
        for q_, k_, v_, out, p, left, bias in parts:
            if bias is None:
                p.baddbmm_(q_, k_.transpose(1, 2), beta=0, alpha=scale)
            else:
                torch.baddbmm(bias.to(p.dtype), q_, k_.transpose(1, 2), alpha=scale, out=p)
            if relative is not None:
                columns = _columns(relative, p)
                p.view(-1, len(relative), *columns.shape).add_(relative[:, columns].to(p.dtype))
            torch.softmax(p, dim=-1, out=p)
            if dropout_p:
                left.mul_(p)
            out.baddbmm_(left, v_, beta=0, alpha=keep)
        context = _rows(context, scatter).view(query.shape)
        ctx.save_for_backward(q, k, v, probs, kept, context)
        ctx.relative_like = None if relative is None else relative.detach()
        ctx.groups, ctx.first_only, ctx.shapes = groups, first_only, (queries, keys, squares)
        ctx.scale, ctx.keep = scale, keep
        return context

    @staticmethod
    def backward(ctx, grad_out):
        q, k, v, probs, kept, context = ctx.saved_tensors
        groups, (queries, keys, squares) = ctx.groups, ctx.shapes
        gather, scatter = (None, None) if ctx.first_only else (groups.gather, groups.scatter)
        # d softmax is p * (d p - sum(p * d p)); the sum is that of a query's context times its gradient (Dao et al. 2022).
        sums = _rows((grad_out * context).sum(dim=-1, keepdim=True), gather)
        g = _rows(grad_out, gather)
        if not ctx.first_only:
            for rows in (g, sums):
                rows.index_fill_(0, groups.padding, 0)
        grads = [torch.empty_like(x) for x in (q, k, v)]
        grad_relative = None if ctx.relative_like is None else torch.zeros_like(ctx.relative_like)
        parts = zip(
            _parts(q, queries), _parts(k, keys), _parts(v, keys), _parts(g, queries), _parts(sums, queries),
            _parts(probs, squares), _parts(kept, squares),
            *(_parts(x, rows) for x, rows in zip(grads, (queries, keys, keys), strict=True)), strict=True,
        )  # fmt: skip
        for q_, k_, v_, g_, sum_, p, left, grad_q, grad_k, grad_v in parts:
            grad_scores = torch.empty_like(p).baddbmm_(g_, v_.transpose(1, 2), beta=0, alpha=ctx.keep)
            grad_scores.mul_(left).addcmul_(p, sum_, value=-1)
            if grad_relative is not None:
                columns = _columns(grad_relative, p)
                summed = grad_scores.view(-1, len(grad_relative), columns.numel()).sum(dim=0)  # over the sequences
                grad_relative.index_add_(1, columns.flatten(), summed.to(grad_relative.dtype))
            grad_q.baddbmm_(grad_scores, k_, beta=0, alpha=ctx.scale)
            grad_k.baddbmm_(grad_scores.transpose(1, 2), q_, beta=0, alpha=ctx.scale)
            grad_v.baddbmm_(left.transpose(1, 2), g_, beta=0, alpha=ctx.keep)
        indices = (scatter, groups.scatter, groups.scatter)
        grads = (_rows(x, index).view(-1, *grad_out.shape[1:]) for x, index in zip(grads, indices, strict=True))
        return *grads, None, None, grad_relative


def _columns(relative: Tensor, scores: Tensor) -> Tensor:
    """``distances`` of a group, whose scores are ``[matrices, queries, keys]``."""
    return distances(*scores.shape[1:], (relative.shape[1] + 1) // 2, relative.device)


def _rows(x: Tensor, index: Tensor | None) -> Tensor:
    """``[..., n]`` -> its rows in the order of ``index``, ``[rows, n]``; None: order unchanged."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if index is None else rows.index_select(0, index)


def _parts(x: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Each group's part of ``x``, its first dimension reshaped to the group's shape."""
    parts = x.split([math.prod(shape) for shape in shapes])
    return [part.view(*shape, *x.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]
