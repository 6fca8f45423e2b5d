"""Pool token states into one vector per text."""

import torch
from torch import Tensor, nn

from bertorch.encoder import Encoder, EncoderConfig, TokenBatch
from bertorch.encoder.layers import first_tokens, last_tokens
from bertorch.encoder.tokens import sequence_ids
from bertorch.errors import UserError

PLAIN_POOLING_MODES = ("linear", "cls", "mean", "max", "first_last", "last_two")
POOLING_MODES = (*PLAIN_POOLING_MODES, "scalar_mix", "cls_layers", "attention")
PLAIN_POOLING_HELP = (
    "linear: BERT's pooler over [CLS]; cls, mean or max of the last layer; first_last, last_two: mean over the first and "
    "last, or the last two, layers"
)
POOLING_HELP = (
    f"{PLAIN_POOLING_HELP}; scalar_mix: mean of the last --pooling_layers, mixed with learned weights; cls_layers: their "
    "[CLS], side by side; attention: mean of the last layer with a learned weight for each token"
)
_USUAL_LAYERS = 4


def pooled_layers(mode: str, num_hidden_layers: int, count: int | None = None) -> tuple[int, ...] | None:
    """The layers that a mode takes, numbered as in ``Encoder``; None for the last layer alone.

    ``first_last`` starts from the first transformer layer, not from the embeddings (Su et al. 2021, section 4, and the
    code of Gao et al. 2021). ``scalar_mix`` and ``cls_layers`` take the last ``count``; None: 4, or all if there are fewer.

    Raises:
        UserError: the encoder has fewer than ``count`` layers, or the mode takes no number of them.
    """
    if count is not None and mode not in ("scalar_mix", "cls_layers"):
        raise UserError(f"--pooling_layers {count}: --pooling_mode {mode} takes none; leave the flag out")
    if mode in ("scalar_mix", "cls_layers"):
        if count is not None and count > num_hidden_layers:
            raise UserError(f"--pooling_layers {count}: the encoder has {num_hidden_layers} layers")
        return tuple(range(num_hidden_layers + 1 - (count or min(_USUAL_LAYERS, num_hidden_layers)), num_hidden_layers + 1))
    return {
        "first_last": (1, num_hidden_layers),
        "last_two": (num_hidden_layers - 1, num_hidden_layers),
    }.get(mode)


class Pooling(nn.Module):
    """How an encoder's states become one vector per sequence, ``[batch_size, width]``.

    ``linear`` gives the state of the classification token, as ``cls`` does: that is the first one, in XLNet the last; the
    head applies the linear layer. ``mean`` and ``max`` are over all tokens of the sequence, including special ones (Reimers
    & Gurevych 2019, section 3); ``first_last`` and ``last_two`` take the mean of two layers first. ``scalar_mix`` weights
    layers by a softmax, and then takes the mean (Peters et al. 2018, eq. 1, without its factor, which a layer on top can
    learn); ``cls_layers`` joins the classification token's states; ``attention`` weights tokens by a softmax over each
    sequence of scores that are linear in the states. The weights start equal.

    Args:
        config: of the encoder.
        mode: one of ``POOLING_MODES``.
        count: how many layers ``scalar_mix`` and ``cls_layers`` take; see ``pooled_layers``.

    Raises:
        UserError: the encoder has fewer layers.
    """

    def __init__(self, config: EncoderConfig, mode: str, count: int | None = None):
        super().__init__()
        if mode not in POOLING_MODES:
            raise ValueError(f"unknown pooling mode {mode!r}")
        self.mode = mode
        self.layers = pooled_layers(mode, config.num_hidden_layers, count)
        self.width = config.hidden_size * (len(self.layers) if mode == "cls_layers" else 1)
        self.layer_weights = nn.Parameter(torch.zeros(len(self.layers))) if mode == "scalar_mix" else None
        self.scores = nn.Parameter(torch.zeros(config.hidden_size)) if mode == "attention" else None

    def forward(self, encoder: Encoder, batch: TokenBatch) -> Tensor:
        cls_last = encoder.config.family.cls_last
        if self.mode in ("linear", "cls"):
            return last_tokens(encoder(batch), batch) if cls_last else encoder(batch, first_only=True)
        states = encoder(batch, self.layers)
        if self.mode == "cls_layers":
            return torch.cat([(last_tokens if cls_last else first_tokens)(one, batch) for one in states], dim=1)
        if self.mode == "scalar_mix":
            weights = self.layer_weights.softmax(dim=0)
            states = sum(weight * one for weight, one in zip(weights, states, strict=True))
        elif self.layers is not None:
            states = sum(states) / len(states)
        if self.scores is not None:
            return _weighted_mean(states, states @ self.scores, batch)
        return pool(states, batch, "max" if self.mode == "max" else "mean")


def pool(states: Tensor, batch: TokenBatch, how: str) -> Tensor:
    """The ``mean``, ``max`` or ``sum`` over each sequence, ``[total_tokens, ...]`` -> ``[batch_size, ...]``."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    return torch.segment_reduce(wide, how, offsets=batch.cu_seqlens.long(), axis=0).to(states.dtype)


def _weighted_mean(states: Tensor, scores: Tensor, batch: TokenBatch) -> Tensor:
    """The mean of each sequence's states with weights ``softmax(scores)``; ``scores``: ``[total_tokens]``."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    highest = pool(scores.detach(), batch, "max")
    weights = (scores - highest.index_select(0, sequence_ids(batch))).exp()
    sums = pool(weights[:, None] * states, batch, "sum")
    return (sums / pool(weights, batch, "sum")[:, None]).to(states.dtype)
