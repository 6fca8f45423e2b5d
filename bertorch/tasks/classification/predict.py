"""Labels of texts and text pairs."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from bertorch.data.files import read_labels
from bertorch.data.tokenizing import tokenize
from bertorch.encoder.config import config_path, read_json_object
from bertorch.errors import UserError
from bertorch.tasks.classification.attribution import explain_rows
from bertorch.tasks.classification.explanations import explanation_lines
from bertorch.tasks.classification.head import load_trained_classifier
from bertorch.tasks.classification.scores import classification_metrics, per_class_table
from bertorch.tasks.prediction import (
    config_labels,
    label_lines,
    load_rows,
    print_metrics,
    standard_input,
    text_encoder,
    write_lines,
)
from bertorch.training.inference import compute
from bertorch.training.process_group import Processes


def predict_labels(args: argparse.Namespace, directory: Path, description: dict[str, Any], processes: Processes) -> None:
    """Classify every row of the input."""
    labels = read_labels(args.label_file) if args.label_file else description.get("labels") or config_labels(directory)
    _check_answers(directory, labels)
    pooling_mode = description.get("pooling_mode", "linear")
    model = load_trained_classifier(directory, len(labels), pooling_mode, weights=args.init_from_ckpt)
    model.to(processes.device)
    encoder = text_encoder(args, directory, description)
    is_text_pair = args.is_text_pair or description.get("is_text_pair", False)

    piped = b"" if args.input_file else standard_input()
    rows = load_rows(args, is_text_pair, labels if args.evaluate else None, args.evaluate, piped)
    label_ids = {label: index for index, label in enumerate(labels)}
    samples = tokenize(((row.line, row.texts, label_ids.get(row.label, -1)) for row in rows if row.texts), encoder)
    logits = compute(model, model.logits, samples, args.batch_size, processes, args.precision).astype(np.float64)
    if args.explain:
        explained = explain_rows(model, model.logits, rows, samples, logits, encoder, args.explain_steps, processes)
    if processes.is_main:
        if args.evaluate:
            print_metrics(classification_metrics(logits, samples.labels))
            print(per_class_table(logits.argmax(axis=1), samples.labels, labels))
        if args.explain:
            write_lines(args, explanation_lines(args, rows, labels, explained))
        else:
            write_lines(args, label_lines(args, rows, labels, softmax(logits, axis=1)))


def _check_answers(directory: Path, labels: list[str]) -> None:
    """Raises UserError for a model of transformers whose outputs are not the scores of labels that exclude each other."""
    kind = read_json_object(config_path(directory)).get("problem_type")
    what = "it has one label, and gives a score" if len(labels) == 1 else None
    if kind == "regression":
        what = what or "its problem_type is regression, and it gives scores"
    elif kind == "multi_label_classification":
        what = what or f"its problem_type is {kind}: a text may have several of its labels, or none"
    if what is not None:
        raise UserError(f"{directory}: {what}; predict.py answers with the one label of a text, so use transformers for it")
