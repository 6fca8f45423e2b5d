"""What ``bertorch.json`` says of a model that answers questions."""

from dataclasses import dataclass

from bertorch.tasks import description as task
from bertorch.tasks.description import COUNT, NUMBER, STRIDE, one_of, value
from bertorch.tasks.reading.rows import ANSWER_TYPES
from bertorch.tasks.reading.scores import SCORERS


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A reader of passages.

    Attributes:
        answer_types: what answers there may be, a key of ``ANSWER_TYPES``.
        scorer: whose EM and F1 it was trained for.
        null_score_diff_threshold: a question has no answer where that scores so much higher than the best one.
        doc_stride: tokens that neighbouring windows of a passage share.
        max_query_length: most tokens of a question.
        max_answer_length: most tokens of an answer.
        n_best_size: how many answers of a window are looked at.
    """

    task = "reading"
    architectures = ("ForQuestionAnswering",)
    answer_types: str = value(one_of(tuple(ANSWER_TYPES)))
    scorer: str = value(one_of(tuple(SCORERS)))
    null_score_diff_threshold: float = value(NUMBER)
    doc_stride: int = value(STRIDE)
    max_query_length: int = value(COUNT)
    max_answer_length: int = value(COUNT)
    n_best_size: int = value(COUNT)

    @classmethod
    def of_transformers(cls) -> "Description":
        """That of a question answering model of transformers, by the habits of its recipes."""
        return cls(
            answer_types="span", scorer="squad", null_score_diff_threshold=0.0, doc_stride=128,
            max_query_length=64, max_answer_length=90, n_best_size=20,
        )  # fmt: skip
