"""What ``bertorch.json`` says about a model that answers questions."""

from dataclasses import dataclass

from bertorch.tasks import description as task
from bertorch.tasks.description import COUNT, NUMBER, STRIDE, one_of, value
from bertorch.tasks.reading.rows import ANSWER_TYPES
from bertorch.tasks.reading.scores import SCORERS


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A reader of passages.

    Attributes:
        answer_types: which answers are possible, a key of ``ANSWER_TYPES``.
        scorer: the scorer whose EM and F1 it was trained for.
        null_score_diff_threshold: give no answer if that scores higher than the best answer by more than this.
        doc_stride: tokens that neighbouring windows of a passage share.
        max_query_length: longest question, in tokens.
        max_answer_length: longest answer, in tokens.
        n_best_size: number of candidate answers per window.
    """

    task = "reading"
    architectures = ("ForQuestionAnswering", "ForQuestionAnsweringSimple")
    answer_types: str = value(one_of(tuple(ANSWER_TYPES)))
    scorer: str = value(one_of(tuple(SCORERS)))
    null_score_diff_threshold: float = value(NUMBER)
    doc_stride: int = value(STRIDE)
    max_query_length: int = value(COUNT)
    max_answer_length: int = value(COUNT)
    n_best_size: int = value(COUNT)

    @classmethod
    def of_transformers(cls) -> "Description":
        """Describe a question answering model of transformers, with the defaults of its recipes."""
        return cls(
            answer_types="span", scorer="squad", null_score_diff_threshold=0.0, doc_stride=128,
            max_query_length=64, max_answer_length=90, n_best_size=20,
        )  # fmt: skip
