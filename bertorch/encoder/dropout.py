"""Dropout with cheap masks on CPU: one 64-bit draw serves four places, instead of one draw each."""

import torch
from torch import Tensor, nn

_STEPS = 1 << 16  # a place is dropped with a probability in steps of 1/65536


def keep_mask(places: int, dropout: float, like: Tensor) -> Tensor:
    """1 where a place is kept, 0 where it is dropped, with probability ``dropout`` rounded to 2^-16.

    ``[places]``, with the type and device of ``like``: on CPU products with a BoolTensor take three times as long.
    """
    kept = like.new_empty(places)
    if like.device.type != "cpu":
        return kept.bernoulli_(1.0 - dropout)
    draws = torch.empty((places + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # all 64 bits are random
    return torch.ge(draws.view(torch.int16)[:places], round(dropout * _STEPS) - _STEPS // 2, out=kept)


class Dropout(nn.Dropout):
    """``torch.nn.Dropout``; on CPU in a quarter of the time. Compiled code draws its masks in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        noise = keep_mask(x.numel(), self.p, x).mul_(1.0 / (1.0 - self.p))  # kept values are scaled by this
        return x * noise.view_as(x)
