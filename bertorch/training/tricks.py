"""Training tricks that change a step or what is trained, each with its own flag."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bertorch.encoder import Encoder
from bertorch.errors import UserError
from bertorch.heads.loss import ClassLoss, LabelsLoss, Loss


def r_drop(first: Loss, second: Loss, weight: float) -> Loss:
    """Combine two passes of a batch with different dropout, and pull their outputs together (Liang et al. 2021, eq. 4).

    The result is half of the paper's loss, so that it is as large as that of a single pass: ``(first + second) / 2 +
    weight / 4 * (KL(p || q) + KL(q || p))``. The divergences are averaged over the distributions of the batch, as the
    losses are over their terms.

    Args:
        first, second: the losses of the passes, with ``logits``.
        weight: the paper's alpha.
    """
    p, q = (loss.logits.float().log_softmax(dim=-1) for loss in (first, second))
    # (p - q)(log p - log q) sums both directions; a class impossible in both (-inf) adds nothing.
    apart = (p - q).masked_fill(p.isneginf() & q.isneginf(), 0.0)
    divergence = ((p.exp() - q.exp()) * apart).sum() / (p.numel() / p.shape[-1])
    return replace(first, total=(first.total + second.total) / 2 + weight / 4 * divergence * first.count)


def freeze(encoder: Encoder, embeddings: bool, layers: int) -> None:
    """Freeze the lowest ``layers`` of an encoder, and its embeddings if ``embeddings`` or any layer is frozen.

    Raises:
        UserError: the encoder has fewer layers, or its layers share their weights.
    """
    config = encoder.config
    if layers > config.num_hidden_layers:
        raise UserError(f"--freeze_layers {layers}: the encoder has {config.num_hidden_layers} layers")
    if layers and not has_own_layers(encoder):
        raise UserError(f"--freeze_layers {layers}: the layers of this {config.model_type} share their weights")
    frozen = [*([encoder.embeddings] if embeddings or layers else []), *encoder.blocks[:layers]]
    for module in frozen:
        module.requires_grad_(False)


def has_own_layers(encoder: Encoder) -> bool:
    """Whether each layer is one block with its own weights, unlike in ALBERT."""
    config = encoder.config
    groups = config.num_hidden_groups == config.num_hidden_layers and config.inner_group_num == 1
    return groups and config.sharing is None


def average(averages: list[Tensor], parameters: list[Tensor], decay: float, step: int) -> None:
    """Update the exponential moving averages of the weights: ``decay`` of the old average, the rest from the weights.

    In the first steps the decay is lower, ``(1 + step) / (10 + step)``, so that the averages forget the initial weights
    sooner (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).
    """
    torch._foreach_lerp_(averages, parameters, 1 - min(decay, (1 + step) / (10 + step)))


def class_loss(args: argparse.Namespace, counts: Sequence[int]) -> ClassLoss:
    """The loss that ``--label_smoothing``, ``--focal_gamma`` and ``--class_weights`` ask for.

    ``balanced`` weights a class by ``n / (classes * its count)``, so that all classes count equally and the mean over the
    training set stays 1 (King & Zeng 2001, as in scikit-learn).

    Args:
        args: the flags.
        counts: how often each class occurs in the training set.

    Raises:
        UserError: ``--class_weights`` are not numbers above 0, one for each class.
    """
    if args.class_weights is None:
        return ClassLoss(args.label_smoothing, args.focal_gamma)
    if args.class_weights == ["balanced"]:
        known = torch.tensor(counts, dtype=torch.float32)
        return ClassLoss(args.label_smoothing, args.focal_gamma, known.sum() / (len(known) * known.clamp(min=1)))
    return ClassLoss(args.label_smoothing, args.focal_gamma, _given_weights(args, len(counts)))


def labels_loss(args: argparse.Namespace, counts: Sequence[int], rows: int) -> LabelsLoss:
    """Like ``class_loss``, for rows with several labels: a label's weight applies to the rows that have the label.

    ``balanced`` weights them by ``(rows - count) / count``, so that rows with a label and rows without it count equally.

    Args:
        args: the flags.
        counts: how many rows of the training set have each label.
        rows: number of rows in the training set.

    Raises:
        UserError: as in ``class_loss``.
    """
    if args.class_weights is None:
        return LabelsLoss(args.focal_gamma)
    if args.class_weights == ["balanced"]:
        known = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
        return LabelsLoss(args.focal_gamma, ((rows - known) / known).clamp(min=1 / rows))
    return LabelsLoss(args.focal_gamma, _given_weights(args, len(counts)))


def _given_weights(args: argparse.Namespace, count: int) -> Tensor:
    try:
        weights = [float(weight) for weight in args.class_weights]
    except ValueError:
        weights = []
    if len(weights) != count or not all(0 < weight < math.inf for weight in weights):
        given = " ".join(args.class_weights)
        raise UserError(f"--class_weights {given}: give balanced, or a number above 0 for each of the {count} classes")
    return torch.tensor(weights)


def check_tricks(args: argparse.Namespace) -> None:
    """Refuse tricks that contradict each other.

    Raises:
        UserError: tricks contradict each other.
    """
    if args.fgm_epsilon and (args.freeze_embeddings or args.freeze_layers):
        raise UserError(
            "--fgm_epsilon moves the embeddings along their gradient, but frozen ones have none; leave one flag out"
        )
