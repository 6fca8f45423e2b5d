"""Labels of texts and text pairs."""

import argparse
from pathlib import Path

from bertorch.data.files import read_labels
from bertorch.tasks.classification.attribution import explain_rows
from bertorch.tasks.classification.explanations import explanation_lines
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
    """A line a row: its label, with --explain also what speaks for it; with --evaluate figures."""
    predictor = Predictor.open(
        directory, compute, read_labels(args.label_file) if args.label_file else None, args.init_from_ckpt,
        args.max_seq_length, args.truncation,
    )  # fmt: skip
    target = predictor.target
    piped = b"" if args.input_file else standard_input()
    is_text_pair = args.is_text_pair or predictor.description.is_text_pair
    rows = load_rows(args, is_text_pair, target.labels if args.evaluate else None, args.evaluate, piped)
    samples = predictor.samples(rows)
    logits = predictor.logits(samples)
    if args.explain:
        model, steps = predictor.model, args.explain_steps
        explained = explain_rows(model, model.logits, rows, samples, logits, predictor.tokenizer, steps, compute.processes)
    if not compute.processes.is_main:
        return
    if args.evaluate:
        print_metrics(target.scores(logits, samples.labels))
        print(target.table(logits, samples.labels))
    if args.explain:
        write_lines(args, explanation_lines(args, rows, target.labels, explained))
    else:
        write_lines(args, label_lines(args, rows, target.labels, target.answers(logits)))
