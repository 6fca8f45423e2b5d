"""Efficient Global Pointer: a score for each span and type, so that entities may be nested.

Source: Su et al. 2022, "Global Pointer: Novel Efficient Span-based Approach for Named Entity Recognition", arXiv:2208.03054,
the section on Efficient GlobalPointer; the factor 1/2 on the type scores is that of the authors' code.
"""

import numpy as np
import torch
from torch import Tensor, nn

from bertorch.copies import to_device
from bertorch.encoder import Encoder, TokenBatch
from bertorch.encoder.dropout import Dropout
from bertorch.heads.loading import fill_own_layers, head_files, own_names
from bertorch.heads.loss import Loss
from bertorch.tasks.entities.batching import SpanBatch

_HEAD_SIZE = 64
_ROPE_BASE = 10000.0


class GlobalPointer(nn.Module):
    """Scores of spans; a score above 0 means an entity.

    One query and key per position, shared by all types, find spans. Two numbers per type and position, computed from the
    same query and key, name them.

    Args:
        encoder: without pooler.
        types: the entity types.
    """

    architecture = None
    weight_names, fill_head, saved_files = own_names, fill_own_layers, head_files

    def __init__(self, encoder: Encoder, types: list[str]):
        super().__init__()
        config = encoder.config
        self.encoder, self.types = encoder, types
        self.dropout = Dropout(config.classifier_dropout)
        self.query_key = nn.Linear(config.hidden_size, 2 * _HEAD_SIZE)
        self.type_scores = nn.Linear(2 * _HEAD_SIZE, 2 * len(types))
        for layer in (self.query_key, self.type_scores):
            nn.init.normal_(layer.weight, std=config.initializer_range)
            nn.init.zeros_(layer.bias)

    def scores(self, tokens: TokenBatch, places: Tensor, lengths: list[int]) -> Tensor:
        """Span scores ``[windows, types, units, units]`` (first unit, last unit), -inf where there is no such span.

        Args:
            tokens: the windows.
            places: where in ``tokens`` each unit begins, window after window, ``[total]``.
            lengths: number of units of each window; the result is as wide as the longest.
        """
        states = self.encoder(tokens).index_select(0, places)
        both = self.query_key(self.dropout(states))  # [total, 2 * head_size]
        marks = self.type_scores(both).float() / 2  # [total, 2 * types]
        shape = (len(lengths), max(lengths))
        at = _places(lengths, states.device)
        position = at % shape[1]
        query, key = both.float().chunk(2, dim=-1)
        query, key = (_padded(_rotated(part, position), at, shape) for part in (query, key))
        with torch.autocast(states.device.type, enabled=False):  # scores of thousands of spans are compared with one another
            spans = query @ key.transpose(1, 2) / _HEAD_SIZE**0.5  # [windows, units, units]
        starts, ends = _padded(marks, at, shape).chunk(2, dim=-1)  # [windows, units, types]
        scores = spans.unsqueeze(1) + starts.transpose(1, 2).unsqueeze(3) + ends.transpose(1, 2).unsqueeze(2)
        real = torch.zeros(shape, dtype=torch.bool, device=at.device).flatten().index_fill(0, at, True).view(shape)
        possible = (real.unsqueeze(2) & real.unsqueeze(1)).triu()  # no span ends before it begins
        return scores.masked_fill(~possible.unsqueeze(1), -torch.inf)

    def forward(self, batch: SpanBatch) -> Loss:
        return self.loss(self.scores(batch.tokens, batch.places, batch.lengths), batch.spans)

    def loss(self, scores: Tensor, spans: Tensor) -> Loss:
        """One term per window and type: log(1 + sum over the other spans of e^s) + log(1 + sum over entities of e^-s).

        Args:
            scores: the result of ``scores``.
            spans: window, type, first and last unit of each entity, LongTensor ``[entities, 4]``.
        """
        is_entity = torch.zeros_like(scores, dtype=torch.bool)
        is_entity[tuple(spans.t())] = True
        zero = scores.new_zeros(*scores.shape[:2], 1)
        others = torch.cat([zero, scores.masked_fill(is_entity, -torch.inf).flatten(2)], dim=2)
        entities = torch.cat([zero, (-scores).masked_fill(~is_entity, -torch.inf).flatten(2)], dim=2)
        total = torch.logsumexp(others, dim=2) + torch.logsumexp(entities, dim=2)  # [windows, types]
        return Loss(total.sum(), total.numel())


def _places(lengths: list[int], device: torch.device) -> Tensor:
    """The place of each unit in the flattened rectangle ``[windows * longest]``, LongTensor ``[total]``."""
    sizes = np.asarray(lengths)
    skipped = np.arange(len(sizes)) * sizes.max() - (np.cumsum(sizes) - sizes)  # padding before each window
    return to_device(torch.from_numpy(np.arange(sizes.sum()) + np.repeat(skipped, sizes)), device)


def _padded(values: Tensor, at: Tensor, shape: tuple[int, int]) -> Tensor:
    """``[total, width]`` -> ``[windows, units, width]``, zeros where there is no unit."""
    rows = values.new_zeros(shape[0] * shape[1], values.shape[-1])
    return rows.index_copy(0, at, values).view(*shape, values.shape[-1])


def _rotated(values: Tensor, position: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, section 3.2) of ``[total, width]`` at ``position`` ``[total]``."""
    width = values.shape[-1]
    frequency = _ROPE_BASE ** (-torch.arange(0, width, 2, device=values.device, dtype=torch.float32) / width)
    angle = position.unsqueeze(1) * frequency  # [total, width / 2]
    cos, sin = angle.cos(), angle.sin()
    even, odd = values[:, ::2], values[:, 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(1)
