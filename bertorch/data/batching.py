"""Choose the rows of each batch, and pack them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bertorch.copies import to_device
from bertorch.data.tokenizing import Samples
from bertorch.encoder import TokenBatch

_POOL = 50  # batches whose rows are sorted together when batches group rows of similar length


class MovableBatch:
    """A dataclass of tensors and a ``TokenBatch`` that move together."""

    def to(self, device: torch.device) -> "MovableBatch":
        return self if device.type == "cpu" else self._with_tensors(lambda tensor: to_device(tensor, device))

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "MovableBatch":
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, tokens=self.tokens.with_tensors(change), **changed)


@dataclass
class Batch(MovableBatch):
    """A packed batch and its labels.

    Attributes:
        tokens: the sequences, the longest first, so that attention finds groups of similar length.
        labels: label ids, LongTensor ``[rows]``, -1 if a row has none; or scores, FloatTensor ``[rows]``; or 0 or 1 for
            every label, LongTensor ``[rows, labels]``.
        rows: the place of each row in its ``Samples``. Rows are ordered by the length of their first sequence, so that
            with one sequence per row, row i is sequence i of ``tokens``.
        places: where each sequence is in ``tokens``, in the order of the task: the first sequence of every row, then the
            second of every row, and so on; LongTensor ``[sequences]``.
        owners: the row that each of ``places`` belongs to, from 0, LongTensor ``[sequences]``.
        text_hashes: equal for equal texts, in the order of ``places``, LongTensor ``[sequences]``.
    """

    tokens: TokenBatch
    labels: Tensor
    rows: np.ndarray
    places: Tensor
    owners: Tensor
    text_hashes: Tensor


def pack(samples: Samples, sequences: np.ndarray) -> tuple[TokenBatch, np.ndarray]:
    """Pack the given sequences into one batch, the longest first; equal lengths keep their order.

    Returns:
        The batch, and the place of each of its sequences in ``sequences``, int64 ``[sequences]``.
    """
    ids = [samples.input_ids[samples.offsets[one] : samples.offsets[one + 1]] for one in sequences]
    return pack_ids(ids, samples.second[sequences])


def pack_ids(ids: list[np.ndarray], second: np.ndarray) -> tuple[TokenBatch, np.ndarray]:
    """``pack`` for token ids that are given directly.

    Args:
        ids: the ids of each sequence.
        second: where the second segment of each sequence starts, ``[sequences]``.
    """
    lengths = np.array([len(one) for one in ids])
    order = np.argsort(-lengths, kind="stable")
    lengths = lengths[order]
    input_ids = np.concatenate([ids[one] for one in order])
    ends = np.cumsum(lengths)
    positions = np.arange(len(input_ids)) - np.repeat(ends - lengths, lengths)
    token_type_ids = positions >= np.repeat(second[order], lengths)
    tokens = TokenBatch.from_lengths(
        torch.from_numpy(input_ids.astype(np.int64)), torch.from_numpy(token_type_ids.astype(np.int64)), lengths.tolist()
    )
    return tokens, order


def collate(samples: Samples, rows: np.ndarray) -> Batch:
    """Pack the given rows of ``samples``."""
    first = samples.row_starts[rows]
    rows = rows[np.argsort(samples.offsets[first] - samples.offsets[first + 1], kind="stable")]
    first, counts = samples.row_starts[rows], samples.row_starts[rows + 1] - samples.row_starts[rows]
    turns = [np.flatnonzero(counts > turn) for turn in range(counts.max())]  # the rows that have a sequence number `turn`
    sequences = np.concatenate([first[having] + turn for turn, having in enumerate(turns)] * samples.copies)
    tokens, order = pack(samples, sequences)
    labels = samples.labels[rows]
    return Batch(
        tokens,
        labels=torch.from_numpy(labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)),
        rows=rows,
        places=torch.from_numpy(np.argsort(order)),
        owners=torch.from_numpy(np.concatenate(turns * samples.copies)),
        text_hashes=torch.from_numpy(samples.text_hashes[sequences].astype(np.int64)),
    )


def epoch_plan(
    lengths: np.ndarray, batch_size: int, world_size: int, rank: int, seed: int, epoch: int, group_by_length: bool = False
) -> list[np.ndarray]:
    """The rows of each batch of this rank in one epoch.

    All ranks draw the same shuffled order and cut it into global batches of ``batch_size * world_size``; each takes its
    share, so that every row is used once per epoch. A last global batch with fewer rows than ranks joins the one before
    it: no rank may be left without a batch while the others wait for its gradient. The shares have nearly equal numbers
    of tokens, because an update takes as long as the rank with the most tokens.

    Args:
        lengths: tokens of each row of the training set, ``[rows]``, at least ``world_size`` rows.
        batch_size: rows per rank and batch.
        world_size, rank: the number of processes, and this process's number.
        seed, epoch: determine the order.
        group_by_length: put rows of similar length into a batch: sort the rows of every 50 shuffled batches, then shuffle
            all batches of the epoch again.
    """
    rng = np.random.default_rng([seed, epoch])
    rows, size = len(lengths), batch_size * world_size
    order = rng.permutation(rows)
    bounds = [*range(0, rows, size), rows]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < world_size:
        del bounds[-2]
    batches = list(zip(bounds, bounds[1:], strict=False))
    if group_by_length:
        pools = [order[start : start + _POOL * size] for start in range(0, rows, _POOL * size)]
        order = np.concatenate([pool[np.argsort(-lengths[pool], kind="stable")] for pool in pools])
        batches = [batches[number] for number in rng.permutation(len(batches))]
    return [_share(order[start:end], lengths, world_size, rank) for start, end in batches]


def _share(rows: np.ndarray, lengths: np.ndarray, world_size: int, rank: int) -> np.ndarray:
    """This rank's rows of a global batch: dealt out by length, back and forth (0 1 2 2 1 0 0 1 ...)."""
    if world_size == 1:
        return rows
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    rounds = np.arange(0, len(rows), world_size)
    places = rounds + np.where(np.arange(len(rounds)) % 2 == 0, rank, world_size - 1 - rank)
    return rows[places[places < len(rows)]]


def evaluation_plan(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The sequences of each evaluation batch, grouped by similar length, the longest first.

    The batches do not depend on the number of ranks: each rank takes whole batches, and so computes the same numbers as a
    single process would.
    """
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def evaluation_batches(
    samples: Samples, batch_size: int, device: torch.device, world_size: int = 1, rank: int = 0
) -> Iterator[tuple[TokenBatch, np.ndarray]]:
    """This rank's share of the evaluation batches, on the device, and which sequences of ``samples`` they hold."""
    for sequences in evaluation_plan(samples.lengths, batch_size)[rank::world_size]:
        tokens, order = pack(samples, sequences)
        yield tokens.to(device), sequences[order]
