"""A reader's answers to questions, joined over the windows of a passage, and their scores."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loguru import logger
from scipy.special import softmax
from torch import Tensor

from bertorch.encoder import TokenBatch
from bertorch.heads.loading import load_head, load_trained_head
from bertorch.tasks.reading.description import Description
from bertorch.tasks.reading.head import Reader
from bertorch.tasks.reading.rows import ANSWER_TYPES, Question, ReadingSamples, targets_of
from bertorch.tasks.reading.scores import SCORERS, best_null_threshold, reading_metrics
from bertorch.training.inference import Compute
from bertorch.writing import write_whole


@dataclass
class Candidate:
    """A possible answer to a question.

    Attributes:
        kind: ``span``, ``none``, ``yes`` or ``no``.
        text: as in a prediction file: a part of the passage, ``""``, ``YES`` or ``NO``.
        start, end: where it stands in the passage, in characters, end exclusive; -1 for other kinds.
        score: the sum of its scores as first and as last token.
    """

    kind: str
    text: str
    start: int
    end: int
    score: float


@dataclass
class Reading:
    """A reader's candidate answers to a question.

    Attributes:
        candidates: answers, the best first; empty if the passage is blank.
        null_score: the score of "no answer"; -inf for a model that always answers.
    """

    candidates: list[Candidate]
    null_score: float

    @property
    def difference(self) -> float:
        """The score of no answer minus that of the best answer."""
        return self.null_score - self.candidates[0].score if self.candidates else np.inf

    def answer(self, threshold: float) -> Candidate:
        """The best answer, or no answer if ``difference`` is above ``threshold``."""
        if not self.candidates or self.difference > threshold:
            return _no_answer(self.null_score)
        return self.candidates[0]

    def probabilities(self) -> list[tuple[Candidate, float]]:
        """All candidates with their softmax probabilities, including no answer if the model can give it."""
        listed = [*self.candidates, *([_no_answer(self.null_score)] if np.isfinite(self.null_score) else [])]
        listed.sort(key=lambda candidate: -candidate.score)
        shares = softmax([candidate.score for candidate in listed]) if listed else []
        return list(zip(listed, map(float, shares), strict=True))


def _no_answer(score: float) -> Candidate:
    return Candidate("none", "", -1, -1, score)


def _reader(description: Description):
    return lambda encoder: Reader(encoder, with_yes_no="yes" in ANSWER_TYPES[description.answer_types])


def load_reader(directory: str | Path, description: Description, init_from_ckpt: str | Path | None = None) -> Reader:
    """Load the reader that ``description`` (from ``bertorch.json``) describes, for training; see ``load_head``."""
    return load_head(directory, _reader(description), init_from_ckpt)


def load_trained_reader(directory: str | Path, description: Description, weights: str | Path | None = None) -> Reader:
    """Load the same reader for prediction; see ``load_trained_head``."""
    return load_trained_head(directory, _reader(description), weights)


def read_answers(
    model: Reader,
    samples: ReadingSamples,
    questions: Sequence[Question],
    description: Description,
    compute: Compute,
) -> tuple[list[Reading], float]:
    """Read the answers to each question, and the mean loss over windows with known answers (else nan), on every rank.

    The windows of a passage are joined by score: the best spans of all windows, and for no answer the lowest score of any
    window, as in BERT's recipe for SQuAD.

    Args:
        model: in evaluation mode.
        samples: the windows of ``questions``.
        questions: the questions.
        description: the model's description.
        compute: the device and batches of computation.
    """
    n_best, longest = description.n_best_size, description.max_answer_length

    def of_batch(tokens: TokenBatch, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        logits = model.logits(tokens).float()
        return logits, model.loss(logits, targets_of(samples, tokens, rows).to(compute.device)).total

    def read(logits: np.ndarray, loss: np.ndarray, lengths: list[int], rows: np.ndarray) -> tuple[list[tuple], float]:
        bounds = np.cumsum([0, *lengths])
        values = logits.astype(np.float64)
        windows = (values[start:end] for start, end in zip(bounds, bounds[1:], strict=False))
        found = [_window(samples, row, window, n_best, longest) for row, window in zip(rows, windows, strict=True)]
        return found, float(loss)

    parts = sorted(compute.batches(model, of_batch, samples, read), key=lambda part: part[0][0])
    types = ANSWER_TYPES[description.answer_types]
    of_question: list[list[tuple]] = [[] for _ in questions]
    for rows, (windows, _) in parts:
        for row, window in zip(rows, windows, strict=True):
            of_question[samples.questions[row]].append(window)
    readings = [_joined(question, windows, types, n_best) for question, windows in zip(questions, of_question, strict=True)]
    known = known_windows(samples, description)
    return readings, sum(loss for _, (_, loss) in parts) / known if known else np.nan


def known_windows(samples: ReadingSamples, description: Description) -> int:
    """The number of windows with known answers, which the loss of ``read_answers`` is the mean over."""
    classes = samples.lengths + (2 if "yes" in ANSWER_TYPES[description.answer_types] else 0)
    return int(((samples.starts >= 0) & (samples.starts < classes)).sum())


def _window(
    samples: ReadingSamples, row: int, logits: np.ndarray, n_best: int, longest: int
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Score of no answer, scores of yes and no, scores of the best spans, and their characters ``[spans, 2]``."""
    first = samples.context_starts[row]
    offsets = samples.token_offsets[samples.offsets[row] : samples.offsets[row + 1]]
    end = first + int((offsets[first:, 0] >= 0).sum())  # the passage's tokens lie together
    size = end - first
    null, others = float(logits[0, :2].sum()), 2 * logits[0, 2:]
    if not size:
        return null, others, np.zeros(0), np.zeros((0, 2), dtype=np.int64)
    width = min(longest, size)
    ends = np.concatenate([logits[first:end, 1], np.full(width - 1, -np.inf)])
    scores = logits[first:end, :1] + np.lib.stride_tricks.sliding_window_view(
        ends, width
    )  # [size, width]: start, length - 1
    flat = scores.ravel()
    best = np.argpartition(-flat, min(n_best, flat.size) - 1)[:n_best]
    best = best[np.isfinite(flat[best])]
    starts = first + best // width
    characters = np.stack([offsets[starts, 0], offsets[starts + best % width, 1]], axis=1)
    return null, others, flat[best], characters


def _joined(question: Question, windows: list[tuple], types: Sequence[str], n_best: int) -> Reading:
    null = min(null for null, _, _, _ in windows) if "none" in types else -np.inf
    if not question.context.strip():
        return Reading([], null)
    found: dict[tuple[int, int], float] = {}
    for _, _, scores, characters in windows:
        for score, (start, end) in zip(scores.tolist(), characters.tolist(), strict=True):
            found[start, end] = max(score, found.get((start, end), -np.inf))
    candidates = [Candidate("span", question.context[start:end], start, end, score) for (start, end), score in found.items()]
    if "yes" in types:
        for place, kind in enumerate(("yes", "no")):
            best = max(float(others[place]) for _, others, _, _ in windows)
            candidates.append(Candidate(kind, kind.upper(), -1, -1, best))
    candidates.sort(key=lambda candidate: (-candidate.score, candidate.start, candidate.end))
    return Reading(candidates[:n_best], null)


def score_readings(
    readings: Sequence[Reading], questions: Sequence[Question], scorer: str, threshold: float | None = None
) -> tuple[dict[str, float], float]:
    """The metrics of readings, and the threshold used: the given one, or for None the one with the best F1.

    Args:
        readings: the model's candidate answers.
        questions: the questions, with their answers.
        scorer: a key of ``SCORERS``.
        threshold: a question gets no answer if its reading's ``difference`` is above it.
    """
    references = [question.answers for question in questions]
    kinds = [question.kind for question in questions]
    if threshold is None:
        threshold = 0.0
        if any(np.isfinite(reading.null_score) for reading in readings):
            score = SCORERS[scorer]
            best = [
                score(reading.candidates[0].text if reading.candidates else "", known)[1]
                for reading, known in zip(readings, references, strict=True)
            ]
            none = [score("", known)[1] for known in references]
            threshold, _ = best_null_threshold([reading.difference for reading in readings], best, none)
    predictions = [reading.answer(threshold).text for reading in readings]
    return reading_metrics(scorer, predictions, references, kinds), threshold


def write_submission(
    path: str | Path, readings: Sequence[Reading], questions: Sequence[Question], threshold: float, compute: Compute
) -> None:
    """Write ``{id: answer}``, the file that the official scorers read."""
    if compute.processes.is_main:
        content = {
            question.id: reading.answer(threshold).text for question, reading in zip(questions, readings, strict=True)
        }
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        write_whole(Path(path), lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
        logger.info(f"{len(content)} answers in {path}")
