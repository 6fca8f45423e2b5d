"""Answer questions about passages."""

import argparse
from pathlib import Path

from bertorch.data.files import read_lines
from bertorch.errors import UserError
from bertorch.tasks.prediction import json_line, print_metrics, write_lines
from bertorch.tasks.reading.answers import score_readings, write_submission
from bertorch.tasks.reading.predictor import Predictor
from bertorch.tasks.reading.rows import Question, read_questions
from bertorch.training.inference import Compute


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write an object per question of a file, or for ``--question``; with --evaluate score against the file's answers."""
    predictor = Predictor.open(
        directory, compute, args.init_from_ckpt, args.null_score_diff_threshold, args.n_best, args.doc_stride,
        args.max_seq_length,
    )  # fmt: skip
    questions = _questions(args)
    readings, loss = predictor.read(predictor.samples(questions), questions)
    threshold = predictor.description.null_score_diff_threshold
    if not compute.processes.is_main:
        return
    if args.evaluate:
        metrics, _ = score_readings(readings, questions, args.scorer or predictor.description.scorer, threshold)
        print_metrics({"loss": loss, **metrics})
    if args.submission_file:
        write_submission(args.submission_file, readings, questions, threshold, compute)
    if args.output_file or not (args.evaluate or args.submission_file):
        pairs = zip(questions, readings, strict=True)
        write_lines(
            args,
            (
                json_line({"id": question.id, "question": question.text, **predictor.answer(reading, args.n_best)})
                for question, reading in pairs
            ),
        )


def _questions(args: argparse.Namespace) -> list[Question]:
    if args.columns is not None or args.is_text_pair or args.corpus is not None or args.input_format is not None:
        raise UserError("--columns, --is_text_pair, --corpus and --input_format are not for questions about passages")
    if (args.question is None) == (args.input_file is None):
        raise UserError("give --input_file in SQuAD's layout, or --question with --context or --context_file")
    if args.input_file is not None:
        return read_questions(args.input_file, args.bad_rows, args.evaluate, places_needed=False, encoding=args.encoding)
    if args.evaluate:
        raise UserError("--evaluate needs --input_file, with the answers in it")
    if (args.context is None) == (args.context_file is None):
        raise UserError("--question needs its passage: --context or --context_file")
    context = args.context
    if context is None:
        context = "\n".join(line for _, line in read_lines(args.context_file, encoding=args.encoding))
    if not args.question.strip():
        raise UserError("--question is empty")
    return [Question(1, "1", args.question, context, [])]
