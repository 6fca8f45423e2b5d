"""What ``bertorch.json`` says about a model that chooses between options."""

from dataclasses import dataclass

from bertorch.tasks import description as task
from bertorch.tasks.choice.arguments import MAX_QA_LENGTH
from bertorch.tasks.description import COUNT, value


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A chooser.

    Attributes:
        max_qa_length: longest question with an option, in tokens.
    """

    task = "choice"
    architectures = ("ForMultipleChoice",)
    max_qa_length: int = value(COUNT, default=MAX_QA_LENGTH)
