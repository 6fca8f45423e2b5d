"""Entities that a head finds in whole texts, however many windows they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from bertorch.copies import Fetch, to_device
from bertorch.encoder import Encoder, TokenBatch
from bertorch.heads.loading import load_head, load_trained_head
from bertorch.tasks.entities.batching import span_batch
from bertorch.tasks.entities.description import Description
from bertorch.tasks.entities.global_pointer import GlobalPointer
from bertorch.tasks.entities.head import Tagger
from bertorch.tasks.entities.scores import Counts, Entity, add_counts, count_entities, count_scores, count_table
from bertorch.tasks.entities.tags import Span, TagSet
from bertorch.tasks.entities.windows import TaggedSamples
from bertorch.training.inference import Compute
from bertorch.training.process_group import Processes

_DECODED = 64  # texts decoded at a time


@dataclass
class Findings:
    """What a head finds in each row of its samples.

    Attributes:
        spans: (type, first unit, unit after the last) of each row's entities, by start; read strictly by the scheme.
        confidences: the probability of each span; empty unless requested.
        lenient: the spans as conlleval reads the tags; None for a head without tags.
        loss: as in training, averaged over all places (a tagger) or over windows and types (spans); None without tags.
        terms: how many of these there are.
        emissions: tag scores of each unit, float32 ``[total_units, num_tags]``; None for a head without tags.
    """

    spans: list[list[Span]]
    confidences: list[list[float]]
    lenient: list[list[Span]] | None
    loss: float | None
    emissions: np.ndarray | None = None
    terms: int = 0


def _entity_head(encoder: Encoder, description: Description) -> Tagger | GlobalPointer:
    if description.scores_spans:
        return GlobalPointer(encoder, description.types)
    tag_set = TagSet(description.labels, description.tag)
    return Tagger(encoder, tag_set, description.ner_head == "crf", description.crf_constraints)


def load_entity_head(
    directory: str | Path, description: Description, init_from_ckpt: str | Path | None = None
) -> Tagger | GlobalPointer:
    """Load the head that ``description`` (from ``bertorch.json``) describes, for training; see ``load_head``."""
    return load_head(
        directory, lambda encoder: _entity_head(encoder, description), init_from_ckpt, labels=description.labels
    )


def load_trained_entity_head(
    directory: str | Path, description: Description, weights: str | Path | None = None
) -> Tagger | GlobalPointer:
    """Load the same head for prediction; see ``load_trained_head``."""
    return load_trained_head(directory, lambda encoder: _entity_head(encoder, description), weights)


def read_entities(
    model: Tagger | GlobalPointer,
    samples: TaggedSamples,
    compute: Compute,
    with_confidence: bool = False,
) -> Findings:
    """Find the entities of every row. Ranks share the work; all get the result, which does not depend on their number."""
    if isinstance(model, GlobalPointer):
        return _read_spans(model, samples, compute)
    emissions = compute.of_tokens(model, model.logits, samples)[samples.unit_tokens]
    processes = compute.processes
    order = np.argsort(-samples.unit_counts, kind="stable")
    blocks = [order[start : start + _DECODED] for start in range(0, len(order), _DECODED)]
    mine = [
        _decode(model, samples, emissions, rows, with_confidence, processes)
        for rows in blocks[processes.rank :: processes.world_size]
    ]
    parts = [part for of_rank in processes.gather(mine) for part in of_rank]
    reading = Findings([[]] * len(samples), [[]] * len(samples), [[]] * len(samples), None, emissions)
    for rows, spans, lenient, confidences, _ in parts:
        for row, *found in zip(rows, spans, lenient, confidences, strict=True):
            reading.spans[row], reading.lenient[row], reading.confidences[row] = found
    if samples.tags[0] >= 0:
        losses = {int(rows[0]): loss for rows, _, _, _, loss in parts}
        in_order = [losses[int(rows[0])] for rows in blocks]  # the same on any number of ranks
        reading.loss, reading.terms = sum(in_order) / len(samples.tags), len(samples.tags)
    return reading


@torch.no_grad()
def _decode(
    model: Tagger,
    samples: TaggedSamples,
    emissions: np.ndarray,
    rows: np.ndarray,
    with_confidence: bool,
    processes: Processes,
) -> tuple[np.ndarray, list[list[Span]], list[list[Span]], list[list[float]], float]:
    """Decode rows; return them, their strict and lenient spans, confidences, and the summed loss."""
    places = [slice(samples.unit_starts[row], samples.unit_starts[row + 1]) for row in rows]
    lengths = [place.stop - place.start for place in places]
    scores, gold = (
        to_device(torch.from_numpy(np.concatenate([values[place] for place in places])), processes.device)
        for values in (emissions, samples.tags)
    )
    loss = model.loss(scores, gold, lengths) if samples.tags[0] >= 0 else torch.zeros(())
    decoded, loss = Fetch(model.decode(scores, lengths), loss).arrays()
    tags = [part.tolist() for part in np.split(decoded, np.cumsum(lengths)[:-1])]
    spans = [model.tag_set.strict(one) for one in tags]
    confidences = [[] for _ in rows]
    if with_confidence:
        confidences = [model.confidence(*of_row) for of_row in zip(scores.split(lengths), tags, spans, strict=True)]
    return rows, spans, [model.tag_set.lenient(one) for one in tags], confidences, float(loss)


def _read_spans(model: GlobalPointer, samples: TaggedSamples, compute: Compute) -> Findings:
    def spans_above_zero(tokens: TokenBatch, sequences: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        batch = span_batch(samples, tokens, sequences).to(compute.device)
        scores: Tensor = model.scores(tokens, batch.places, batch.lengths)
        above = (scores > 0).nonzero()  # on a GPU the host waits here: only the scores say how many there are
        return above, scores[tuple(above.t())], model.loss(scores, batch.spans).total

    def read(
        above: np.ndarray, scores: np.ndarray, loss: np.ndarray, _: list[int], sequences: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float, int]:
        return above, scores, float(loss), len(sequences) * len(model.types)

    parts = compute.batches(model, spans_above_zero, samples, read)
    parts.sort(key=lambda part: part[0][0])
    found: list[dict[Span, float]] = [{} for _ in range(len(samples))]
    bounds_of = cache(lambda row: _bounds(samples, row))  # once per text, however many spans it has
    for sequences, (above, scores, _, _) in parts:
        rows = np.searchsorted(samples.row_starts, sequences, side="right") - 1
        for (window, kind, first, last), score in zip(above.tolist(), scores.tolist(), strict=True):
            row = int(rows[window])
            own, bounds = sequences[window] - samples.row_starts[row], bounds_of(row)
            begin = bounds[own][0]
            span = (model.types[kind], begin + first, begin + last + 1)
            if _deciding_window(bounds, span) == own:
                found[row][span] = float(expit(score))
    spans = [sorted(of_row, key=lambda span: (span[1], -span[2], span[0])) for of_row in found]
    confidences = [[of_row[span] for span in listed] for of_row, listed in zip(found, spans, strict=True)]
    terms = sum(part[3] for _, part in parts)
    return Findings(spans, confidences, None, sum(part[2] for _, part in parts) / terms, terms=terms)


def _bounds(samples: TaggedSamples, row: int) -> list[tuple[int, int]]:
    """First unit and unit after the last of each window of a row."""
    bounds = []
    for sequence in range(samples.row_starts[row], samples.row_starts[row + 1]):
        units = samples.units[samples.offsets[sequence] : samples.offsets[sequence + 1]]
        units = units[units >= 0]
        bounds.append((int(units[0]), int(units[-1]) + 1))
    return bounds


def _deciding_window(bounds: list[tuple[int, int]], span: Span) -> int:
    """The window with the most context on a span's shorter side; an end of the text counts as enough context."""
    _, first, last = span

    def context(window: int) -> float:
        begin, end = bounds[window]
        left = np.inf if window == 0 else first - begin
        right = np.inf if window == len(bounds) - 1 else end - last
        return min(left, right) if left >= 0 and right >= 0 else -1

    return max(range(len(bounds)), key=context)


def in_characters(samples: TaggedSamples, row: int, spans: list[Span]) -> list[Entity]:
    """Convert spans of units to (type, start, end) in characters of the text, without blanks at the edges."""
    own = slice(samples.unit_starts[row], samples.unit_starts[row + 1])
    offsets, spaces = samples.unit_offsets[own], samples.spaces[own]
    entities = []
    for kind, first, last in spans:
        inner = first + np.flatnonzero(~spaces[first:last])
        first, last = (inner[0], inner[-1] + 1) if len(inner) else (first, last)
        entities.append((kind, int(offsets[first][0]), int(offsets[last - 1][1])))
    return entities


@dataclass
class Tally:
    """What the scores of some texts are computed from; those of several parts of a file add up.

    Attributes:
        strict: right, gold and found entities by type, which follow the scheme (seqeval's strict mode).
        lenient: the same as conlleval counts them, where an I after O begins an entity; None for a head without tags.
        loss: the mean loss; None without tags.
        terms: what the loss is a mean over.
    """

    strict: Counts
    lenient: Counts | None
    loss: float | None
    terms: int


def tally(samples: TaggedSamples, reading: Findings, types: list[str]) -> Tally:
    """Compare found entities with those of the rows."""
    gold = [samples.gold(row, types) for row in range(len(samples))]

    def counted(of_rows: list[list[Span]]) -> Counts:
        return count_entities(gold, (set(in_characters(samples, row, spans)) for row, spans in enumerate(of_rows)))

    lenient = None if reading.lenient is None else counted(reading.lenient)
    return Tally(counted(reading.spans), lenient, reading.loss, reading.terms)


def metrics_of(parts: Sequence[Tally]) -> tuple[dict[str, float], str]:
    """The metrics of all parts together, and the table by type: ``loss``, ``precision``, ``recall``, ``f1``,
    ``conlleval_f1``."""
    strict = add_counts(part.strict for part in parts)
    metrics = {}
    if parts[0].loss is not None:
        metrics["loss"] = sum(part.loss * part.terms for part in parts) / sum(part.terms for part in parts)
    metrics.update(zip(("precision", "recall", "f1"), count_scores(strict), strict=True))
    if parts[0].lenient is not None:
        metrics["conlleval_f1"] = count_scores(add_counts(part.lenient for part in parts))[2]
    return metrics, count_table(strict)


def entity_metrics(samples: TaggedSamples, reading: Findings, types: list[str]) -> tuple[dict[str, float], str]:
    """Score found entities against those of the rows; return the metrics and the table by type."""
    return metrics_of([tally(samples, reading, types)])
