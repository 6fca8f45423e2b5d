"""Predict the entities of texts of any length."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bertorch.data.files import OBJECT_FORMATS, as_stream, file_format, find_format, read_labels
from bertorch.errors import UserError
from bertorch.tasks.entities.answers import entity_metrics
from bertorch.tasks.entities.head import Tagger
from bertorch.tasks.entities.predictor import Answer, Predictor
from bertorch.tasks.entities.rows import ENTITY_FORMATS, Document, read_documents
from bertorch.tasks.entities.scores import Entity
from bertorch.tasks.prediction import json_line, print_metrics, standard_input, write_lines, writes_json
from bertorch.training.inference import Compute

_COLOURS = (41, 42, 43, 44, 45, 46, 101, 102, 103, 104, 105, 106)  # of the background, as terminals number them


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write each entity's type, text, start, end and confidence; with --evaluate score against those of the file."""
    predictor = Predictor.open(
        directory, compute, read_labels(args.label_file) if args.label_file else None, args.init_from_ckpt, args.unit,
        args.doc_stride, args.max_seq_length,
    )  # fmt: skip
    model, types, is_main = predictor.model, predictor.description.types, compute.processes.is_main
    if args.n_best and not (isinstance(model, Tagger) and model.crf):
        raise UserError(f"--n_best {args.n_best}: {directory} has no CRF, so it gives one answer per text")
    if args.n_best and not writes_json(args):
        raise UserError(f"--n_best {args.n_best}: n-best answers are written as json lines; add --output_format jsonl")
    if args.color and args.output_file:
        raise UserError("--color is for the terminal; leave out --output_file")
    documents = _documents(args, types)
    usable = [document for document in documents if (document.text or "").strip()]
    path = args.input_file or "<stdin>"
    if args.evaluate:
        of_run = predictor.description.max_seq_length is not None  # models of other tools may lack tags of the scheme
        samples = predictor.samples(usable, path, model.tag_set if of_run and isinstance(model, Tagger) else None)
        found = predictor.find(samples, with_confidence=True)
        if is_main:
            metrics, table = entity_metrics(samples, found, types)
            print_metrics(metrics)
            print(table)
        answers = predictor.answers_of(samples, found, args.n_best)
    else:
        answers = iter(list(predictor.answers(usable, path, args.n_best)))  # all ranks take part
    if is_main:
        write_lines(args, _lines(args, documents, answers, types))


def _documents(args: argparse.Namespace, types: list[str]) -> list[Document]:
    """Read every row of the input; one that cannot be used is kept without text."""
    if args.columns is not None or args.is_text_pair or args.corpus is not None:
        raise UserError("--columns, --is_text_pair and --corpus are not for entities")
    kind = args.input_format
    if kind not in (None, *ENTITY_FORMATS):
        raise UserError(f"--input_format {kind}: for entities use one of {', '.join(ENTITY_FORMATS)}")
    path = args.input_file or "<stdin>"
    if kind is None:
        kind = file_format(path)
        by_line = "columns" if args.evaluate else "text"
        kind = find_format(path, args.encoding) if kind in OBJECT_FORMATS else by_line
    documents = read_documents(
        path,
        types if args.evaluate else None,
        args.bad_rows,
        label_needed=args.evaluate,
        stream=None if args.input_file else as_stream(standard_input()),
        kind=kind,
        keep_all=args.output_file is not None or not args.evaluate,  # every row gets an answer
        encoding=args.encoding,
    )
    return documents if args.evaluate else [replace(document, entities=None) for document in documents]


def _lines(
    args: argparse.Namespace, documents: list[Document], answers: Iterator[Answer], types: list[str]
) -> Iterator[str]:
    """One object per text in json lines; otherwise one line per entity, starting with the line number of its text."""
    for document in documents:
        text = document.text
        answer = next(answers) if (text or "").strip() else Answer()
        if args.color:
            yield _coloured(text or "", answer.entities, types) + "\n"
        elif writes_json(args):
            yield json_line(answer.as_json(text))
        else:
            for (kind, start, end), confidence in zip(answer.entities, answer.confidences, strict=True):
                surface = re.sub(r"[\t\r\n]", " ", text[start:end])
                yield f"{document.line}\t{kind}\t{surface}\t{start}\t{end}\t{confidence:.6f}\n"


def _coloured(text: str, entities: list[Entity], types: list[str]) -> str:
    """The text with its entities coloured by type, each followed by its type; of nested entities, only the outermost."""
    parts, done = [], 0
    for kind, start, end in sorted(entities, key=lambda entity: (entity[1], -entity[2])):
        if start >= done:
            colour = _COLOURS[types.index(kind) % len(_COLOURS)]
            parts.append(f"{text[done:start]}\033[30;{colour}m{text[start:end]}\033[0;2m {kind}\033[0m")
            done = end
    return "".join(parts) + text[done:]
