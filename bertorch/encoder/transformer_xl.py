"""Transformer-XL's attention, as XLNet has it: terms of distances and of segments beside those of tokens.

The score of query i and key j is ``(q_i + u) k_j + (q_i + v) r_(i-j) + (q_i + w) s``, where s is one vector for two tokens
of one segment and another for those of different ones (Dai et al. 2019, section 3.3; Yang et al. 2019, section 2.5).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.encoder.relative import Relative


class HeadsProjection(nn.Module):
    """A linear map from states to heads, or ``back``; its weight is ``[D, H, D/H]``, as in checkpoints of XLNet."""

    def __init__(self, width: int, heads: int, back: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, heads, width // heads))
        self.back = back

    def forward(self, x: Tensor) -> Tensor:  # [T, D] -> [T, D]
        weight = self.weight.flatten(1)
        return x @ (weight.t() if self.back else weight)


class DistancesAndSegments(nn.Module):
    """What turns the terms of distances and of segments into what ``attention`` knows: a table, a bias and wider heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.distance = HeadsProjection(width, heads)
        size = width // heads
        self.token_bias = nn.Parameter(torch.empty(heads, size))  # u
        self.distance_bias = nn.Parameter(torch.empty(heads, size))  # v
        self.segment_bias = nn.Parameter(torch.empty(heads, size))  # w
        self.segments = nn.Parameter(torch.empty(2, heads, size))  # s of one segment, s of two

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, of_queries: Tensor, of_keys: Tensor, sines: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Relative]:
        """What ``attention`` takes, in heads that are wider by the number of segments; the context's further numbers are 0.

        A constant added to all scores of a query changes nothing, so the term of segments is, for each segment, minus the
        product of ``(q + w) (s of two - s of one)`` of a query in it and 1 of a key in it.

        Args:
            query, key, value: ``[tokens, H, D/H]``.
            of_queries, of_keys: which segment their tokens are in, one-hot, ``[tokens, segments]``.
            sines: of query - key, for each column of ``attention``'s bias, ``[columns, D]``.

        Returns:
            Query, key, value; ``attention``'s bias and its tables.
        """
        size, more = query.shape[-1], of_keys.shape[-1]
        table = self.distance(sines).unflatten(1, (query.shape[1], size)).transpose(0, 1)  # [H, columns, D/H]
        apart = (self.distance_bias - self.token_bias)[:, None].to(table.dtype)  # v r = u r + (v - u) r
        bias = (apart @ table.transpose(1, 2)).squeeze(1) / math.sqrt(size)
        other = ((query + self.segment_bias) * (self.segments[1] - self.segments[0])).sum(dim=-1, keepdim=True)  # [T, H, 1]
        query = torch.cat([query + self.token_bias, -other * of_queries[:, None]], dim=-1).to(query.dtype)
        key = torch.cat([key, of_keys[:, None].expand(-1, key.shape[1], -1).to(key.dtype)], dim=-1)
        widened = math.sqrt((size + more) / size)  # attention divides by the root of the wider heads' size
        return query * widened, key, F.pad(value, (0, more)), bias, Relative(keys=F.pad(table, (0, more)))
