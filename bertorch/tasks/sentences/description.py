"""What ``bertorch.json`` says about a sentence encoder."""

from dataclasses import dataclass
from pathlib import Path

from bertorch.errors import UserError
from bertorch.heads.pooling import POOLING_MODES
from bertorch.tasks import description as task
from bertorch.tasks.description import COUNT, NAMES, TRUE_OR_FALSE, check_labels, one_of, or_null, value
from bertorch.tasks.sentences.pair import OBJECTIVES


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A sentence encoder, perhaps with a classifier of pairs on top.

    Attributes:
        pooling_mode: how states become a vector; None if another tool's files say it.
        objective: what pairs were trained for; None for in-batch negatives.
        labels, concat_multiply: of the classifier of pairs, for the objective ``softmax``.
        whiten_components: width of the vectors, if ``scripts/whiten.py`` made the last layer.
    """

    task = "sentence_vectors"
    marker = "modules.json"  # of sentence-transformers
    original_figures = {"spearman corr": ("spearman", 4), "pearson corr": ("pearson", 4)}
    pooling_mode: str | None = value(or_null(one_of(POOLING_MODES)), default=None)
    objective: str | None = value(or_null(one_of(OBJECTIVES)), default=None)
    labels: list[str] | None = value(or_null(NAMES), default=None)
    concat_multiply: bool | None = value(or_null(TRUE_OR_FALSE), default=None)
    whiten_components: int | None = value(or_null(COUNT), default=None)

    @property
    def has_classes(self) -> bool:
        """Whether pairs have classes, not only cosines."""
        return self.objective == "softmax" and self.labels is not None

    def check(self) -> None:
        if self.has_classes and self.concat_multiply is None:
            raise UserError("concat_multiply is missing; use the directory as training saved it")

    def check_size(self, directory: Path) -> None:
        if self.labels is not None:
            check_labels(directory, self.labels)
