"""Prediction with a trained chooser."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertorch.data.tokenizing import Samples, tokenize
from bertorch.tasks.choice.description import Description
from bertorch.tasks.choice.head import Chooser, load_trained_chooser
from bertorch.tasks.choice.rows import ChoiceRow, ChoiceTokenizer
from bertorch.tasks.choice.scores import probabilities_of
from bertorch.tasks.prediction import text_tokenizer
from bertorch.training.inference import Compute


@dataclass
class Predictor:
    """A trained model that chooses between options; see ``contract.Predictor``."""

    model: Chooser
    tokenizer: ChoiceTokenizer
    description: Description
    compute: Compute

    @classmethod
    def open(
        cls,
        directory: str | Path,
        compute: Compute,
        weights: str | Path | None = None,
        max_seq_length: int | None = None,
        max_qa_length: int | None = None,
    ) -> "Predictor":
        """See ``contract.Predictor``.

        Args:
            directory: that of a run, or of a multiple-choice model of transformers.
            compute: how answers are computed.
            weights: a file with the trained weights, if the directory has none.
            max_seq_length, max_qa_length: replace those of training.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        directory = Path(directory)
        described = Description.read(directory)
        description = described or Description()
        model = load_trained_chooser(directory, weights).to(compute.device)
        texts = text_tokenizer(directory, description, max_seq_length)
        # another tool's model may be too short for the usual length
        asked = max_qa_length or (
            description.max_qa_length if described else min(description.max_qa_length, texts.max_seq_length // 2)
        )
        return cls(model, ChoiceTokenizer(texts, asked), description, compute)

    def __call__(self, rows: Sequence[tuple[str, str, Sequence[str]]]) -> list[dict[str, Any]]:
        """``label`` (the option's place, from 0), ``answer`` (its text) and ``probabilities`` of the options, for each
        ``(passage, question, options)``; all None where passage and question, or an option, are blank.
        """
        return self.answers([_row_of(line, *row) for line, row in enumerate(rows, 1)])

    def answers(self, rows: Sequence[ChoiceRow]) -> list[dict[str, Any]]:
        """The same for rows that are read; all None for one without options."""
        usable = [row for row in rows if row.options]
        shares = iter(self.probabilities(self.samples(usable)) if usable else ())
        return [
            _answer(row, next(shares)) if row.options else dict.fromkeys(("label", "answer", "probabilities"))
            for row in rows
        ]

    def samples(self, rows: Sequence[ChoiceRow]) -> Samples:
        """A sequence for each option."""
        return tokenize(((row.line, row.texts, -1) for row in rows), self.tokenizer, separate=True)

    def probabilities(self, samples: Samples) -> list[np.ndarray]:
        """The probabilities of each row's options, on every rank: float64 ``[options]`` each."""
        scores = self.compute.of_sequences(self.model, self.model.scores, samples)
        return probabilities_of(scores[:, 0], samples.row_starts)


def _row_of(line: int, context: str, question: str, options: Sequence[str]) -> ChoiceRow:
    usable = (context + question).strip() and len(options) > 1 and all(map(str.strip, options))
    return ChoiceRow(line, (context.strip(),), question.strip(), [option.strip() for option in options] if usable else [])


def _answer(row: ChoiceRow, shares: np.ndarray) -> dict[str, Any]:
    place = int(shares.argmax())
    return {"label": place, "answer": row.options[place], "probabilities": shares.tolist()}
