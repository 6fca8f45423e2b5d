"""Batches of documents, for tagging or for scoring spans."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertorch.data.batching import MovableBatch, pack
from bertorch.encoder import TokenBatch
from bertorch.tasks.entities.windows import TaggedSamples


@dataclass
class TagBatch(MovableBatch):
    """Texts to tag, with all their windows packed.

    Attributes:
        tokens: the windows.
        places: the token in ``tokens`` that decides each unit, text after text, LongTensor ``[total_units]``.
        tags: tag ids, LongTensor ``[total_units]``.
        lengths: number of units of each text, on the host.
    """

    tokens: TokenBatch
    places: Tensor
    tags: Tensor
    lengths: list[int]


@dataclass
class SpanBatch(MovableBatch):
    """Windows in which spans are scored.

    Attributes:
        tokens: the windows.
        places: where in ``tokens`` each unit begins, window after window, LongTensor ``[units of all windows]``.
        lengths: number of units of each window, on the host.
        spans: window, type id, first and last unit (within the window) of each entity, LongTensor ``[entities, 4]``.
    """

    tokens: TokenBatch
    places: Tensor
    lengths: list[int]
    spans: Tensor


def collate_tags(samples: TaggedSamples, rows: np.ndarray) -> TagBatch:
    """Pack the windows of the given rows."""
    sequences = _of_rows(samples.row_starts, rows)
    tokens, order = pack(samples, sequences)
    units = _of_rows(samples.unit_starts, rows)
    deciding = samples.unit_tokens[units]
    window = np.searchsorted(samples.offsets, deciding, side="right") - 1
    packed_starts = np.empty(len(samples.offsets), dtype=np.int64)
    packed_starts[sequences[order]] = np.cumsum(tokens.lengths) - tokens.lengths
    places = packed_starts[window] + deciding - samples.offsets[window]
    lengths = samples.unit_counts[rows].tolist()
    return TagBatch(tokens, torch.from_numpy(places), torch.from_numpy(np.ascontiguousarray(samples.tags[units])), lengths)


def collate_spans(samples: TaggedSamples, rows: np.ndarray) -> SpanBatch:
    """Pack the windows of the given rows."""
    sequences = _of_rows(samples.row_starts, rows)
    tokens, order = pack(samples, sequences)
    return span_batch(samples, tokens, sequences[order])


def span_batch(samples: TaggedSamples, tokens: TokenBatch, sequences: np.ndarray) -> SpanBatch:
    """Add units and entities to packed windows; an entity counts in every window that holds it whole.

    Args:
        samples: the documents of the windows.
        tokens: the packed windows.
        sequences: the indices of the windows, in the order of ``tokens``.
    """
    rows = np.searchsorted(samples.row_starts, sequences, side="right") - 1
    places, lengths, found, start = [], [], [], 0
    for window, (sequence, row) in enumerate(zip(sequences, rows, strict=True)):
        units = samples.units[samples.offsets[sequence] : samples.offsets[sequence + 1]]
        begins = np.flatnonzero(units >= 0)
        first, length = units[begins[0]], len(begins)
        places.append(begins + start)
        lengths.append(length)
        start += len(units)
        spans = samples.spans[samples.entity_starts[row] : samples.entity_starts[row + 1]]
        held = spans[(spans[:, 1] >= first) & (spans[:, 2] <= first + length)]
        found.append(np.stack([np.full(len(held), window), held[:, 0], held[:, 1] - first, held[:, 2] - 1 - first], axis=1))
    spans = torch.from_numpy(np.concatenate(found).astype(np.int64))
    return SpanBatch(tokens, torch.from_numpy(np.concatenate(places)), lengths, spans)


def _of_rows(starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The members of the given rows, row after row; a row has those from ``starts[row]`` to ``starts[row + 1]``."""
    counts = starts[rows + 1] - starts[rows]
    return np.repeat(starts[rows] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
