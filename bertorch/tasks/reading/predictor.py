"""Prediction with a trained reader."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertorch.tasks.prediction import text_tokenizer
from bertorch.tasks.reading.answers import Candidate, Reading, load_trained_reader, read_answers
from bertorch.tasks.reading.description import Description
from bertorch.tasks.reading.head import Reader
from bertorch.tasks.reading.rows import Question, ReadingSamples, ReadingTokenizer, window_questions
from bertorch.training.inference import Compute


@dataclass
class Predictor:
    """A trained model that answers questions from passages of any length; see ``contract.Predictor``."""

    model: Reader
    tokenizer: ReadingTokenizer
    description: Description
    compute: Compute

    @classmethod
    def open(
        cls,
        directory: str | Path,
        compute: Compute,
        weights: str | Path | None = None,
        null_score_diff_threshold: float | None = None,
        n_best_size: int = 0,
        doc_stride: int | None = None,
        max_seq_length: int | None = None,
    ) -> "Predictor":
        """See ``contract.Predictor``.

        Args:
            directory: that of a run, or of a question answering model of transformers.
            compute: the device and batches of computation.
            weights: a file with the trained weights, if the directory has none.
            null_score_diff_threshold: give no answer if that scores higher than the best answer by more than this.
            n_best_size: number of candidate answers per window, if more than in training.
            doc_stride: tokens that neighbouring windows share.
            max_seq_length: length of a window, in tokens.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        directory = Path(directory)
        described = Description.read(directory) or Description.of_transformers()
        threshold = null_score_diff_threshold
        description = replace(
            described,
            n_best_size=max(described.n_best_size, n_best_size),
            doc_stride=described.doc_stride if doc_stride is None else doc_stride,
            null_score_diff_threshold=described.null_score_diff_threshold if threshold is None else threshold,
        )
        model = load_trained_reader(directory, description, weights).to(compute.device)
        texts = text_tokenizer(directory, description, max_seq_length)
        tokenizer = ReadingTokenizer(texts, description.max_query_length, description.doc_stride)
        return cls(model, tokenizer, description, compute)

    def __call__(self, rows: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """The best answer to each ``(question, passage)``: its text, kind, probability, and place in the passage."""
        questions = [Question(line, str(line), text, context, []) for line, (text, context) in enumerate(rows, 1)]
        if not questions:
            return []
        readings, _ = self.read(self.samples(questions), questions)
        return [self.answer(reading) for reading in readings]

    def samples(self, questions: list[Question]) -> ReadingSamples:
        """The windows of questions."""
        return window_questions(questions, self.tokenizer)

    def read(self, samples: ReadingSamples, questions: Sequence[Question]) -> tuple[list[Reading], float]:
        """Read the answers to each question, and the mean loss over windows with known answers, on every rank."""
        return read_answers(self.model, samples, questions, self.description, self.compute)

    def answer(self, reading: Reading, n_best: int = 0) -> dict[str, Any]:
        """The best answer, and the ``n_best`` likeliest, as json; ``start`` and ``end`` are null unless it is a span."""
        best, listed = reading.answer(self.description.null_score_diff_threshold), reading.probabilities()
        result = _as_json(best, next((share for candidate, share in listed if candidate == best), 1.0))
        if n_best:
            result["n_best"] = [_as_json(candidate, share) for candidate, share in listed[:n_best]]
        return result


def _as_json(candidate: Candidate, share: float) -> dict[str, Any]:
    place = {"start": candidate.start, "end": candidate.end} if candidate.kind == "span" else {"start": None, "end": None}
    return {"answer": candidate.text, "kind": candidate.kind, "probability": round(share, 6), **place}
