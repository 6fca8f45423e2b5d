"""Attention over a padded rectangle by scaled_dot_product_attention: the plain reference, for any device.

Tokens go to their places and back by one index each way, which all layers share, and so do their gradients: torch's own
gradient of an index adds up, with zeros first.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bertorch.encoder.grouped_attention import distances
from bertorch.encoder.relative import Relative
from bertorch.encoder.tokens import TokenBatch, padded_places


def padded_attention(
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
    first_only = len(query) != len(key)
    k, v = _spread(key, batch), _spread(value, batch)  # [batch_size, num_heads, max_seqlen, head_dim]
    q = query[:, :, None] if first_only else _spread(query, batch)
    mask = _mask(batch, window, q)
    of_keys, of_queries, of_values = (relative or Relative()).tables()
    if bias is not None or relative is not None:
        columns = distances(q.shape[2], batch.max_seqlen, q.device) + batch.max_seqlen - 1
        columns = columns.expand(*k.shape[:2], -1, -1)  # of all tables, for each sequence and head
        added = [] if mask is None else [mask]
        if bias is not None:
            added.append(bias[:, columns[0, 0]].to(q.dtype))
        if of_keys is not None:
            added.append((q @ of_keys.transpose(1, 2)).gather(-1, columns) / math.sqrt(q.shape[-1]))
        if of_queries is not None:
            products = (k @ of_queries.transpose(1, 2)).gather(-1, columns.transpose(2, 3))
            added.append(products.transpose(2, 3) / math.sqrt(q.shape[-1]))
        mask = sum(added)  # [batch_size, num_heads, 1 or max_seqlen, max_seqlen]
    if of_values is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
    else:
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        probs = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout_p)
        sums = probs.new_zeros(*probs.shape[:3], of_values.shape[1]).scatter(-1, columns, probs)
        out = probs @ v + sums @ of_values
    if first_only:
        return out[:, :, 0]
    rows = out.transpose(1, 2).flatten(0, 1)
    return rows if _is_full(batch) else _Collect.apply(rows, _places(batch))


def _is_full(batch: TokenBatch) -> bool:
    """Whether nothing is padded."""
    return batch.total_tokens == batch.batch_size * batch.max_seqlen


def _places(batch: TokenBatch) -> Tensor:
    """``padded_places``. Computed once."""
    if "places" not in batch.kept:
        batch.kept["places"] = padded_places(batch)
    return batch.kept["places"]


def _sources(batch: TokenBatch) -> Tensor:
    """The token that each place of the rectangle holds, for padding its sequence's last, ``[places]``. Computed once."""
    if "sources" not in batch.kept:
        starts, ends = batch.cu_seqlens[:-1, None], batch.cu_seqlens[1:, None]
        places = starts + torch.arange(batch.max_seqlen, dtype=starts.dtype, device=starts.device)
        batch.kept["sources"] = torch.minimum(places, ends - 1).flatten()
    return batch.kept["sources"]


def _mask(batch: TokenBatch, window: int | None, query: Tensor) -> Tensor | None:
    """What is added to scores, 0 and -inf where a key is not seen, ``[batch_size, 1, 1 or queries, max_seqlen]``; None if
    every query sees every key. Computed once.
    """
    if _is_full(batch) and window is None:
        return None
    kind = ("mask", window, query.shape[2] if window is not None else 1, query.dtype)
    if kind not in batch.kept:
        longest, device = batch.max_seqlen, query.device
        sizes = batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]
        seen = (torch.arange(longest, device=device) < sizes[:, None])[:, None, None]  # every query sees real keys
        if window is not None:  # a place of padding sees itself too, so that each query has a key
            away = distances(query.shape[2], longest, device)
            seen = (seen | (away == 0)) & (away.abs() <= window)
        # Rows of a multiple of 16 numbers: torch's kernels copy others at every call.
        mask = query.new_zeros(*seen.shape[:3], longest + -longest % 16)[..., :longest]
        batch.kept[kind] = mask.masked_fill_(~seen, -torch.inf)
    return batch.kept[kind]


def _spread(x: Tensor, batch: TokenBatch) -> Tensor:
    """``[total_tokens, num_heads, head_dim]`` -> ``[batch_size, num_heads, max_seqlen, head_dim]``."""
    rows = x if _is_full(batch) else _Spread.apply(x, _sources(batch), _places(batch))
    return rows.unflatten(0, (batch.batch_size, batch.max_seqlen)).transpose(1, 2)


class _Spread(torch.autograd.Function):
    """Rows of a rectangle, padding repeating a token. Nothing that counts depends on padding, whose gradient is left out."""

    @staticmethod
    def forward(ctx, x, sources, places):
        ctx.save_for_backward(places)
        return x.index_select(0, sources)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """The rows of real tokens. The gradient of padding is 0."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.save_for_backward(places)
        ctx.rows = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, grad):
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, *ctx.saved_tensors, grad), None
