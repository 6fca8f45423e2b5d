"""Run a head over samples: batches are shared among all processes, outputs are in the order of the rows."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertorch.copies import Fetch
from bertorch.data.batching import evaluation_batches
from bertorch.data.tokenizing import Samples
from bertorch.encoder import TokenBatch
from bertorch.training.logging import evaluation_bar
from bertorch.training.process_group import Processes
from bertorch.training.run import autocast

_AHEAD = 16  # batches that a GPU may be given before the host reads the answers to the one before them


@dataclass(frozen=True)
class Compute:
    """How outputs are computed. The batches do not depend on the number of processes, so neither do the outputs.

    Attributes:
        batch_size: sequences per forward pass.
        processes: they share the batches.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        bar: show a bar on a terminal while it takes longer than a second.
    """

    batch_size: int
    processes: Processes
    precision: str = "fp32"
    bar: bool = True

    @property
    def device(self) -> torch.device:
        return self.processes.device

    @property
    def alone(self) -> "Compute":
        """The same on this process alone, without a bar: others have other rows."""
        return replace(self, processes=self.processes.alone, bar=False)

    @torch.no_grad()
    def batches(
        self,
        model: nn.Module,
        answer: Callable[[TokenBatch, np.ndarray], Tensor | tuple[Tensor, ...]],
        samples: Samples,
        read: Callable[..., Any] = lambda values, lengths, sequences: values,
    ) -> list[tuple[np.ndarray, Any]]:
        """``(sequences of the batch, what was read from its answer)`` for every batch, on every rank.

        Args:
            model: set to evaluation mode.
            answer: a batch and the indices of its sequences -> one tensor or several. It should not wait for a GPU.
            samples: the input.
            read: the answer's tensors as arrays, in float32 if they have 16 bits, then the lengths of the batch's sequences
                and their indices -> anything; by default the array, if there is one.
        """
        model.eval()
        mine, arriving = [], deque()
        share = evaluation_batches(samples, self.batch_size, self.device, self.processes.world_size, self.processes.rank)
        sequences_here = math.ceil(len(samples.lengths) / self.processes.world_size)
        with evaluation_bar(sequences_here, self.bar and self.processes.is_main) as bar:

            def read_first() -> None:
                values, lengths, sequences = arriving.popleft()
                mine.append((sequences, read(*values.arrays(), lengths, sequences)))
                bar.update(len(sequences))

            for tokens, sequences in share:
                with autocast(self.device, self.precision):
                    values = answer(tokens, sequences)
                values = Fetch(*values) if isinstance(values, tuple) else Fetch(values)
                arriving.append((values, tokens.lengths, sequences))
                if len(arriving) > _AHEAD:
                    read_first()
            while arriving:
                read_first()
        return [part for of_rank in self.processes.gather(mine) for part in of_rank]

    def of_sequences(self, model: nn.Module, answer: Callable[[TokenBatch], Tensor], samples: Samples) -> np.ndarray:
        """``answer`` for every sequence, each computed once, on every rank: float32 ``[sequences, width]``.

        Args:
            model: set to evaluation mode.
            answer: a method of the model, such as ``model.logits``: a batch -> ``[batch_size, width]``.
            samples: the input.
        """
        parts = self.batches(model, lambda tokens, _: answer(tokens), samples)
        result = np.empty((len(samples.lengths), parts[0][1].shape[1]), dtype=np.float32)
        for sequences, values in parts:
            result[sequences] = values
        return result

    def of_tokens(self, model: nn.Module, answer: Callable[[TokenBatch], Tensor], samples: Samples) -> np.ndarray:
        """Like ``of_sequences``, but ``answer`` gives a row for every token: float32 ``[total_tokens, width]``."""
        parts = self.batches(model, lambda tokens, _: answer(tokens), samples)
        result = np.empty((len(samples.input_ids), parts[0][1].shape[1]), dtype=np.float32)
        for sequences, values in parts:
            starts, ends = samples.offsets[sequences], samples.offsets[sequences + 1]
            result[np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])] = values
        return result
