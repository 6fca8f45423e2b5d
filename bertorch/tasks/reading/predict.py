"""Answer questions about passages."""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bertorch.data.files import INPUT_FORMATS, read_lines
from bertorch.errors import UserError
from bertorch.tasks.prediction import json_line, print_metrics
from bertorch.tasks.reading.answers import Reading, known_windows, score_readings, write_submission
from bertorch.tasks.reading.predictor import Predictor
from bertorch.tasks.reading.rows import Question, iter_questions, read_questions
from bertorch.tasks.streaming import Input, Output, answer_rows, open_input
from bertorch.training.inference import Compute

_BATCHES = 2  # of a block; a passage may have many windows


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write an object per question of a file, or for ``--question``; with --evaluate score against the file's answers."""
    predictor = Predictor.open(
        directory, compute.alone, args.init_from_ckpt, args.null_score_diff_threshold, args.n_best, args.doc_stride,
        args.max_seq_length,
    )  # fmt: skip
    threshold = predictor.description.null_score_diff_threshold
    _check(args)
    source, questions = _questions(args)
    scored = args.evaluate or args.submission_file

    def answer(questions: Sequence[Question]) -> tuple[list[str], Any]:
        samples = predictor.samples(list(questions))
        readings, loss = predictor.read(samples, questions)
        kept = None
        if scored:  # a score needs the best candidates alone, and no passages
            best = [Reading(reading.candidates[:1], reading.null_score) for reading in readings]
            asked = [replace(question, text="", context="") for question in questions]
            kept = best, asked, loss, known_windows(samples, predictor.description)
        pairs = zip(questions, readings, strict=True)
        return [_line(args, question, predictor.answer(reading, args.n_best)) for question, reading in pairs], kept

    output = Output(args)
    output.silent = not args.output_file and bool(scored)
    kept = answer_rows(args, source, compute, questions, answer, output, _BATCHES * compute.batch_size)
    if not (compute.processes.is_main and scored):
        return
    readings = [reading for best, _, _, _ in kept for reading in best]
    asked = [question for _, some, _, _ in kept for question in some]
    if args.evaluate:
        windows = sum(known for *_, known in kept)
        loss = sum(loss * known for *_, loss, known in kept if known) / windows if windows else math.nan
        metrics, _ = score_readings(readings, asked, args.scorer or predictor.description.scorer, threshold)
        print_metrics({"loss": loss, **metrics})
    if args.submission_file:
        write_submission(args.submission_file, readings, asked, threshold, compute)


def _line(args: argparse.Namespace, question: Question, answer: dict[str, Any]) -> str:
    shown = {"id": question.id, "question": question.text, **answer}
    if args.with_text:
        shown["context"] = question.context
    if args.with_label:
        shown["gold"] = question.answers
    return json_line(shown)


def _check(args: argparse.Namespace) -> None:
    """Raises UserError if flags do not fit questions or each other."""
    if args.columns is not None or args.is_text_pair or args.corpus is not None or args.header:
        raise UserError("--columns, --is_text_pair, --corpus and --header are not for questions about passages")
    if args.input_format not in (None, *INPUT_FORMATS):
        raise UserError(f"--input_format {args.input_format}: for questions use one of {', '.join(INPUT_FORMATS)}")
    given = args.input_file is not None or args.input_format is not None
    if (args.question is None) == (not given):
        raise UserError(
            "give --input_file in SQuAD's layout, or --question with --context or --context_file; to pipe questions in, "
            "give --input_format jsonl or tsv"
        )


def _questions(args: argparse.Namespace) -> tuple[Input, Iterable[Question]]:
    if args.question is None:
        source = open_input(args)
        kind = args.input_format
        if source.flows and kind is None and '"question"' in source.first and '"paragraphs"' not in source.first:
            kind = "jsonl"
        if kind in (None, "json"):
            return source, read_questions(
                source.path, args.bad_rows, args.evaluate, places_needed=False, encoding=args.encoding, stream=source.stream
            )
        return source, source.ahead(
            iter_questions(source.path, kind, args.bad_rows, args.evaluate, args.encoding, source.stream, source.flows)
        )
    if args.evaluate:
        raise UserError("--evaluate needs --input_file, with the answers in it")
    if (args.context is None) == (args.context_file is None):
        raise UserError("--question needs its passage: --context or --context_file")
    context = args.context
    if context is None:
        context = "\n".join(line for _, line in read_lines(args.context_file, encoding=args.encoding))
    if not args.question.strip():
        raise UserError("--question is empty")
    return Input("--question"), [Question(1, "1", args.question, context, [])]
