"""Which rows form a batch, and the packed batch made of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertorch.data.tokenizing import Samples
from bertorch.encoder import TokenBatch


@dataclass
class Batch:
    """A packed batch and its labels.

    Attributes:
        tokens: the texts, the longest first, so that attention finds runs of equal length.
        labels: label ids in the same order, LongTensor ``[batch_size]``; -1 where a row has none.
        rows: the place of each text in its ``Samples``.
    """

    tokens: TokenBatch
    labels: Tensor
    rows: np.ndarray

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        return Batch(self.tokens.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), self.rows)


def collate(samples: Samples, rows: np.ndarray, pin_memory: bool = False) -> Batch:
    """Pack the given rows of ``samples``; equal lengths keep their order."""
    lengths = samples.offsets[rows + 1] - samples.offsets[rows]
    order = np.argsort(-lengths, kind="stable")
    rows, lengths = rows[order], lengths[order]
    input_ids = np.concatenate([samples.input_ids[samples.offsets[row] : samples.offsets[row + 1]] for row in rows])
    ends = np.cumsum(lengths)
    places = np.arange(len(input_ids)) - np.repeat(ends - lengths, lengths)
    token_type_ids = places >= np.repeat(samples.second[rows], lengths)
    tokens = TokenBatch.from_lengths(
        torch.from_numpy(input_ids.astype(np.int64)), torch.from_numpy(token_type_ids.astype(np.int64)), lengths.tolist()
    )
    labels = torch.from_numpy(samples.labels[rows].astype(np.int64))
    if pin_memory:
        for name in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens"):
            setattr(tokens, name, getattr(tokens, name).pin_memory())
        labels = labels.pin_memory()
    return Batch(tokens, labels, rows)


def epoch_plan(rows: int, batch_size: int, world_size: int, rank: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows of each of this rank's batches in one epoch.

    All ranks draw the same shuffled order and cut it into global batches of ``batch_size * world_size``; each takes its
    share, so that every row is trained once an epoch. A last global batch with fewer rows than ranks joins the one
    before it: no rank may stand without a batch while the others wait for its gradient.

    Args:
        rows: rows of the training set, at least ``world_size``.
        batch_size: rows a rank and batch.
        world_size, rank: the processes, and which of them this is.
        seed, epoch: decide the order.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    size = batch_size * world_size
    bounds = [*range(0, rows, size), rows]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < world_size:
        del bounds[-2]
    plan = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        share = np.linspace(start, end, world_size + 1).round().astype(int)  # sizes differ by one at most
        plan.append(order[share[rank] : share[rank + 1]])
    return plan


def evaluation_plan(samples: Samples, batch_size: int) -> list[np.ndarray]:
    """The batches of an evaluation, rows of like length together.

    They do not depend on the number of ranks: each rank takes whole batches, and so computes the same numbers as one
    process would.
    """
    order = np.argsort(-samples.lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def evaluation_batches(
    samples: Samples, batch_size: int, device: torch.device, world_size: int = 1, rank: int = 0
) -> Iterator[Batch]:
    """This rank's share of the batches of an evaluation, on the device."""
    for rows in evaluation_plan(samples, batch_size)[rank::world_size]:
        yield collate(samples, rows).to(device)
