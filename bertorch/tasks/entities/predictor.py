"""Prediction with a trained tagger or span scorer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertorch.data.tokenizing import TextTokenizer
from bertorch.tasks.entities.answers import Findings, in_characters, load_trained_entity_head, read_entities
from bertorch.tasks.entities.description import Description
from bertorch.tasks.entities.global_pointer import GlobalPointer
from bertorch.tasks.entities.head import Tagger
from bertorch.tasks.entities.rows import Document
from bertorch.tasks.entities.scores import Entity
from bertorch.tasks.entities.tags import TagSet
from bertorch.tasks.entities.windows import TaggedSamples, UnitTokenizer, Untagged, tag_documents
from bertorch.tasks.prediction import text_tokenizer
from bertorch.training.inference import Compute

_BLOCK = 512  # texts read at a time


@dataclass
class Answer:
    """The entities found in a text.

    Attributes:
        entities: type, start and end in characters.
        confidences: the probability of exactly each entity.
        readings: the likeliest readings of the text with their probabilities, if requested.
    """

    entities: list[Entity] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    readings: list[tuple[float, list[Entity]]] = field(default_factory=list)

    def as_json(self, text: str | None) -> dict[str, Any]:
        """``entities`` is null for a text that could not be used."""
        if text is None:
            return {"text": None, "entities": None}
        pairs = zip(listed(text, self.entities), self.confidences, strict=True)
        result = {"text": text, "entities": [{**one, "confidence": round(share, 6)} for one, share in pairs]}
        if self.readings:
            result["readings"] = [
                {"probability": round(share, 6), "entities": listed(text, found)} for share, found in self.readings
            ]
        return result


def listed(text: str, entities: list[Entity]) -> list[dict[str, Any]]:
    """Entities as json lines show them, each with its own text."""
    return [{"type": kind, "text": text[start:end], "start": start, "end": end} for kind, start, end in entities]


@dataclass
class Predictor:
    """A trained model that finds entities in texts of any length; see ``contract.Predictor``."""

    model: Tagger | GlobalPointer
    tokenizer: UnitTokenizer
    description: Description
    compute: Compute

    @classmethod
    def open(
        cls,
        directory: str | Path,
        compute: Compute,
        labels: list[str] | None = None,
        weights: str | Path | None = None,
        unit: str | None = None,
        doc_stride: int | None = None,
        max_seq_length: int | None = None,
    ) -> "Predictor":
        """See ``contract.Predictor``.

        Args:
            directory: that of a run, or of a token classifier of transformers.
            compute: the device and batches of computation.
            labels: the tags, if another tool's directory does not name them.
            weights: a file with the trained weights, if the directory has none.
            unit: what to divide plain texts into, ``character`` or ``word``.
            doc_stride: tokens that neighbouring windows share.
            max_seq_length: length of a window, in tokens.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        directory = Path(directory)
        description = Description.read(directory) or Description.of_transformers(directory, labels, weights)
        model = load_trained_entity_head(directory, description, weights).to(compute.device)
        texts: TextTokenizer = text_tokenizer(directory, description, max_seq_length)
        stride = description.doc_stride if doc_stride is None else doc_stride
        return cls(model, UnitTokenizer(texts, unit or description.unit, stride), description, compute)

    def __call__(self, rows: Sequence[str]) -> list[dict[str, Any]]:
        """The ``entities`` of each text: type, text, start and end in characters, confidence."""
        documents = [Document(line, text) for line, text in enumerate(rows, 1)]
        usable = [document for document in documents if document.text.strip()]
        answers = self.answers(usable) if usable else iter(())
        return [(next(answers) if document.text.strip() else Answer()).as_json(document.text) for document in documents]

    def find(self, samples: TaggedSamples, with_confidence: bool = False) -> Findings:
        """The entities of every row, in units, on every rank."""
        return read_entities(self.model, samples, self.compute, with_confidence)

    def samples(
        self,
        documents: list[Document],
        path: str = "<rows>",
        tag_set: TagSet | None = None,
        untagged: Untagged | None = None,
    ) -> TaggedSamples:
        """The windows of documents that all have texts; with their tags if ``tag_set`` is given. See ``tag_documents``."""
        return tag_documents(documents, self.tokenizer, self.description.types, tag_set, path, untagged=untagged)

    def answers(self, documents: list[Document], path: str = "<rows>", n_best: int = 0) -> Iterator[Answer]:
        """The answer for each document; all must have texts. A few hundred are read at a time."""
        for start in range(0, len(documents), _BLOCK):
            samples = self.samples(documents[start : start + _BLOCK], path)
            yield from self.answers_of(samples, self.find(samples, with_confidence=True), n_best)

    def answers_of(self, samples: TaggedSamples, found: Findings, n_best: int = 0) -> Iterator[Answer]:
        """``found`` as answers in characters; with ``n_best``, also the CRF's likeliest readings."""
        for row, spans in enumerate(found.spans):
            readings = self._readings(samples, found, row, n_best) if n_best else []
            yield Answer(in_characters(samples, row, spans), found.confidences[row], readings)

    def _readings(self, samples: TaggedSamples, found: Findings, row: int, n_best: int) -> list[tuple[float, list[Entity]]]:
        emissions = found.emissions[samples.unit_starts[row] : samples.unit_starts[row + 1]]
        paths, log_probabilities = self.model.crf.n_best(torch.from_numpy(emissions).to(self.compute.device), n_best)
        return [
            (float(probability), in_characters(samples, row, self.model.tag_set.strict(path)))
            for path, probability in zip(paths.tolist(), np.exp(log_probabilities.cpu().numpy()), strict=True)
        ]
