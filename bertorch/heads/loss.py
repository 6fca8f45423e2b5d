"""The loss that every head's ``forward`` returns, and common loss functions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Loss:
    """A summed loss and the number of its terms, so that ranks and accumulation steps of unequal size average exactly.

    Attributes:
        total: the sum of the loss terms, a scalar with gradient.
        count: the number of terms (samples for a classifier, tokens for a tagger).
        correct: the number of correct predictions, a scalar without gradient; None if the task does not count them.
        logits: the logits of each distribution behind the terms, ``[..., classes]``, for ``--r_drop_weight``; None if
            the task has no distributions.
    """

    total: Tensor
    count: int
    correct: Tensor | None = None
    logits: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.total / self.count


class ClassLoss(nn.Module):
    """Summed cross-entropy over classes, and its variants. Without arguments: plain cross-entropy.

    Args:
        label_smoothing: the share of each target to spread over all classes (Szegedy et al. 2016, section 7).
        focal_gamma: multiplies each term by ``(1 - p)^gamma``, where p is the probability of the correct class, so that
            well-learned examples count less (Lin et al. 2017, eq. 4).
        class_weights: one factor per class, ``[num_classes]``. The loss is divided by the number of terms, not by the
            sum of their weights, so the weights of a batch should average 1.
    """

    problem_type = None  # the name in transformers; without one, transformers goes by the number of labels

    def __init__(self, label_smoothing: float = 0.0, focal_gamma: float = 0.0, class_weights: Tensor | None = None):
        super().__init__()
        self.label_smoothing, self.focal_gamma = label_smoothing, focal_gamma
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``[n, num_classes]`` and LongTensor ``[n]`` -> scalar."""
        how = {"weight": self.class_weights, "label_smoothing": self.label_smoothing}
        if not self.focal_gamma:
            return F.cross_entropy(logits, targets, reduction="sum", **how)
        right = logits.softmax(dim=-1).gather(1, targets[:, None]).squeeze(1)
        terms = F.cross_entropy(logits, targets, reduction="none", **how)
        # The clamp avoids an infinite gradient at p = 1 when gamma is below 1.
        return ((1 - right).clamp(min=torch.finfo(right.dtype).tiny) ** self.focal_gamma * terms).sum()

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The number of targets that are the likeliest class, a scalar."""
        return (logits.argmax(dim=-1) == targets).sum()

    def distributions(self, logits: Tensor) -> Tensor:
        """The logits of each distribution behind the terms, ``[..., classes]``."""
        return logits


class LabelsLoss(nn.Module):
    """Binary cross-entropy of each label of each row, summed.

    Args:
        focal_gamma: as in ``ClassLoss``; p is the probability of the correct answer, yes or no.
        positive_weights: one factor per label, for the terms of rows that have the label, ``[num_labels]``.
    """

    problem_type = "multi_label_classification"

    def __init__(self, focal_gamma: float = 0.0, positive_weights: Tensor | None = None):
        super().__init__()
        self.focal_gamma = focal_gamma
        self.register_buffer("positive_weights", positive_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits ``[n, num_labels]`` and targets of the same shape, 0 or 1 -> scalar."""
        targets = targets.to(logits.dtype)
        how = {"pos_weight": self.positive_weights}
        if not self.focal_gamma:
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum", **how)
        terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none", **how)
        wrong = torch.where(targets > 0, -logits, logits).sigmoid()  # 1 - p
        return (wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** self.focal_gamma * terms).sum()

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The number of correct answers, counting each label of each row separately, a scalar."""
        return ((logits > 0) == (targets > 0)).sum()

    def distributions(self, logits: Tensor) -> Tensor:
        """Logits of yes and no for each label: ``[n, num_labels, 2]``; their softmax is the sigmoid."""
        return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


class ScoreLoss(nn.Module):
    """Squared error, summed."""

    problem_type = "regression"

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """``[n, 1]`` and ``[n]`` -> scalar."""
        return F.mse_loss(scores.squeeze(1), targets, reduction="sum")

    def correct(self, scores: Tensor, targets: Tensor) -> None:
        """None: a score is not right or wrong."""

    def distributions(self, scores: Tensor) -> None:
        """None: a score has no distribution."""


def sampled(make_logits: Callable[[], Tensor], make_loss: Callable[[Tensor], Tensor], samples: int) -> tuple[Tensor, Tensor]:
    """The mean logits and the mean loss under ``samples`` dropout masks (Inoue 2019)."""
    drawn = [make_logits() for _ in range(samples)]
    losses = [make_loss(logits) for logits in drawn]
    return (drawn[0], losses[0]) if samples == 1 else (torch.stack(drawn).mean(dim=0), torch.stack(losses).mean())
