"""The flags of run_choice.py."""

from bertorch.tasks.choice.scores import METRICS
from bertorch.training.arguments import ArgumentParser, whole_number

MAX_QA_LENGTH = 128  # as in the recipes of XLNet and ALBERT for RACE


def add_choice_arguments(parser: ArgumentParser) -> None:
    """The flags of the task."""
    parser.set_defaults(max_seq_length=512)
    task = parser.add_argument_group("choice")
    task.add_argument(
        "--max_qa_length", type=whole_number, default=MAX_QA_LENGTH,
        help="longest question with an option, in tokens; a longer one loses its beginning, and the passage has the rest of "
        "--max_seq_length",
    )  # fmt: skip
    task.add_argument("--metric", choices=METRICS, default="accuracy", help="which metric decides the best model")
