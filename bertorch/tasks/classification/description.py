"""What ``bertorch.json`` says of a classifier."""

from dataclasses import dataclass
from pathlib import Path

from bertorch.errors import UserError
from bertorch.heads.pooling import POOLING_MODES
from bertorch.tasks import description as task
from bertorch.tasks.description import NAMES, TRUE_OR_FALSE, check_labels, config_labels, config_of, one_of, value


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A classifier of texts or text pairs.

    Attributes:
        labels: the labels, in the order of the logits.
        is_text_pair: rows hold two texts.
        pooling_mode: what is classified.
    """

    task = "classification"
    architectures = ("ForSequenceClassification",)
    labels: list[str] = value(NAMES)
    is_text_pair: bool = value(TRUE_OR_FALSE, default=False)
    pooling_mode: str = value(one_of(POOLING_MODES), default="linear")

    def check_size(self, directory: Path) -> None:
        check_labels(directory, self.labels)

    @classmethod
    def of_transformers(cls, directory: Path, labels: list[str] | None = None) -> "Description":
        """That of a sequence classifier of transformers; ``labels`` in place of those that it names.

        Raises:
            UserError: it names no labels, or its outputs are not the scores of labels that exclude each other.
        """
        labels = labels or config_labels(directory)
        kind = config_of(directory).get("problem_type")
        what = "it has one label, and gives a score" if len(labels) == 1 else None
        if kind == "regression":
            what = what or "its problem_type is regression, and it gives scores"
        elif kind == "multi_label_classification":
            what = what or f"its problem_type is {kind}: a text may have several of its labels, or none"
        if what is not None:
            raise UserError(f"{directory}: {what}; predict.py gives one label per row; use transformers for this model")
        return cls(labels=labels)
