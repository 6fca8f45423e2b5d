"""Predict with a trained classifier."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bertorch.data.rows import Row
from bertorch.data.tokenizing import Samples, TextTokenizer, tokenize
from bertorch.tasks.classification.description import Description
from bertorch.tasks.classification.head import Classifier, load_trained_classifier
from bertorch.tasks.classification.targets import TARGETS, Target
from bertorch.tasks.prediction import rows_of, text_tokenizer
from bertorch.training.inference import Compute


@dataclass
class Predictor:
    """A trained classifier; see ``contract.Predictor``."""

    model: Classifier
    tokenizer: TextTokenizer
    description: Description
    compute: Compute

    @property
    def target(self) -> Target:
        return TARGETS[self.description.target](self.description.labels, self.description.thresholds)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        compute: Compute,
        labels: list[str] | None = None,
        weights: str | Path | None = None,
        max_seq_length: int | None = None,
        truncation: str | None = None,
    ) -> "Predictor":
        """See ``contract.Predictor``.

        Args:
            directory: saved by a run, or a sequence classifier of transformers.
            compute: how answers are computed.
            labels: replace those that the directory names.
            weights: a file with the trained weights, if the directory has none.
            max_seq_length, truncation: replace those of training.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        directory = Path(directory)
        description = Description.read(directory) or Description.of_transformers(directory, labels)
        labels = labels or description.labels
        model = load_trained_classifier(directory, len(labels), description.pooling_mode, weights, **description.layers).to(
            compute.device
        )
        tokenizer = text_tokenizer(directory, description, max_seq_length, truncation)
        return cls(model, tokenizer, replace(description, labels=labels), compute)

    def __call__(self, rows: Sequence[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """``label`` or ``labels`` with ``probabilities``, or ``score``, of each text or pair; None for a blank one."""
        read = rows_of(rows)
        answers = iter(self.target.answers(self.logits(self.samples(read))) if any(row.texts for row in read) else ())
        return [next(answers) if row.texts else {self.target.key: None} for row in read]

    def samples(self, rows: list[Row]) -> Samples:
        """Token ids and targets of the rows that have texts."""
        return tokenize(((row.line, row.texts, self.target.read(row)) for row in rows if row.texts), self.tokenizer)

    def logits(self, samples: Samples) -> np.ndarray:
        """Label scores before softmax or sigmoid, on every rank: float32 ``[rows, num_labels]``."""
        return self.compute.of_sequences(self.model, self.model.logits, samples)
