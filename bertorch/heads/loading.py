"""Load heads from checkpoints, for training or for prediction."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from loguru import logger
from torch import Tensor, nn

from bertorch.encoder import Encoder, load_config
from bertorch.encoder.config import config_path
from bertorch.encoder.weights import (
    copy_weights,
    encoder_tensors,
    fill_encoder,
    listed,
    load_encoder,
    other_shapes,
    read_model,
    report_unused,
    weights_file,
    wrapper_prefix,
)
from bertorch.heads.loss import Loss


class Head(Protocol):
    """The interface of every head: an ``nn.Module`` that owns its encoder and declares the names of its own weights.

    Where the functions of this module suffice, a head uses them as its methods: ``weight_names, fill_head, saved_files =
    own_names, fill_own_layers, head_files``.

    Attributes:
        encoder: the encoder, with a pooler only where the head uses it.
        architecture: the ending of transformers' class name, such as ``ForTokenClassification``; None if transformers
            has no such class.
    """

    encoder: Encoder
    architecture: str | None

    def forward(self, batch: Any) -> Loss:
        """Return the summed loss of a batch and the number of its terms. Predictions come from other methods."""
        ...

    def weight_names(self) -> dict[str, str]:
        """Map the head's own parameters to their names in a checkpoint."""
        ...

    def fill_head(self, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
        """Fill the head's own layers if the checkpoint holds them; return the names taken.

        Raises:
            UserError: the weights do not fit, or are ``required`` and missing.
        """
        ...

    def saved_files(self, max_seq_length: int) -> dict[str, dict | list]:
        """Return the files that ``save_model`` writes: path -> JSON content, or tensors for ``.safetensors``."""
        ...


AnyHead = TypeVar("AnyHead", bound=Head)


def load_head(
    directory: str | Path,
    build: Callable[[Encoder], AnyHead],
    init_from_ckpt: str | Path | None = None,
    with_pooler: bool = False,
    labels: list[str] | None = None,
) -> AnyHead:
    """Load a head for training: the encoder from ``directory`` and a new head, or both from ``init_from_ckpt``.

    What the new head has in common with the pretraining head (ModernBERT's dense layer) comes from ``directory`` too.

    Args:
        directory: a model directory.
        build: makes the head on its encoder.
        init_from_ckpt: a saved directory, ``.safetensors`` or ``.bin`` file.
        with_pooler: whether the head uses the encoder's pooler.
        labels: what the head's outputs mean. A head that was trained for other labels, or for these in another order, is
            not taken.

    Raises:
        UserError: weights are missing or do not fit.
    """
    config = load_config(directory)
    if init_from_ckpt is None:
        encoder, rest = load_encoder(directory, with_pooler, config)
        model = build(encoder)
        taken = fill_layers(model, _pretrained_names(model), rest, directory, required=False)
        report_unused({name: tensor for name, tensor in rest.items() if name not in taken}, directory)
        return model
    model = build(Encoder(config, with_pooler, initialise=False))
    tensors = read_model(init_from_ckpt, config)
    taken = fill_encoder(model.encoder, tensors, init_from_ckpt)
    trained_labels = labels_beside(init_from_ckpt)
    if labels is None or trained_labels is None or len(trained_labels) != len(labels) or trained_labels == labels:
        head = model.fill_head(tensors, init_from_ckpt, required=False)
    else:
        head = set()
        logger.warning(
            f"{init_from_ckpt}: its head was trained for the labels {', '.join(trained_labels[:8])}, not for "
            f"{', '.join(labels[:8])}; its encoder is used, the head starts from scratch"
        )
    logger.info(f"{init_from_ckpt}: warm start of the encoder{' and the head' if head else '; the head is new'}")
    report_unused({name: tensor for name, tensor in tensors.items() if name not in taken | head}, init_from_ckpt)
    return model


def _pretrained_names(model: Head) -> dict[str, str]:
    """``weight_names`` of the layers that the family's pretraining head has too, under the same names."""
    pretraining = model.encoder.config.pretraining
    layers = {pretraining.get(layer) for layer in ("transform", "norm")}
    return {ours: theirs for ours, theirs in model.weight_names().items() if theirs.rpartition(".")[0] in layers}


def labels_beside(checkpoint: str | Path) -> list[str] | None:
    """The labels that ``config.json`` beside the weights names; None if it names none of its own (``LABEL_0``)."""
    try:
        path = config_path(weights_file(checkpoint).parent)
        names = json.loads(path.read_text(encoding="utf-8")).get("id2label")
        labels = names if isinstance(names, list) else [str(names[str(index)]) for index in range(len(names))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # no config.json, or none that names labels
        return None
    return None if labels == [f"LABEL_{index}" for index in range(len(labels))] else labels


def load_trained_head(
    directory: str | Path,
    build: Callable[[Encoder], AnyHead],
    weights: str | Path | None = None,
    with_pooler: bool = False,
) -> AnyHead:
    """Load a head for prediction; every weight must be in ``directory`` or in the file ``weights``.

    Raises:
        UserError: weights are missing or do not fit.
    """
    config = load_config(directory)
    model = build(Encoder(config, with_pooler, initialise=False))
    source = weights or directory
    tensors = read_model(source, config)
    fill_encoder(model.encoder, tensors, source, pooler_required=True)
    model.fill_head(tensors, source, required=True)
    return model.eval()


def fill_layers(
    model: nn.Module, names: dict[str, str], tensors: dict[str, Tensor], source: str | Path, required: bool
) -> set[str]:
    """Fill a head's own layers if the checkpoint holds them.

    Args:
        model: the head.
        names: its parameters -> their names in a checkpoint.
        tensors: the checkpoint's tensors.
        source: where they come from, for messages.
        required: whether the checkpoint must hold the weights.

    Returns:
        The names in ``tensors`` that were taken. If weights that are not ``required`` have other shapes (another number of
        labels), this warns and takes none.

    Raises:
        UserError: only some of the weights are there, or ``required`` ones are missing or have other shapes.
    """
    prefix = wrapper_prefix(tensors)
    names = {ours: prefix + theirs for ours, theirs in names.items()}
    if not required:
        if not any(theirs in tensors for theirs in names.values()):
            return set()
        other = other_shapes(model, names, tensors)
        if other:
            logger.warning(
                f"{source}: its head is different ({listed(other)}); its encoder is used, the head starts from scratch"
            )
            return set()
    copy_weights(model, names, tensors, source)
    return set(names.values())


def own_names(model: Head) -> dict[str, str]:
    """``weight_names`` for a head whose weights are saved under their own names."""
    return {name: name for name, _ in model.named_parameters() if not name.startswith("encoder.")}


def fill_own_layers(model: Head, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
    """``fill_head``, layer by layer: the checkpoint may hold one layer and lack another."""
    names = model.weight_names()
    prefix = wrapper_prefix(tensors)
    if not required and other_shapes(model, {ours: prefix + theirs for ours, theirs in names.items()}, tensors):
        return fill_layers(model, names, tensors, source, required)  # one warning for all layers
    layers = dict.fromkeys(ours.split(".")[0] for ours in names)
    groups = ({ours: names[ours] for ours in names if ours.split(".")[0] == layer} for layer in layers)
    return {name for group in groups for name in fill_layers(model, group, tensors, source, required)}


def head_files(model: Head, max_seq_length: int) -> dict[str, dict]:
    """``saved_files`` for a head that transformers has a class for, or whose weights are saved with the encoder's."""
    config = model.encoder.config
    written = config.to_dict()
    if model.architecture is not None:
        ending = config.family.architectures.get(model.architecture, model.architecture)
        written["architectures"] = [f"{config.family.class_prefix}{ending}"]
    parameters = dict(model.named_parameters())
    own = {theirs: parameters[ours].detach() for ours, theirs in model.weight_names().items()}
    return {"config.json": written, "model.safetensors": {**encoder_tensors(model.encoder), **own}}
