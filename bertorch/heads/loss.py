"""What every head's ``forward`` returns."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Loss:
    """A sum and what it is summed over, so that ranks and accumulation steps of unequal size still average exactly.

    Attributes:
        total: the sum of the loss terms, a scalar with gradient.
        count: how many terms that is (samples for a classifier, tokens for a tagger).
        correct: how many answers were right, a scalar without gradient; None where a task has no such thing.
        logits: those of each distribution that the terms are taken from, ``[..., classes]``, for ``--r_drop_weight``; None
            where a task has no distribution.
    """

    total: Tensor
    count: int
    correct: Tensor | None = None
    logits: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.total / self.count


class ClassLoss(nn.Module):
    """Cross-entropy of classes, summed over what is classified, and its variants. Without arguments the plain one.

    Args:
        label_smoothing: this share of a target is spread over all classes (Szegedy et al. 2016, section 7).
        focal_gamma: each term is multiplied by ``(1 - p)^gamma``, p the probability of the right class, so that what is
            learnt already counts less (Lin et al. 2017, eq. 4).
        class_weights: factors of the classes, ``[num_classes]``. The loss is divided by the number of terms and not by the
            sum of their weights; let those of a batch be 1 in the mean.
    """

    problem_type = None  # as transformers calls it; without one it goes by the number of labels

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
        # At p = 1 the slope of a power below 1 is infinite.
        return ((1 - right).clamp(min=torch.finfo(right.dtype).tiny) ** self.focal_gamma * terms).sum()

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """How many targets are the likeliest classes, a scalar."""
        return (logits.argmax(dim=-1) == targets).sum()

    def distributions(self, logits: Tensor) -> Tensor:
        """The logits of each distribution that a term is taken from, ``[..., classes]``."""
        return logits


class LabelsLoss(nn.Module):
    """Binary cross-entropy of each label of each row, summed.

    Args:
        focal_gamma: as in ``ClassLoss``, p the probability of the right one of yes and no.
        positive_weights: factors of the terms of rows that have a label, ``[num_labels]``.
    """

    problem_type = "multi_label_classification"

    def __init__(self, focal_gamma: float = 0.0, positive_weights: Tensor | None = None):
        super().__init__()
        self.focal_gamma = focal_gamma
        self.register_buffer("positive_weights", positive_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``[n, num_labels]`` twice, 0 and 1 in the second -> scalar."""
        targets = targets.to(logits.dtype)
        how = {"pos_weight": self.positive_weights}
        if not self.focal_gamma:
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum", **how)
        terms = F.binary_cross_entropy_with_logits(logits, targets, reduction="none", **how)
        wrong = torch.where(targets > 0, -logits, logits).sigmoid()  # 1 - p
        return (wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** self.focal_gamma * terms).sum()

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """How many labels of rows are right, each for itself, a scalar."""
        return ((logits > 0) == (targets > 0)).sum()

    def distributions(self, logits: Tensor) -> Tensor:
        """Yes and no of each label: ``[n, num_labels, 2]``, whose softmax is the sigmoid."""
        return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


class ScoreLoss(nn.Module):
    """Squared error, summed."""

    problem_type = "regression"

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        """``[n, 1]`` and ``[n]`` -> scalar."""
        return F.mse_loss(scores.squeeze(1), targets, reduction="sum")

    def correct(self, scores: Tensor, targets: Tensor) -> None:
        """A score is not right or wrong."""

    def distributions(self, scores: Tensor) -> None:
        """A score has none."""


def sampled(make_logits: Callable[[], Tensor], make_loss: Callable[[Tensor], Tensor], samples: int) -> tuple[Tensor, Tensor]:
    """Logits under as many dropout masks as there are ``samples``, and their losses: the mean of each (Inoue 2019)."""
    drawn = [make_logits() for _ in range(samples)]
    losses = [make_loss(logits) for logits in drawn]
    return (drawn[0], losses[0]) if samples == 1 else (torch.stack(drawn).mean(dim=0), torch.stack(losses).mean())
