"""Entities of texts of any length."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertorch.data.files import as_stream, file_format, read_labels
from bertorch.errors import UserError
from bertorch.tasks.entities.answers import Reading, entity_metrics, in_characters, load_trained_entity_head, read_entities
from bertorch.tasks.entities.global_pointer import GlobalPointer
from bertorch.tasks.entities.head import Tagger
from bertorch.tasks.entities.rows import ENTITY_FORMATS, Document, read_documents
from bertorch.tasks.entities.scores import Entity
from bertorch.tasks.entities.tags import TagSet, parse_tag
from bertorch.tasks.entities.windows import TaggedSamples, UnitTokenizer, tag_documents
from bertorch.tasks.prediction import (
    config_labels,
    json_line,
    original_weights,
    print_metrics,
    standard_input,
    text_encoder,
    write_lines,
    writes_json,
)
from bertorch.training.process_group import Processes

_BLOCK = 512  # texts read at a time
_COLOURS = (41, 42, 43, 44, 45, 46, 101, 102, 103, 104, 105, 106)  # of the background, as terminals number them


@dataclass
class _Answer:
    """What was found in a text: entities and their confidences; the likeliest readings where they were asked for."""

    entities: list[Entity]
    confidences: list[float]
    readings: list[tuple[float, list[Entity]]]


def predict_entities(args: argparse.Namespace, directory: Path, description: dict[str, Any], processes: Processes) -> None:
    """Type, text, start, end and confidence of each entity; with --evaluate scores against those of the file."""
    description = description or _description_of_tags(args, directory)
    model = load_trained_entity_head(directory, description, args.init_from_ckpt).to(processes.device)
    if args.n_best and not (isinstance(model, Tagger) and model.crf):
        raise UserError(f"--n_best {args.n_best}: {directory} has no CRF, and one reading of each text")
    if args.n_best and not writes_json(args):
        raise UserError(f"--n_best {args.n_best}: readings are written as json lines; add --output_format jsonl")
    if args.color and args.output_file:
        raise UserError("--color is for the terminal; leave out --output_file")
    stride = description["doc_stride"] if args.doc_stride is None else args.doc_stride
    encoder = UnitTokenizer(text_encoder(args, directory, description), args.unit or description["unit"], stride)
    types = description["types"]

    documents = _documents(args, types)
    usable = [document for document in documents if (document.text or "").strip()]
    tag_set = model.tag_set if isinstance(model, Tagger) and args.evaluate and "task" in description else None
    answers: list[_Answer] = []
    size = len(usable) if args.evaluate else _BLOCK
    for start in range(0, len(usable), size):
        samples = tag_documents(usable[start : start + size], encoder, types, tag_set, args.input_file or "<stdin>")
        reading = read_entities(model, samples, args.batch_size, processes, args.precision, with_confidence=True)
        if args.evaluate and processes.is_main:
            metrics, table = entity_metrics(samples, reading, types)
            print_metrics(metrics)
            print(table)
        answers += [_answer(model, samples, reading, row, args.n_best) for row in range(len(samples))]
    if processes.is_main:
        write_lines(args, _lines(args, documents, iter(answers), types))


def _description_of_tags(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """What ``bertorch.json`` would say of a token classifier of transformers or of the original bertorch, by its tags."""
    labels = read_labels(args.label_file) if args.label_file else config_labels(directory)
    odd = next((label for label in labels if parse_tag(label) is None), None)
    if odd is not None:
        where = f"{args.label_file}: label {odd!r}" if args.label_file else f"{directory}: label {odd!r} in config.json"
        raise UserError(f"{where} is no tag such as B-PER; give the tags of the training with --label_file")
    letters = {label[0] for label in labels}
    scheme = "bmes" if "M" in letters else "bioes" if letters & set("EL") else "bios" if letters & set("SU") else "bio"
    original = original_weights(args, directory)
    head = "crf" if original is not None and "crf.transitions" in original else "linear"
    described = {"ner_head": head, "labels": labels, "tag": scheme, "types": TagSet(labels, scheme).types}
    unit = "word" if original is None else "character"
    return {**described, "crf_constraints": True, "unit": unit, "doc_stride": None}


def _documents(args: argparse.Namespace, types: list[str]) -> list[Document]:
    """Every text of the input; one that cannot be used stands there without text."""
    if args.columns is not None or args.is_text_pair or args.corpus is not None:
        raise UserError("--columns, --is_text_pair and --corpus are not for entities")
    kind = args.input_format
    if kind not in (None, *ENTITY_FORMATS):
        raise UserError(f"--input_format {kind}: entities are found in {', '.join(ENTITY_FORMATS)}")
    path = args.input_file or "<stdin>"
    if kind is None:
        kind = "jsonl" if file_format(path) == "jsonl" else "columns" if args.evaluate else "text"
    documents = read_documents(
        path,
        types if args.evaluate else None,
        args.bad_rows,
        label_needed=args.evaluate,
        stream=None if args.input_file else as_stream(standard_input()),
        kind=kind,
        keep_all=args.output_file is not None or not args.evaluate,  # answers lose no row
    )
    return documents if args.evaluate else [replace(document, entities=None) for document in documents]


def _answer(model: Tagger | GlobalPointer, samples: TaggedSamples, reading: Reading, row: int, n_best: int) -> _Answer:
    readings = []
    if n_best:
        emissions = reading.emissions[samples.unit_starts[row] : samples.unit_starts[row + 1]]
        device = model.classifier.weight.device
        paths, log_probabilities = model.crf.n_best(torch.from_numpy(emissions).to(device), n_best)
        for path, probability in zip(paths.tolist(), np.exp(log_probabilities.cpu().numpy()), strict=True):
            readings.append((float(probability), in_characters(samples, row, model.tag_set.strict(path))))
    return _Answer(in_characters(samples, row, reading.spans[row]), reading.confidences[row], readings)


def _lines(
    args: argparse.Namespace, documents: list[Document], answers: Iterator[_Answer], types: list[str]
) -> Iterator[str]:
    """An object a text in json lines; otherwise a line an entity, which begins with the line of its text."""
    for document in documents:
        text = document.text
        answer = next(answers) if (text or "").strip() else _Answer([], [], [])
        if args.color:
            yield _coloured(text or "", answer.entities, types) + "\n"
        elif writes_json(args):
            yield json_line(_as_json(text, answer))
        else:
            for (kind, start, end), confidence in zip(answer.entities, answer.confidences, strict=True):
                surface = re.sub(r"[\t\r\n]", " ", text[start:end])
                yield f"{document.line}\t{kind}\t{surface}\t{start}\t{end}\t{confidence:.6f}\n"


def _as_json(text: str | None, answer: _Answer) -> dict[str, Any]:
    """``entities`` is null for a text that could not be used."""

    def listed(entities: list[Entity]) -> list[dict[str, Any]]:
        return [{"type": kind, "text": text[start:end], "start": start, "end": end} for kind, start, end in entities]

    if text is None:
        return {"text": None, "entities": None}
    entities = [
        {**entity, "confidence": round(confidence, 6)}
        for entity, confidence in zip(listed(answer.entities), answer.confidences, strict=True)
    ]
    result: dict[str, Any] = {"text": text, "entities": entities}
    if answer.readings:
        result["readings"] = [
            {"probability": round(probability, 6), "entities": listed(found)} for probability, found in answer.readings
        ]
    return result


def _coloured(text: str, entities: list[Entity], types: list[str]) -> str:
    """The text with its entities coloured by type, the type behind each; of entities within each other, the outermost."""
    parts, done = [], 0
    for kind, start, end in sorted(entities, key=lambda entity: (entity[1], -entity[2])):
        if start >= done:
            colour = _COLOURS[types.index(kind) % len(_COLOURS)]
            parts.append(f"{text[done:start]}\033[30;{colour}m{text[start:end]}\033[0;2m {kind}\033[0m")
            done = end
    return "".join(parts) + text[done:]
