"""What ``bertorch.json`` says of a language model."""

from dataclasses import dataclass

from bertorch.tasks import description as task
from bertorch.tasks.description import NAMES, value


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A model of masked tokens.

    Attributes:
        objectives: ``mlm``, perhaps with ``sop`` or ``nsp``.
    """

    task = "language_model"
    architectures = ("ForMaskedLM", "ForPreTraining")
    objectives: list[str] = value(NAMES)
