"""Predict labels or scores of texts and text pairs."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bertorch.data.files import read_labels
from bertorch.data.rows import Row
from bertorch.errors import UserError
from bertorch.tasks.classification.attribution import EXPLAINED_AT_ONCE, explain_rows, gaps_of, report_gaps
from bertorch.tasks.classification.explanations import NOT_EXPLAINED, explanation_lines, explanation_output
from bertorch.tasks.classification.predictor import Predictor
from bertorch.tasks.prediction import given_rows, header, label_lines, label_names, print_metrics
from bertorch.tasks.streaming import Output, answer_rows, open_input, writes
from bertorch.training.inference import Compute


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write one line per row: its answer, with --explain also the reasons; with --evaluate print metrics."""
    predictor = Predictor.open(
        directory, compute.alone, read_labels(args.label_file) if args.label_file else None, args.init_from_ckpt,
        args.max_seq_length, args.truncation,
    )  # fmt: skip
    target, model = predictor.target, predictor.model
    if args.explain and target.key != "label":
        raise UserError(f"{NOT_EXPLAINED}{directory} is a model for --target {target.name}")
    if args.probabilities and target.key == "score":
        raise UserError(f"--probabilities: {directory} answers with a score, which has none")
    source = open_input(args)
    texts = 2 if args.is_text_pair or predictor.description.is_text_pair else 1
    reading = {"labels": None, **target.reading, "check": target.read}
    if not args.evaluate:  # labels in the file are not checked
        reading.update(labels=None, check=None)
    rows = given_rows(args, source, texts == 2, label_needed=args.evaluate, **reading)

    def answer(rows: Sequence[Row]) -> tuple[list[str], Any]:
        samples = predictor.samples(rows if args.evaluate else [replace(row, label=None) for row in rows])
        logits = predictor.logits(samples) if len(samples) else np.empty((0, len(target.labels)), np.float32)
        known = (logits, samples.labels) if args.evaluate else None
        if args.explain:
            steps = args.explain_steps
            explained = explain_rows(model, model.logits, rows, samples, logits, predictor.tokenizer, steps)
            return explanation_lines(args, rows, target.labels, explained, texts), (known, gaps_of(rows, explained))
        if not writes(args):
            return [], (known, [])
        answers = target.answers(logits) if len(samples) else ()
        return label_lines(args, rows, target.labels, answers, texts, target.key), (known, [])

    output, most = Output(args, header(args, label_names(args, target.labels, texts, target.key))), None
    if args.explain:
        output, most = explanation_output(args, target.labels, texts), EXPLAINED_AT_ONCE
    kept = answer_rows(args, source, compute, rows, answer, output, most)
    if not compute.processes.is_main:
        return
    if args.explain:
        report_gaps([gap for _, gaps in kept for gap in gaps], predictor.tokenizer.max_seq_length, args.explain_steps)
    if args.evaluate:
        logits, truth = (np.concatenate(parts) for parts in zip(*(known for known, _ in kept if len(known[1])), strict=True))
        print_metrics(target.scores(logits, truth))
        if table := target.table(logits, truth):
            print(table)
