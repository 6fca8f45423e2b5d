"""What ``bertorch.json`` says about a language model."""

from dataclasses import dataclass

from bertorch.tasks import description as task
from bertorch.tasks.description import NAMES, value


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A masked language model.

    Attributes:
        objectives: ``mlm``, optionally with ``sop`` or ``nsp``.
    """

    task = "language_model"
    architectures = ("ForMaskedLM", "ForPreTraining")
    objectives: list[str] = value(NAMES)
