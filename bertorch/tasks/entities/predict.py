"""Predict the entities of texts of any length."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bertorch.data.files import OBJECT_FORMATS, file_format, find_format, read_labels
from bertorch.errors import UserError
from bertorch.tasks.entities.answers import metrics_of, tally
from bertorch.tasks.entities.head import Tagger
from bertorch.tasks.entities.predictor import Answer, Predictor, listed
from bertorch.tasks.entities.rows import ENTITY_FORMATS, Document, iter_documents
from bertorch.tasks.entities.scores import Entity
from bertorch.tasks.entities.windows import Untagged
from bertorch.tasks.prediction import header, json_line, print_metrics, table_line, writes_json
from bertorch.tasks.streaming import Input, Output, answer_rows, open_input, writes
from bertorch.training.inference import Compute

_COLOURS = (41, 42, 43, 44, 45, 46, 101, 102, 103, 104, 105, 106)  # of the background, as terminals number them
_COLUMNS = ("line", "type", "entity", "start", "end", "confidence")


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write each entity's type, text, start, end and confidence; with --evaluate score against those of the file."""
    predictor = Predictor.open(
        directory, compute.alone, read_labels(args.label_file) if args.label_file else None, args.init_from_ckpt, args.unit,
        args.doc_stride, args.max_seq_length,
    )  # fmt: skip
    model, types = predictor.model, predictor.description.types
    _check(args, directory, isinstance(model, Tagger) and bool(model.crf))
    of_run = predictor.description.max_seq_length is not None  # models of other tools may lack tags of the scheme
    tag_set = model.tag_set if args.evaluate and of_run and isinstance(model, Tagger) else None
    source = open_input(args)
    documents = _documents(args, source, types)

    def answer(documents: Sequence[Document]) -> tuple[list[str], Any]:
        usable = [document for document in documents if (document.text or "").strip()]
        counts, untagged, answers = None, Untagged(), iter(())
        if usable:
            if not args.evaluate:
                usable = [Document(document.line, document.text, document.units) for document in usable]
            samples = predictor.samples(usable, source.path, tag_set, untagged)
            found = predictor.find(samples, with_confidence=True)
            counts = tally(samples, found, types) if args.evaluate else None
            answers = predictor.answers_of(samples, found, args.n_best)
        return list(_lines(args, documents, answers, types)) if writes(args) else [], (counts, untagged)

    columns = [*_COLUMNS, *["text"] * args.with_text]
    kept = answer_rows(args, source, compute, documents, answer, Output(args, "" if args.color else header(args, columns)))
    if compute.processes.is_main and args.evaluate:
        untagged = Untagged()
        for _, own in kept:
            untagged.add(own)
        untagged.warn(source.path)
        metrics, table = metrics_of([counts for counts, _ in kept if counts is not None])
        print_metrics(metrics)
        print(table)


def _check(args: argparse.Namespace, directory: Path, has_crf: bool) -> None:
    """Raises UserError if flags do not fit entities, this model or each other."""
    if args.columns is not None or args.is_text_pair or args.corpus is not None:
        raise UserError("--columns, --is_text_pair and --corpus are not for entities")
    if args.input_format not in (None, *ENTITY_FORMATS):
        raise UserError(f"--input_format {args.input_format}: for entities use one of {', '.join(ENTITY_FORMATS)}")
    if args.n_best and not has_crf:
        raise UserError(f"--n_best {args.n_best}: {directory} has no CRF, so it gives one answer per text")
    if args.n_best and not writes_json(args):
        raise UserError(f"--n_best {args.n_best}: n-best answers are written as json lines; add --output_format jsonl")
    if args.with_label and not writes_json(args):
        raise UserError("--with_label: the entities of the input are written as json lines; add --output_format jsonl")
    if args.color and args.output_file:
        raise UserError("--color is for the terminal; leave out --output_file")


def _documents(args: argparse.Namespace, source: Input, types: list[str]) -> Iterable[Document]:
    """Read every row of the input; one that cannot be used is kept without text."""
    kind = source.kind
    if kind is None:
        kind = "tsv" if source.flows else file_format(source.path)
        by_line = "columns" if args.evaluate else "text"
        kind = find_format(source.path, args.encoding) if kind in OBJECT_FORMATS else by_line
    documents = iter_documents(
        source.path,
        types if args.evaluate else None,
        args.bad_rows,
        label_needed=args.evaluate,
        stream=source.stream,
        kind=kind,
        keep_all=writes(args),  # every row gets an answer
        encoding=args.encoding,
        at_once=source.flows,
    )
    return source.ahead(documents)


def _lines(
    args: argparse.Namespace, documents: Sequence[Document], answers: Iterator[Answer], types: list[str]
) -> Iterator[str]:
    """One object per text in json lines; otherwise one line per entity, starting with the line number of its text."""
    for document in documents:
        text = document.text
        answer = next(answers) if (text or "").strip() else Answer()
        if args.color:
            yield _coloured(text or "", answer.entities, types) + "\n"
        elif writes_json(args):
            gold = None if text is None or document.entities is None else listed(text, document.entities)
            yield json_line({**answer.as_json(text), **({"gold": gold} if args.with_label else {})})
        else:
            for (kind, start, end), confidence in zip(answer.entities, answer.confidences, strict=True):
                cells = [str(document.line), kind, text[start:end], str(start), str(end), f"{confidence:.6f}"]
                yield table_line([*cells, *[text] * args.with_text])


def _coloured(text: str, entities: list[Entity], types: list[str]) -> str:
    """The text with its entities coloured by type, each followed by its type; of nested entities, only the outermost."""
    parts, done = [], 0
    for kind, start, end in sorted(entities, key=lambda entity: (entity[1], -entity[2])):
        if start >= done:
            colour = _COLOURS[types.index(kind) % len(_COLOURS)]
            parts.append(f"{text[done:start]}\033[30;{colour}m{text[start:end]}\033[0;2m {kind}\033[0m")
            done = end
    return "".join(parts) + text[done:]
