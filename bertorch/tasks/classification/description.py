"""What ``bertorch.json`` says about a classifier."""

from dataclasses import dataclass
from pathlib import Path

from bertorch.encoder.config import ACTIVATIONS, load_config
from bertorch.errors import UserError
from bertorch.heads.pooling import POOLING_MODES
from bertorch.memory import check_memory
from bertorch.tasks import description as task
from bertorch.tasks.classification.targets import TARGETS
from bertorch.tasks.description import (
    COUNT,
    NAMES,
    SHARES,
    TRUE_OR_FALSE,
    check_labels,
    config_labels,
    config_of,
    one_of,
    or_null,
    value,
)


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A classifier of texts or text pairs.

    Attributes:
        labels: the labels, in the order of the logits.
        is_text_pair: rows hold two texts.
        pooling_mode, pooling_layers: what is classified.
        head_layers, head_activation: how; None means one layer.
        target: one label, several labels, or a score, under the names of ``--target``.
        thresholds: for several labels, the lowest probability at which a row has each; None means 0.5.
    """

    task = "classification"
    architectures = ("ForSequenceClassification",)
    labels: list[str] = value(NAMES)
    is_text_pair: bool = value(TRUE_OR_FALSE, default=False)
    pooling_mode: str = value(one_of(POOLING_MODES), default="linear")
    pooling_layers: int | None = value(or_null(COUNT), default=None)
    head_layers: int | None = value(or_null(COUNT), default=None)
    head_activation: str | None = value(or_null(one_of(ACTIVATIONS)), default=None)
    target: str = value(one_of(tuple(TARGETS)), default="label")
    thresholds: list[float] | None = value(or_null(SHARES), default=None)

    @property
    def layers(self) -> dict[str, int | str]:
        """What ``Classifier`` takes besides the pooling mode."""
        given = {name: getattr(self, name) for name in ("pooling_layers", "head_layers", "head_activation")}
        return {name: found for name, found in given.items() if found is not None}

    def check(self) -> None:
        if self.thresholds is not None and len(self.thresholds) != len(self.labels):
            raise UserError(f"{len(self.thresholds)} thresholds for {len(self.labels)} labels")

    def check_size(self, directory: Path) -> None:
        check_labels(directory, self.labels)
        if self.head_layers is not None:
            size = 4 * self.head_layers * load_config(directory).hidden_size ** 2
            check_memory(directory, f"a head of {self.head_layers} layers", size)

    @classmethod
    def of_transformers(cls, directory: Path, labels: list[str] | None = None) -> "Description":
        """The description of a sequence classifier of transformers; ``labels`` replace those that it names.

        Its ``problem_type`` decides the target; without one, a single label is a score, as in transformers.

        Raises:
            UserError: it names no labels, or predicts several scores.
        """
        labels = labels or config_labels(directory)
        kind = config_of(directory).get("problem_type")
        if kind == "multi_label_classification":
            return cls(labels=labels, target="labels")
        if kind == "regression" and len(labels) > 1:
            raise UserError(
                f"{directory}: its problem_type is regression, and it gives {len(labels)} scores; predict.py gives one "
                "score per row; use transformers for this model"
            )
        return cls(labels=labels, target="score" if len(labels) == 1 else "label")
