"""From token states to one vector a text."""

import torch
from torch import Tensor

from bertorch.encoder import TokenBatch
from bertorch.encoder.layers import first_tokens

POOLING_MODES = ("linear", "cls", "mean", "max")


def pool(hidden_states: Tensor, batch: TokenBatch, mode: str) -> Tensor:
    """One vector a sequence: ``[total_tokens, D]`` -> ``[batch_size, D]``.

    ``cls`` takes the first token, ``mean`` and ``max`` go over all tokens of the sequence, special ones included
    (Reimers & Gurevych 2019, section 3). ``linear`` needs weights of its own and is the head's business.
    """
    if mode == "cls":
        return first_tokens(hidden_states, batch)
    if mode in ("mean", "max"):
        offsets = batch.cu_seqlens.long()
        return torch.segment_reduce(hidden_states.float(), mode, offsets=offsets, axis=0).to(hidden_states.dtype)
    raise ValueError(f"unknown pooling mode {mode!r}")
