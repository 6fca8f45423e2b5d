"""Packed batches as transformers' models take them."""

import torch
from torch import Tensor, nn

from bertorch.encoder import TokenBatch, to_padded


def given_to(model: nn.Module, tokens: TokenBatch) -> dict[str, Tensor]:
    """Ids, mask and segments for a model of transformers, padded on the right; XLNet's last token is its own segment."""
    types = tokens.token_type_ids
    if model.config.model_type == "xlnet":
        types = types.index_fill(0, tokens.cu_seqlens[1:].long() - 1, 2)
    ids, mask = to_padded(tokens.input_ids, tokens, model.config.pad_token_id)
    return {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": to_padded(types, tokens)[0]}


def padded_left(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, padded on the left: XLNet's classifier takes the last place of a row."""
    shifts = (given["attention_mask"] == 0).sum(dim=1).tolist()
    return {
        name: torch.stack([row.roll(shift) for row, shift in zip(rows, shifts, strict=True)]) for name, rows in given.items()
    }
