"""Pool token states into one vector per text."""

import torch
from torch import Tensor

from bertorch.encoder import Encoder, TokenBatch

POOLING_MODES = ("linear", "cls", "mean", "max", "first_last", "last_two")
POOLING_HELP = (
    "linear: BERT's pooler over [CLS]; cls, mean or max of the last layer; first_last, last_two: mean over the first and "
    "last, or the last two, layers"
)


def pooled_layers(mode: str, num_hidden_layers: int) -> tuple[int, int] | None:
    """The layers whose states a mode averages, numbered as in ``Encoder``; None for the last layer alone.

    ``first_last`` starts from the first transformer layer, not from the embeddings (Su et al. 2021, section 4, and the
    code of Gao et al. 2021).
    """
    return {
        "first_last": (1, num_hidden_layers),
        "last_two": (num_hidden_layers - 1, num_hidden_layers),
    }.get(mode)


def pooled_states(encoder: Encoder, batch: TokenBatch, mode: str) -> Tensor:
    """Encode and pool a batch to one vector per sequence, ``[batch_size, hidden_size]``.

    ``linear`` gives the first token's vector, as ``cls`` does; the head applies the linear layer.
    """
    if mode in ("linear", "cls"):
        return encoder(batch, first_only=True)
    return pool(encoder(batch, pooled_layers(mode, encoder.config.num_hidden_layers)), batch, mode)


def pool(hidden_states: Tensor, batch: TokenBatch, mode: str) -> Tensor:
    """Pool to one vector per sequence: ``[total_tokens, D]`` -> ``[batch_size, D]``.

    ``mean`` and ``max`` are over all tokens of the sequence, including special tokens (Reimers & Gurevych 2019, section
    3); ``first_last`` and ``last_two`` take the mean of states already averaged over ``pooled_layers``.
    """
    if mode in ("mean", "max", "first_last", "last_two"):
        offsets = batch.cu_seqlens.long()
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        pooled = torch.segment_reduce(wide, "max" if mode == "max" else "mean", offsets=offsets, axis=0)
        return pooled.to(hidden_states.dtype)
    raise ValueError(f"unknown pooling mode {mode!r}")
