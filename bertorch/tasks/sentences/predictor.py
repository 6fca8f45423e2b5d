"""Predict with a trained sentence encoder."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger

from bertorch.copies import Fetch, to_device
from bertorch.data.rows import Row
from bertorch.data.tokenizing import Samples, TextTokenizer, tokenize
from bertorch.errors import UserError
from bertorch.tasks.classification.targets import OneLabel
from bertorch.tasks.prediction import rows_of, text_tokenizer
from bertorch.tasks.sentences.description import Description
from bertorch.tasks.sentences.directory import load_sentence_encoder, plain_sentence_encoder, transformer_directory
from bertorch.tasks.sentences.encoder import SentenceEncoder
from bertorch.tasks.sentences.pair import SentencePair, trained_pair
from bertorch.tasks.sentences.scores import cosines
from bertorch.training.checkpoints import read_description
from bertorch.training.inference import Compute


@dataclass
class Predictor:
    """A trained sentence encoder; see ``contract.Predictor``.

    Attributes:
        classifier: the classifier of pairs in training; None if there is none, or if ``directory`` holds it.
        directory: of a trained classifier of pairs, which is read on first use.
    """

    model: SentenceEncoder
    tokenizer: TextTokenizer
    description: Description
    compute: Compute
    classifier: SentencePair | None = None
    directory: Path | None = None

    @classmethod
    def open(
        cls,
        directory: str | Path,
        compute: Compute,
        pooling_mode: str | None = None,
        normalize: bool = False,
        weights: str | Path | None = None,
        max_seq_length: int | None = None,
        truncation: str | None = None,
    ) -> "Predictor":
        """See ``contract.Predictor``.

        Args:
            directory: saved by a run or by sentence-transformers; with ``pooling_mode``, any encoder.
            compute: how vectors are computed.
            pooling_mode: make vectors with a plain encoder.
            normalize: scale vectors to length 1, whatever the directory says.
            weights: a file with the trained weights, for ``pooling_mode``.
            max_seq_length, truncation: replace those of training.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        directory = Path(directory)
        description, in_parts = Description.read(directory), (directory / Description.marker).is_file()
        length = None
        if in_parts and pooling_mode is None and weights is None:
            sentence, length = load_sentence_encoder(directory)
        else:
            if pooling_mode is None and (in_parts or description is not None):
                raise UserError(
                    "--init_from_ckpt gives an encoder; choose how to make its vectors, such as --pooling_mode mean"
                )
            if pooling_mode is None:
                pooling_mode = "linear"
                logger.info(f"{weights or directory}: of the original bertorch; --pooling_mode linear, its default")
            sentence = plain_sentence_encoder(directory, pooling_mode, weights)
            trained = read_description(directory) or {}  # perhaps a language model's
            kept = ("max_seq_length", "truncation", "chinese", "max_part_lengths")
            lengths = {name: trained[name] for name in kept if name in trained}
            description = Description(pooling_mode=pooling_mode, **lengths)
        sentence.normalize = sentence.normalize or normalize
        description = description or Description()
        tokenizer = text_tokenizer(transformer_directory(directory), description, max_seq_length, truncation, length)
        return cls(sentence.to(compute.device), tokenizer, description, compute, directory=directory)

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return self.model.output_size

    @cached_property
    def pair(self) -> SentencePair:
        """The classifier of pairs.

        Raises:
            UserError: it is missing or does not fit.
        """
        if self.classifier is not None:
            return self.classifier
        labels, concat_multiply = self.description.labels, self.description.concat_multiply
        return trained_pair(self.model, self.directory, len(labels), concat_multiply).to(self.compute.device)

    def __call__(self, rows: Sequence[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """The ``vector`` of each text; or the ``similarity``, or ``label`` and ``probabilities``, of each pair.

        Texts and pairs cannot be mixed. A row with a blank text gets None.
        """
        read, pairs = rows_of(rows), bool(rows) and not isinstance(rows[0], str)
        name = ("label" if self.description.has_classes else "similarity") if pairs else "vector"
        answers = iter(self._answers(self.pair_samples(read), pairs) if any(row.texts for row in read) else ())
        return [next(answers) if row.texts else {name: None} for row in read]

    def _answers(self, samples: Samples, pairs: bool) -> Iterable[dict[str, Any]]:
        if not pairs:
            return ({"vector": vector.tolist()} for vector in self.vectors(samples))
        u, v = self.pair_vectors(samples)
        if self.description.has_classes:
            return OneLabel(self.description.labels).answers(self.logits(u, v))
        return ({"similarity": float(cosine)} for cosine in cosines(u, v))

    def samples(self, texts: Iterable[str]) -> Samples:
        """Token ids of texts."""
        return tokenize(((line, (text,), -1) for line, text in enumerate(texts, 1)), self.tokenizer)

    def pair_samples(self, rows: list[Row]) -> Samples:
        """Token ids of the rows that have texts; each text is its own sequence."""
        return tokenize(((row.line, row.texts, -1) for row in rows if row.texts), self.tokenizer, separate=True)

    def vectors(self, samples: Samples) -> np.ndarray:
        """The vector of every sequence, on every rank: float32 ``[sequences, width]``."""
        return self.compute.of_sequences(self.model, self.model, samples)

    def pair_vectors(self, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the first two sequences of each row, on every rank: float32 ``[rows, width]`` twice."""
        vectors, first = self.vectors(samples), samples.row_starts[:-1]
        return vectors[first], vectors[first + 1]

    def cosines(self, samples: Samples) -> np.ndarray:
        """The cosine between the first two sequences of each row, on every rank: float64 ``[rows]``."""
        return cosines(*self.pair_vectors(samples))

    @torch.no_grad()
    def logits(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The class logits of pairs of vectors ``[rows, width]``: float32 ``[rows, num_labels]``."""
        self.pair.eval()
        sides = (to_device(torch.from_numpy(side), self.compute.device) for side in (u, v))
        return Fetch(self.pair.logits(*sides)).arrays()[0]
