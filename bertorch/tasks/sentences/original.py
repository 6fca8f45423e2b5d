"""Read sentence encoders of the original bertorch; see ``tasks/original.py``."""

from pathlib import Path

from loguru import logger
from torch import Tensor

from bertorch.tasks.original import REDUCTION
from bertorch.tasks.sentences.encoder import Dense, SentenceEncoder


def reduction_of(tensors: dict[str, Tensor]) -> Dense | None:
    """The layer that the original's --output_emb_size added on top; None if there is none."""
    if any(name not in tensors for name in REDUCTION):
        return None
    weight, bias = (tensors[name] for name in REDUCTION)
    if weight.dim() != 2 or bias.shape != weight.shape[:1]:
        return None
    dense = Dense(weight.shape[1], len(weight))
    dense.linear.load_state_dict({"weight": weight, "bias": bias})
    return dense


def take_reduction(model: SentenceEncoder, rest: dict[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Fill a model's dense layer from the original's if it fits; otherwise warn.

    Returns:
        What is left of ``rest``.
    """
    theirs = reduction_of(rest)
    if theirs is None:
        return rest
    size = theirs.linear.out_features
    if len(model.dense) != 1 or model.dense[0].linear.weight.shape != theirs.linear.weight.shape:
        logger.warning(
            f"{source}: its vectors go through a layer of width {size}, which is left out; --output_emb_size {size} keeps it"
        )
        return rest
    model.dense[0].load_state_dict(theirs.state_dict())
    return {name: tensor for name, tensor in rest.items() if name not in REDUCTION}
