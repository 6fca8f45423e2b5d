"""Tables of embeddings with more rows than a checkpoint has: for tokens that are new, and for positions further on."""

import torch
from torch import Tensor

from bertorch.encoder.config import EncoderConfig

_ALPHA = 0.4  # of Su Jianlin, as in bert4keras and bert4torch


def with_larger_tables(tensors: dict[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """``tensors`` of a checkpoint, with the tables that ``config.larger_than`` says are smaller grown to the model's size.

    New tokens start as the mean of the known ones, in the word embeddings and in the head for masked tokens. New positions
    are those of ``extended_positions``. A table that has the new size already, because an earlier run grew it, stays.
    """
    before = config.larger_than or {}
    words, positions = before.get("vocab_size", config.vocab_size), before.get("max_position_embeddings")
    family = config.family
    heads = {name for layer, name in family.pretraining.items() if layer in ("bias", "decoder")}
    heads |= {name.removesuffix("weight") + "bias" for name in heads}
    of_words = (f"{family.weights['embeddings.word']}.weight", *sorted(heads))
    of_positions = tuple(f"{family.weights[name]}.weight" for name in ("embeddings.position",) if config.has(name))
    grown = {}
    for name, tensor in tensors.items():
        if name.endswith(of_words) and len(tensor) == words < config.vocab_size:
            grown[name] = with_mean_rows(tensor, config.vocab_size)
        elif name.endswith(of_positions) and len(tensor) == positions != config.max_position_embeddings:
            grown[name] = extended_positions(tensor, config.max_position_embeddings, config.position_offset)
        else:
            grown[name] = tensor
    return grown


def with_mean_rows(table: Tensor, rows: int) -> Tensor:
    """``[n, ...]`` -> ``[rows, ...]``: further rows are the mean of the others."""
    mean = table.float().mean(dim=0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - len(table), *table.shape[1:])])


def extended_positions(table: Tensor, rows: int, offset: int = 0) -> Tensor:
    """Position embeddings for longer texts, by hierarchical decomposition (Su Jianlin 2020, kexue.fm/archives/7947).

    With ``u = (p - a p[0]) / (1 - a)`` and a = 0.4, position ``i n + j`` of n trained ones is ``a u[i] + (1 - a) u[j]``, so
    that the first n stay as they are.

    Args:
        table: ``[offset + n, width]``.
        rows: how many are wanted, at most ``offset + n ** 2``.
        offset: how many rows come before the first position; they stay as they are.
    """
    before, trained = table[:offset], table[offset:].double()
    bases = (trained - _ALPHA * trained[:1]) / (1 - _ALPHA)
    further = torch.arange(len(trained), rows - offset)
    new = _ALPHA * bases[further // len(trained)] + (1 - _ALPHA) * bases[further % len(trained)]
    return torch.cat([before, table[offset:], new.to(table.dtype)])
