"""Predict labels or scores of texts and text pairs."""

import argparse
from dataclasses import replace
from pathlib import Path

from bertorch.data.files import read_labels
from bertorch.errors import UserError
from bertorch.tasks.classification.attribution import explain_rows
from bertorch.tasks.classification.explanations import NOT_EXPLAINED, explanation_lines
from bertorch.tasks.classification.predictor import Predictor
from bertorch.tasks.prediction import (
    label_lines,
    load_rows,
    print_metrics,
    standard_input,
    write_lines,
)
from bertorch.training.inference import Compute


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write one line per row: its answer, with --explain also the reasons; with --evaluate print metrics."""
    predictor = Predictor.open(
        directory, compute, read_labels(args.label_file) if args.label_file else None, args.init_from_ckpt,
        args.max_seq_length, args.truncation,
    )  # fmt: skip
    target = predictor.target
    if args.explain and target.key != "label":
        raise UserError(f"{NOT_EXPLAINED}{directory} is a model for --target {target.name}")
    if args.probabilities and target.key == "score":
        raise UserError(f"--probabilities: {directory} answers with a score, which has none")
    piped = b"" if args.input_file else standard_input()
    is_text_pair = args.is_text_pair or predictor.description.is_text_pair
    reading = {"labels": None, **target.reading, "check": target.read}
    if not args.evaluate:  # labels in the file are ignored
        reading.update(labels=None, check=None)
    rows = load_rows(args, is_text_pair, label_needed=args.evaluate, piped=piped, **reading)
    if not args.evaluate:
        rows = [replace(row, label=None) for row in rows]
    samples = predictor.samples(rows)
    logits = predictor.logits(samples)
    if args.explain:
        model, steps = predictor.model, args.explain_steps
        explained = explain_rows(model, model.logits, rows, samples, logits, predictor.tokenizer, steps, compute.processes)
    if not compute.processes.is_main:
        return
    if args.evaluate:
        print_metrics(target.scores(logits, samples.labels))
        if table := target.table(logits, samples.labels):
            print(table)
    if args.explain:
        write_lines(args, explanation_lines(args, rows, target.labels, explained))
    else:
        write_lines(args, label_lines(args, rows, target.labels, target.answers(logits), target.key))
