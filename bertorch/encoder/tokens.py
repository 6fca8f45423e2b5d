"""TokenBatch: a batch as the list of its real tokens, sequence after sequence, without padding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bertorch.copies import to_device


@dataclass
class TokenBatch:
    """A packed batch of ``batch_size`` sequences.

    Attributes:
        input_ids: token ids, LongTensor ``[total_tokens]``.
        token_type_ids: segment of each token, LongTensor ``[total_tokens]``.
        position_ids: place of each token in its own sequence, from 0, LongTensor ``[total_tokens]``. The encoder adds a
            family's offset (RoBERTa counts from ``pad_token_id + 1``).
        cu_seqlens: where each sequence starts, and the end of the last one, IntTensor ``[batch_size + 1]``.
        max_seqlen: length of the longest sequence, in tokens.
        lengths: the sequence lengths on the host, so that no backend has to fetch them from the device.
        kept: what an attention backend computes once for all layers.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    lengths: list[int]
    kept: dict[Any, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)

    @property
    def batch_size(self) -> int:
        return self.cu_seqlens.shape[0] - 1  # the length of a list would be a constant to torch.compile

    @property
    def total_tokens(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device) -> "TokenBatch":
        return self.with_tensors(lambda tensor: to_device(tensor, device))

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> "TokenBatch":
        """The same batch with every tensor changed, for example moved to another device."""
        return replace(self, **{name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)})

    def split(self, size: int) -> Iterator["TokenBatch"]:
        """Split into batches of ``size`` sequences; the last one holds the rest."""
        bounds = [0]
        for length in self.lengths:
            bounds.append(bounds[-1] + length)
        for start in range(0, self.batch_size, size):
            lengths = self.lengths[start : start + size]
            tokens = slice(bounds[start], bounds[start + len(lengths)])
            cu_seqlens = self.cu_seqlens[start : start + len(lengths) + 1] - bounds[start]
            yield TokenBatch(
                self.input_ids[tokens], self.token_type_ids[tokens], self.position_ids[tokens],
                cu_seqlens, max(lengths), lengths,
            )  # fmt: skip

    @classmethod
    def from_lengths(cls, input_ids: Tensor, token_type_ids: Tensor, lengths: list[int]) -> "TokenBatch":
        """Pack ``input_ids`` and ``token_type_ids`` (``[sum(lengths)]`` each), one sequence after another."""
        sizes = torch.tensor(lengths)
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        cu_seqlens[1:] = sizes.cumsum(0)
        starts = torch.repeat_interleave(cu_seqlens[:-1].long(), sizes)
        return cls(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=torch.arange(len(input_ids)) - starts,
            cu_seqlens=cu_seqlens,
            max_seqlen=max(lengths),
            lengths=list(lengths),
        )


def sequence_ids(batch: TokenBatch) -> Tensor:
    """The sequence each token belongs to, LongTensor ``[total_tokens]``."""
    sizes = (batch.cu_seqlens[1:] - batch.cu_seqlens[:-1]).long()
    order = torch.arange(batch.batch_size, device=sizes.device)
    return torch.repeat_interleave(order, sizes, output_size=batch.total_tokens)


def padded_places(batch: TokenBatch) -> Tensor:
    """Position of each token in the flattened rectangle ``[batch_size * max_seqlen]``, LongTensor ``[total_tokens]``."""
    return sequence_ids(batch) * batch.max_seqlen + batch.position_ids


def from_padded(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> TokenBatch:
    """Pack a padded batch in the form transformers uses.

    Args:
        input_ids: ``[batch_size, seq_len]``.
        attention_mask: ``[batch_size, seq_len]``, 1 on real tokens; padding may be on either side.
        token_type_ids: ``[batch_size, seq_len]``; zeros when None.
    """
    real = attention_mask.bool()
    types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    packed = TokenBatch.from_lengths(input_ids[real].cpu(), types[real].cpu(), real.sum(dim=1).tolist())
    return packed.to(input_ids.device)


def to_padded(values: Tensor, batch: TokenBatch, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Spread packed values over a rectangle, padding on the right.

    Args:
        values: ``[total_tokens, ...]``, one entry per token (hidden states, ids, labels).
        batch: the packed batch that ``values`` belongs to.
        fill: the value of padding.

    Returns:
        The padded values ``[batch_size, max_seqlen, ...]`` and the bool mask ``[batch_size, max_seqlen]`` of real tokens.
    """
    flat = padded_places(batch)
    size = batch.batch_size * batch.max_seqlen
    padded = values.new_full((size, *values.shape[1:]), fill).index_copy(0, flat, values)
    mask = torch.zeros(size, dtype=torch.bool, device=values.device).index_fill(0, flat, True)
    shape = (batch.batch_size, batch.max_seqlen)
    return padded.view(*shape, *values.shape[1:]), mask.view(shape)
