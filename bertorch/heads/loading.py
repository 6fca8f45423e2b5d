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
    listed,
    load_encoder,
    other_shapes,
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
    model = build(Encoder(config, with_pooler, initialise=False))
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
    model = build(Encoder(load_config(directory), with_pooler, initialise=False))
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
        The names in ``tensors`` that were taken. None where they are not ``required`` and of other shapes, as with another
        number of labels, which is a warning.

    Raises:
        UserError: one of them is missing, or they are ``required`` and of other shapes.
    """
    prefix = wrapper_prefix(tensors)
    names = {ours: prefix + theirs for ours, theirs in names.items()}
    if not required:
        if not any(theirs in tensors for theirs in names.values()):
            return set()
        other = other_shapes(model, names, tensors)
        if other:
            logger.warning(
                f"{source}: its head is another ({listed(other)}); the encoder is taken over, the head starts anew"
            )
            return set()
    copy_weights(model, names, tensors, source)
    return set(names.values())


def own_names(model: nn.Module) -> list[str]:
    """The parameters of a head that are not its encoder's; they are saved under these names."""
    return [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]


def fill_own_layers(model: nn.Module, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
    """``fill_layers`` for each layer of a head whose weights are saved as they are named."""
    names = own_names(model)
    prefix = wrapper_prefix(tensors)
    if not required and other_shapes(model, {name: prefix + name for name in names}, tensors):
        return fill_layers(model, {name: name for name in names}, tensors, source, required)  # one warning for all layers
    layers = dict.fromkeys(name.split(".")[0] for name in names)
    groups = ({name: name for name in names if name.startswith(f"{layer}.")} for layer in layers)
    return {name for group in groups for name in fill_layers(model, group, tensors, source, required)}


def head_files(model: nn.Module, task: str | None = None) -> dict[str, dict]:
    """What ``save_model`` writes of such a head: path -> JSON content, or tensors for ``.safetensors``.

    Args:
        model: the head.
        task: how transformers' class for it ends, such as ``TokenClassification``; None where it has none.
    """
    config = model.encoder.config
    written = config.to_dict()
    if task is not None:
        written["architectures"] = [f"{config.family.class_prefix}For{task}"]
    parameters = dict(model.named_parameters())
    own = {name: parameters[name].detach() for name in own_names(model)}
    return {"config.json": written, "model.safetensors": {**encoder_tensors(model.encoder), **own}}
