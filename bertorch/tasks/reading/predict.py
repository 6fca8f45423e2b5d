"""Answers to questions about passages."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertorch.data.files import read_lines
from bertorch.errors import UserError
from bertorch.tasks.prediction import json_line, print_metrics, text_encoder, write_lines
from bertorch.tasks.reading.answers import (
    Candidate,
    Reading,
    load_trained_reader,
    read_answers,
    score_readings,
    write_submission,
)
from bertorch.tasks.reading.rows import Question, ReadingTokenizer, read_questions, window_questions
from bertorch.training.process_group import Processes


def predict_answers(args: argparse.Namespace, directory: Path, description: dict[str, Any], processes: Processes) -> None:
    """An answer to each question of a file, or to ``--question``; with --evaluate scores against those of the file."""
    description = description or _description_of_transformers()
    description["n_best_size"] = max(description["n_best_size"], args.n_best)
    model = load_trained_reader(directory, description, args.init_from_ckpt).to(processes.device)
    stride = description["doc_stride"] if args.doc_stride is None else args.doc_stride
    encoder = ReadingTokenizer(text_encoder(args, directory, description), description["max_query_length"], stride)
    questions = _questions(args)
    samples = window_questions(questions, encoder)
    readings, loss = read_answers(model, samples, questions, description, args.batch_size, processes, args.precision)
    threshold = description["null_score_diff_threshold"]
    if args.null_score_diff_threshold is not None:
        threshold = args.null_score_diff_threshold
    if not processes.is_main:
        return
    if args.evaluate:
        metrics, _ = score_readings(readings, questions, args.scorer or description["scorer"], threshold)
        print_metrics({"loss": loss, **metrics})
    if args.submission_file:
        write_submission(args.submission_file, readings, questions, threshold, processes)
    if args.output_file or not (args.evaluate or args.submission_file):
        write_lines(args, _lines(questions, readings, threshold, args.n_best))


def _description_of_transformers() -> dict[str, Any]:
    """What ``bertorch.json`` would say of a question answering model of transformers, by the habits of its recipes."""
    return {
        "answer_types": "span", "scorer": "squad", "null_score_diff_threshold": 0.0, "doc_stride": 128,
        "max_query_length": 64, "max_answer_length": 90, "n_best_size": 20,
    }  # fmt: skip


def _questions(args: argparse.Namespace) -> list[Question]:
    if args.columns is not None or args.is_text_pair or args.corpus is not None or args.input_format is not None:
        raise UserError("--columns, --is_text_pair, --corpus and --input_format are not for questions about passages")
    if (args.question is None) == (args.input_file is None):
        raise UserError("give --input_file in the layout of SQuAD, or --question with --context or --context_file")
    if args.input_file is not None:
        return read_questions(args.input_file, args.bad_rows, answers_needed=args.evaluate, places_needed=False)
    if args.evaluate:
        raise UserError("--evaluate needs --input_file, with the answers in it")
    if (args.context is None) == (args.context_file is None):
        raise UserError("--question needs its passage: --context or --context_file")
    context = args.context
    if context is None:
        context = "\n".join(line for _, line in read_lines(args.context_file))
    if not args.question.strip():
        raise UserError("--question is empty")
    return [Question(1, "1", args.question, context, [])]


def _lines(questions: list[Question], readings: list[Reading], threshold: float, n_best: int) -> Iterator[str]:
    """An object a question; ``start`` and ``end`` are null for what is no part of the passage."""
    for question, reading in zip(questions, readings, strict=True):
        answer = reading.answer(threshold)
        listed = reading.probabilities()
        share = next((share for candidate, share in listed if candidate == answer), 1.0)
        result = {"id": question.id, "question": question.text, **_as_json(answer, share)}
        if n_best:
            result["n_best"] = [_as_json(candidate, part) for candidate, part in listed[:n_best]]
        yield json_line(result)


def _as_json(candidate: Candidate, share: float) -> dict[str, Any]:
    place = {"start": candidate.start, "end": candidate.end} if candidate.kind == "span" else {"start": None, "end": None}
    return {"answer": candidate.text, "kind": candidate.kind, "probability": round(share, 6), **place}
