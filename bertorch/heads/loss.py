"""What every head's ``forward`` returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Loss:
    """A sum and what it is summed over, so that ranks and accumulation steps of unequal size still average exactly.

    Attributes:
        total: the sum of the loss terms, a scalar with gradient.
        count: how many terms that is (samples for a classifier, tokens for a tagger).
        correct: how many answers were right, a scalar without gradient; None where a task has no such thing.
    """

    total: Tensor
    count: int
    correct: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        return self.total / self.count
