"""The flags of run_mrc.py."""

from bertorch.tasks.reading.rows import ANSWER_TYPES
from bertorch.tasks.reading.scores import METRICS, SCORERS
from bertorch.training.arguments import ArgumentParser, count, whole_number


def add_reading_arguments(parser: ArgumentParser) -> None:
    """The flags of the task."""
    parser.set_defaults(max_seq_length=512)
    task = parser.add_argument_group("reading")
    task.add_argument(
        "--answer_types", choices=ANSWER_TYPES, default=None, help="which answers are possible; default: those in the data"
    )
    task.add_argument("--doc_stride", type=count, default=128, help="tokens that neighbouring windows of a passage share")
    task.add_argument("--max_query_length", type=whole_number, default=64, help="longest question, in tokens")
    task.add_argument(
        "--max_answer_length", type=whole_number, default=90,
        help="longest answer, in tokens; 99%% of CMRC2018's training answers have 85 or fewer, English ones 30",
    )  # fmt: skip
    task.add_argument("--n_best_size", type=whole_number, default=20, help="candidate answers per window")
    task.add_argument(
        "--null_score_diff_threshold", type=float, default=None,
        help="give no answer if that scores this much higher than the best span; default: the best value on the "
        "development set",
    )  # fmt: skip
    task.add_argument(
        "--scorer", choices=SCORERS, default=None,
        help="whose EM and F1; default: cjrc if there are yes and no answers, cmrc for Chinese, else squad",
    )  # fmt: skip
    task.add_argument("--metric", choices=METRICS, default="f1", help="which metric decides the best model")
