"""Heads from checkpoints: to be trained, or to predict with."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from loguru import logger
from torch import Tensor, nn

from bertorch.encoder import Encoder, load_config
from bertorch.encoder.weights import (
    copy_weights,
    encoder_tensors,
    fill_encoder,
    load_encoder,
    read_weights,
    report_unused,
    wrapper_prefix,
)

# A head: an nn.Module with ``encoder`` and ``fill_head(tensors, source, required) -> names taken``.
Head = TypeVar("Head", bound=nn.Module)


def load_head(
    directory: str | Path,
    build: Callable[[Encoder], Head],
    init_from_ckpt: str | Path | None = None,
    with_pooler: bool = False,
) -> Head:
    """A head to be trained: encoder from ``directory``, the rest new, or both from ``init_from_ckpt``.

    Raises:
        UserError: weights are missing or do not fit.
    """
    config = load_config(directory)
    if init_from_ckpt is None:
        encoder, rest = load_encoder(directory, with_pooler, config)
        report_unused(rest, directory)
        return build(encoder)
    model = build(Encoder(config, with_pooler))
    tensors = read_weights(init_from_ckpt)
    taken = fill_encoder(model.encoder, tensors, init_from_ckpt)
    head = model.fill_head(tensors, init_from_ckpt, required=False)
    logger.info(f"{init_from_ckpt}: warm start of the encoder{' and the head' if head else '; the head is new'}")
    report_unused({name: tensor for name, tensor in tensors.items() if name not in taken | head}, init_from_ckpt)
    return model


def load_trained_head(
    directory: str | Path,
    build: Callable[[Encoder], Head],
    weights: str | Path | None = None,
    with_pooler: bool = False,
) -> Head:
    """A head to predict with; every weight must be there, in ``directory`` or in the file ``weights``.

    Raises:
        UserError: weights are missing or do not fit.
    """
    model = build(Encoder(load_config(directory), with_pooler))
    source = weights or directory
    tensors = read_weights(source)
    fill_encoder(model.encoder, tensors, source, pooler_required=True)
    model.fill_head(tensors, source, required=True)
    return model.eval()


def fill_layers(
    model: nn.Module, names: dict[str, str], tensors: dict[str, Tensor], source: str | Path, required: bool
) -> set[str]:
    """Fill a head's own layers where a checkpoint holds them.

    Args:
        model: the head.
        names: its parameters -> their names in a checkpoint.
        tensors: the checkpoint.
        source: where that is from, for messages.
        required: they must be there.

    Returns:
        The names in ``tensors`` that were taken.

    Raises:
        UserError: they are there and do not fit, or are ``required`` and missing.
    """
    if not names:
        return set()
    prefix = wrapper_prefix(tensors)
    names = {ours: prefix + theirs for ours, theirs in names.items()}
    if not required and not any(theirs in tensors for theirs in names.values()):
        return set()
    copy_weights(model, names, tensors, source)
    return set(names.values())


def own_names(model: nn.Module, layer: str = "") -> dict[str, str]:
    """The parameters of a head that are not its encoder's, or those of one layer, for ``fill_layers``: saved as named."""
    names = [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
    return {name: name for name in names if name.startswith(layer)}


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All weights of such a head: the encoder's under Hugging Face's names, its own as they are named."""
    own = {name: parameter.detach() for name, parameter in model.named_parameters() if name in own_names(model)}
    return {**encoder_tensors(model.encoder), **own}
