"""From token states to one vector a text."""

import torch
from torch import Tensor

from bertorch.encoder import Encoder, TokenBatch

POOLING_MODES = ("linear", "cls", "mean", "max", "first_last", "last_two")
POOLING_HELP = (
    "linear: BERT's pooler over [CLS]; cls, mean or max of the last layer; first_last, last_two: mean over the first and "
    "last, or the last two, layers"
)


def pooled_layers(mode: str, num_hidden_layers: int) -> tuple[int, int] | None:
    """The layers whose states a mode averages, as ``Encoder`` counts them; None: the last layer alone.

    ``first_last`` starts from the first transformer layer, not from the embeddings (Su et al. 2021, section 4, and the
    code of Gao et al. 2021).
    """
    return {
        "first_last": (1, num_hidden_layers),
        "last_two": (num_hidden_layers - 1, num_hidden_layers),
    }.get(mode)


def pooled_states(encoder: Encoder, batch: TokenBatch, mode: str) -> Tensor:
    """One vector a sequence, ``[batch_size, hidden_size]``.

    ``linear`` needs weights of its own, which are the head's business: its vector is that of ``cls``, the first token's.
    """
    if mode in ("linear", "cls"):
        return encoder(batch, first_only=True)
    return pool(encoder(batch, pooled_layers(mode, encoder.config.num_hidden_layers)), batch, mode)


def pool(hidden_states: Tensor, batch: TokenBatch, mode: str) -> Tensor:
    """One vector a sequence: ``[total_tokens, D]`` -> ``[batch_size, D]``.

    ``mean`` and ``max`` go over all tokens of the sequence, special ones included (Reimers & Gurevych 2019, section 3);
    ``first_last`` and ``last_two`` are the mean of what ``pooled_layers`` names.
    """
    if mode in ("mean", "max", "first_last", "last_two"):
        offsets = batch.cu_seqlens.long()
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        pooled = torch.segment_reduce(wide, "max" if mode == "max" else "mean", offsets=offsets, axis=0)
        return pooled.to(hidden_states.dtype)
    raise ValueError(f"unknown pooling mode {mode!r}")
