"""Attention on a CPU: matrix products over groups of sequences of similar length, in one autograd node.

scaled_dot_product_attention with a mask and dropout takes a slow path on a CPU. Forward and backward of 32 sequences of 8 to
128 tokens, 12 heads of 64, dropout 0.1: padded SDPA takes 3.6 to 3.8 times as long as this, and with up to 256 tokens 4.6 to
4.9 times (`python benchmarks/attention_speed.py`, one thread of a busy Xeon with AMX). Batches are sorted by length, so
neighbours differ little: padding a group to its longest sequence is cheaper than adding a group.

With a window, a group longer than it is computed in blocks of queries, each with the keys that some of its queries see.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertorch.encoder.dropout import keep_mask
from bertorch.encoder.relative import Relative, by_key, by_query, near, product
from bertorch.encoder.tokens import TokenBatch

_MOST_WASTED = 8192  # padding scores in a group, over all heads; beyond this, one more group is faster
_FEWEST_QUERIES = 64  # of a block
_MOST_SCORES = 0.7  # in blocks, as part of the whole square; beyond this, one block is faster
_UNSEEN = -1e30  # added to the score of padding. Not -inf: a query that is padding may see nothing else through its window


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: TokenBatch,
    dropout_p: float,
    bias: Tensor | None = None,
    window: int | None = None,
    relative: Relative | None = None,
) -> Tensor:
    """See ``attention.attention``."""
    groups = _Groups.of(tuple(batch.lengths), key.shape[1], key.device)
    tables = (relative or Relative()).tables()
    return _GroupedAttention.apply(query, key, value, groups, dropout_p, bias, window, *tables)


def distances(queries: int, keys: int, device: torch.device, first: int = 0) -> Tensor:
    """How far each key comes after each query, LongTensor ``[queries, keys]``; ``first``: the first key after the first
    query.
    """
    return torch.arange(first, first + keys, device=device) - torch.arange(queries, device=device)[:, None]


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
        biases: for each group, what is added to its scores: 0, and ``_UNSEEN`` on padded keys, ``[matrices, 1, length]``;
            None if nothing is padded.
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
            bias = torch.zeros(outside.shape).masked_fill_(torch.from_numpy(outside), _UNSEEN)
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


@dataclass(frozen=True)
class _Block:
    """Some queries of a group and the keys that they see.

    Attributes:
        rows, keys: their places in the group's sequences; None: all of them.
        shape: how many queries, and how many keys.
        first: how far the first key comes after the first query.
        window: that of the attention if it hides some of these keys from some of these queries; None: it hides none.
    """

    rows: slice | None
    keys: slice | None
    shape: tuple[int, int]
    first: int = 0
    window: int | None = None

    @classmethod
    def of(cls, queries: int, keys: int, window: int | None) -> "list[_Block]":
        """Divide the queries of a group, which are its first places, where that leaves out enough scores."""
        if window is None or keys <= window + 1:
            return [cls(None, None, (queries, keys))]
        step, blocks = max(window, _FEWEST_QUERIES), []
        for start in range(0, queries, step):
            end = min(start + step, queries)
            first, last = max(0, start - window), min(keys, end + window)
            blocks.append(cls(slice(start, end), slice(first, last), (end - start, last - first), first - start, window))
        if sum(math.prod(block.shape) for block in blocks) <= _MOST_SCORES * queries * keys:
            return blocks
        return [cls(None, None, (queries, keys), window=window)]


@functools.lru_cache(maxsize=64)  # for all layers of an encoder, and a text's middle blocks have the same
def _band(shape: tuple[int, int], first: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a window adds to a block's scores: -inf outside it, ``[queries, keys]``."""
    outside = distances(*shape, device, first).abs() > window
    return torch.zeros(shape, dtype=dtype, device=device).masked_fill_(outside, -torch.inf)


class _GroupedAttention(torch.autograd.Function):
    """Attention group by group. One autograd node for all groups: slicing outside would cost a full-size gradient per group.

    The probabilities of all groups share one buffer, and so do those after dropout: many blocks of varying sizes would
    fragment the heap.
    """

    @staticmethod
    def forward(ctx, query, key, value, groups, dropout_p, bias_by_distance, window, of_keys, of_queries, of_values):
        head_dim = query.shape[-1]
        scale, keep = 1.0 / math.sqrt(head_dim), 1.0 / (1.0 - dropout_p)  # inverted dropout: kept values are scaled by this
        first_only = len(query) != len(key)  # then the queries are already in the order of the groups
        gather, scatter = (None, None) if first_only else (groups.gather, groups.scatter)
        keys = groups.shapes
        queries = [(count, 1) for count, _ in keys] if first_only else keys
        blocks = [_Block.of(rows, width, window) for (_, rows), (_, width) in zip(queries, keys, strict=True)]
        squares = [(count, *block.shape) for (count, _), own in zip(keys, blocks, strict=True) for block in own]
        q, k, v = _rows(query, gather), _rows(key, groups.gather), _rows(value, groups.gather)
        probs = query.new_empty(sum(map(math.prod, squares)))
        kept = keep_mask(len(probs), dropout_p, query) if dropout_p else probs
        context = torch.empty_like(q)
        parts = zip(
            _queries(q, queries, blocks), _keys(k, keys, blocks), _keys(v, keys, blocks), _queries(context, queries, blocks),
            _parts(probs, squares), _parts(kept, squares), _padding(groups.biases, blocks), itertools.chain(*blocks),
            strict=True,
        )  # fmt: skip
        for q_, k_, v_, out, p, left, bias, block in parts:
            if bias is None:
                p.baddbmm_(q_, k_.transpose(1, 2), beta=0, alpha=scale)
            else:
                torch.baddbmm(bias.to(p.dtype), q_, k_.transpose(1, 2), alpha=scale, out=p)
            if bias_by_distance is not None:
                columns = _columns(bias_by_distance, block)
                p.view(-1, len(bias_by_distance), *columns.shape).add_(bias_by_distance[:, columns].to(p.dtype))
            if of_keys is not None:
                p.add_(by_key(product(q_, _near(of_keys, block).transpose(1, 2)), p.shape[2]), alpha=scale)
            if of_queries is not None:
                p.add_(by_query(product(k_, _near(of_queries, block).flip(1).transpose(1, 2)), p.shape[1]), alpha=scale)
            if block.window is not None:
                p.add_(_band(block.shape, block.first, block.window, p.dtype, p.device))
            torch.softmax(p, dim=-1, out=p)
            if dropout_p:
                left.mul_(p)
            out.baddbmm_(left, v_, beta=0, alpha=keep)
            if of_values is not None:
                out.add_(product(_spread(left), _near(of_values, block)), alpha=keep)
        context = _rows(context, scatter).view(query.shape)
        ctx.save_for_backward(q, k, v, probs, kept, context, of_keys, of_queries, of_values)
        ctx.bias_like = None if bias_by_distance is None else bias_by_distance.detach()
        ctx.groups, ctx.first_only, ctx.shapes, ctx.blocks = groups, first_only, (queries, keys, squares), blocks
        ctx.scale, ctx.keep = scale, keep
        return context

    @staticmethod
    def backward(ctx, grad_out):
        q, k, v, probs, kept, context, *tables = ctx.saved_tensors
        of_keys, of_queries, of_values = tables
        groups, (queries, keys, squares), blocks = ctx.groups, ctx.shapes, ctx.blocks
        gather, scatter = (None, None) if ctx.first_only else (groups.gather, groups.scatter)
        # d softmax is p * (d p - sum(p * d p)); the sum is that of a query's context times its gradient (Dao et al. 2022).
        sums = _rows((grad_out * context).sum(dim=-1, keepdim=True), gather)
        g = _rows(grad_out, gather)
        if not ctx.first_only:
            for rows in (g, sums):
                rows.index_fill_(0, groups.padding, 0)
        shared = any(own[0].rows is not None for own in blocks)  # a key is in several blocks, or in none
        grad_q, grad_k, grad_v = (
            torch.empty_like(q),
            *(torch.zeros_like(x) if shared else torch.empty_like(x) for x in (k, v)),
        )
        grad_bias = None if ctx.bias_like is None else torch.zeros_like(ctx.bias_like)
        grad_tables = [  # summed over blocks in single precision at least
            torch.zeros_like(table, dtype=torch.promote_types(table.dtype, torch.float32)) if needed else None
            for table, needed in zip(tables, ctx.needs_input_grad[-len(tables) :], strict=True)
        ]
        grad_of_keys, grad_of_queries, grad_of_values = grad_tables
        parts = zip(
            _queries(q, queries, blocks), _keys(k, keys, blocks), _keys(v, keys, blocks), _queries(g, queries, blocks),
            _queries(sums, queries, blocks), _parts(probs, squares), _parts(kept, squares),
            _queries(grad_q, queries, blocks), _keys(grad_k, keys, blocks), _keys(grad_v, keys, blocks),
            itertools.chain(*blocks), strict=True,
        )  # fmt: skip
        for q_, k_, v_, g_, sum_, p, left, own_q, own_k, own_v, block in parts:
            grad_scores = torch.empty_like(p).baddbmm_(g_, v_.transpose(1, 2), beta=0, alpha=ctx.keep)
            if of_values is not None:
                products = product(g_, _near(of_values, block).transpose(1, 2))
                grad_scores.add_(by_key(products, p.shape[2]), alpha=ctx.keep)
            grad_scores.mul_(left).addcmul_(p, sum_, value=-1)
            if grad_bias is not None:
                columns = _columns(grad_bias, block)
                summed = grad_scores.view(-1, len(grad_bias), columns.numel()).sum(dim=0)  # over the sequences
                grad_bias.index_add_(1, columns.flatten(), summed.to(grad_bias.dtype))
            own_q.baddbmm_(grad_scores, k_, beta=0, alpha=ctx.scale)
            own_k.baddbmm_(grad_scores.transpose(1, 2), q_, beta=int(shared), alpha=ctx.scale)
            own_v.baddbmm_(left.transpose(1, 2), g_, beta=int(shared), alpha=ctx.keep)
            if of_keys is not None:
                spread = _spread(grad_scores)
                own_q.add_(product(spread, _near(of_keys, block)), alpha=ctx.scale)
                _add_table_grad(grad_of_keys, spread, q_, ctx.scale, block)
            if of_queries is not None:
                spread = _spread(grad_scores.transpose(1, 2))
                own_k.add_(product(spread, _near(of_queries, block).flip(1)), alpha=ctx.scale)
                _add_table_grad(grad_of_queries, spread, k_, ctx.scale, block, reverse=True)
            if of_values is not None:
                _add_table_grad(grad_of_values, _spread(left), g_, ctx.keep, block)
        indices = (scatter, groups.scatter, groups.scatter)
        grads = (
            _rows(x, index).view(-1, *grad_out.shape[1:]) for x, index in zip((grad_q, grad_k, grad_v), indices, strict=True)
        )
        grad_tables = (x if x is None else x.to(table.dtype) for x, table in zip(grad_tables, tables, strict=True))
        return *grads, None, None, grad_bias, None, *grad_tables


def _near(table: Tensor, block: _Block) -> Tensor:
    return near(table, *block.shape, block.first)


def _spread(square: Tensor) -> Tensor:
    """The transpose of ``by_key``, ``[matrices, queries, queries + keys - 1]``; 0 where no score comes from."""
    matrices, queries, keys = square.shape
    spread = square.new_zeros(matrices, queries, queries + keys - 1)
    by_key(spread, keys).copy_(square)
    return spread


def _add_table_grad(
    grad_table: Tensor | None, spread: Tensor, x: Tensor, scale: float, block: _Block, reverse: bool = False
) -> None:
    """Add to a table's gradient, if it has one, that of a block: ``spread`` is the gradient of the products with ``x``."""
    if grad_table is not None:
        by_matrix = spread.transpose(1, 2) @ x
        summed = by_matrix.view(-1, len(grad_table), *by_matrix.shape[1:]).sum(dim=0, dtype=grad_table.dtype)
        _near(grad_table, block).add_(summed.flip(1) if reverse else summed, alpha=scale)


def _columns(relative: Tensor, block: _Block) -> Tensor:
    """The column of ``attention``'s bias for each query and key of a block, LongTensor ``[queries, keys]``."""
    return distances(*block.shape, relative.device, block.first) + (relative.shape[1] - 1) // 2


def _rows(x: Tensor, index: Tensor | None) -> Tensor:
    """``[..., n]`` -> its rows in the order of ``index``, ``[rows, n]``; None: order unchanged."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if index is None else rows.index_select(0, index)


def _parts(x: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Each group's part of ``x``, its first dimension reshaped to the group's shape."""
    parts = x.split([math.prod(shape) for shape in shapes])
    return [part.view(*shape, *x.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]


def _queries(x: Tensor, shapes: list[tuple[int, int]], blocks: list[list[_Block]]) -> list[Tensor]:
    """``_parts``, of each block: those of its queries."""
    parts = zip(_parts(x, shapes), blocks, strict=True)
    return [part if block.rows is None else part[:, block.rows] for part, own in parts for block in own]


def _keys(x: Tensor, shapes: list[tuple[int, int]], blocks: list[list[_Block]]) -> list[Tensor]:
    """``_parts``, of each block: those of its keys."""
    parts = zip(_parts(x, shapes), blocks, strict=True)
    return [part if block.keys is None else part[:, block.keys] for part, own in parts for block in own]


def _padding(biases: list[Tensor | None], blocks: list[list[_Block]]) -> list[Tensor | None]:
    """The groups' ``biases``, of each block: those of its keys."""
    parts = zip(biases, blocks, strict=True)
    return [bias if bias is None or block.keys is None else bias[..., block.keys] for bias, own in parts for block in own]
