"""Rows in, lines out: what all tasks of predict.py share."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from torch import Tensor

from bertorch.data.files import as_stream, read_labels
from bertorch.data.rows import Row, read_rows
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder.config import config_path, load_config
from bertorch.encoder.hub import local_directory
from bertorch.encoder.weights import find_weights, read_weights, weights_file
from bertorch.errors import UserError
from bertorch.tasks.description import check_labels, is_text
from bertorch.tasks.entities.tags import parse_tag
from bertorch.tasks.original import original_task
from bertorch.tasks.sentences.directory import MODULES
from bertorch.training.checkpoints import DESCRIPTION, write_whole


def text_encoder(
    args: argparse.Namespace, directory: Path, description: dict[str, Any], length: int | None = None
) -> TextTokenizer:
    """How the model reads texts: as its training did, unless flags say otherwise.

    Args:
        args: the flags.
        directory: with configuration and vocabulary.
        description: of the training; may be empty.
        length: the longest sequence, where neither flags nor description say it.
    """
    config = load_config(directory)
    length = args.max_seq_length or description.get("max_seq_length") or min(length or 512, config.max_seq_length)
    config.check_length(length, directory)
    encoder = TextTokenizer(load_tokenizer(directory), length, args.truncation or description.get("truncation", "head"))
    config.check_vocabulary(encoder.highest_id, directory)
    return encoder


def model_directory(args: argparse.Namespace) -> Path:
    """The directory to predict with.

    Where ``--init_from_ckpt`` names the weights of a run, and no flag says how else to use them, it is the directory of that
    run, which knows its task and holds all its layers; the flag is taken back then.

    Raises:
        UserError: no such model, or no such weights.
    """
    if args.init_from_ckpt is not None and not (args.model_dir or args.pooling_mode or args.label_file):
        weights = weights_file(args.init_from_ckpt)
        if (weights.parent / DESCRIPTION).is_file() and weights == find_weights(weights.parent):
            logger.info(f"{weights}: the weights of a run; {weights.parent} is opened as a whole")
            args.init_from_ckpt = None
            return weights.parent
    return local_directory(args.model_dir or args.pretrained_model_name_or_path)


def task_of(args: argparse.Namespace, directory: Path, description: dict[str, Any]) -> str:
    """The task that the directory of a run names, or that another tool's directory is for."""
    task = description.get("task")
    if task is not None and (task != "language_model" or args.pooling_mode is None):
        return task
    if args.pooling_mode is not None or (directory / MODULES).is_file():
        return "sentence_vectors"
    tensors = original_weights(args, directory)
    if tensors is not None:
        task = original_task(tensors)
        tags = task == "classification" and args.label_file is not None and all(map(parse_tag, read_labels(args.label_file)))
        return "entities" if tags else task
    architectures = _config(directory).get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    tasks = {
        "ForTokenClassification": "entities", "ForQuestionAnswering": "reading", "ForMaskedLM": "language_model",
        "ForPreTraining": "language_model",
    }  # fmt: skip
    return next((task for name, task in tasks.items() if architecture.endswith(name)), "classification")


def original_weights(args: argparse.Namespace, directory: Path) -> dict[str, Tensor] | None:
    """The checkpoint to predict with, where it is one of the original bertorch."""
    path = Path(args.init_from_ckpt or directory)
    path = find_weights(path) if path.is_dir() else path
    if path is None or path.suffix != ".bin" or not path.is_file():
        return None
    tensors = read_weights(path)
    return tensors if original_task(tensors) is not None else None


def _config(directory: Path) -> dict[str, Any]:
    """``config.json`` as it stands; what is wrong with it is said where it is loaded."""
    load_config(directory)
    return json.loads(config_path(directory).read_text(encoding="utf-8"))


def standard_input() -> bytes:
    return sys.stdin.buffer.read()


def load_rows(
    args: argparse.Namespace, is_text_pair: bool, labels: list[str] | None, label_needed: bool, piped: bytes
) -> list[Row]:
    """Every row of the input; a row that cannot be used stands there without texts."""
    return read_rows(
        args.input_file or "<stdin>",
        is_text_pair,
        labels,
        args.columns,
        args.bad_rows,
        label_needed=label_needed,
        stream=None if args.input_file else as_stream(piped),
        kind=input_format(args),
        keep_all=args.output_file is not None or not args.evaluate,  # answers lose no row
    )


def input_format(args: argparse.Namespace) -> str | None:
    return args.input_format or ("tsv" if args.input_file is None else None)


def writes_json(args: argparse.Namespace) -> bool:
    return args.output_format == "jsonl" or (args.output_format is None and str(args.output_file).endswith(".jsonl"))


def json_line(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False) + "\n"


def write_lines(args: argparse.Namespace, lines: Iterable[str]) -> None:
    """To ``--output_file``, complete or absent, or to standard output where only answers are asked for."""
    if args.output_file:
        write_whole(Path(args.output_file), lambda unfinished: _write(unfinished, lines))
        logger.info(f"predictions in {args.output_file}")
    elif not args.evaluate:
        sys.stdout.writelines(lines)


def _write(path: Path, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        handle.writelines(lines)


def label_lines(args: argparse.Namespace, rows: list[Row], labels: list[str], probabilities: np.ndarray) -> Iterable[str]:
    """A line a row: label and, on request, probabilities; an empty answer for a row that could not be used."""
    answers = iter(probabilities)
    for row in rows:
        values = next(answers) if row.texts else None
        label = labels[int(values.argmax())] if row.texts else None
        if writes_json(args):
            answer = {"label": label}
            if args.probabilities and row.texts:
                answer["probabilities"] = {name: round(float(value), 6) for name, value in zip(labels, values, strict=True)}
            yield json_line(answer)
        else:
            cells = [label or ""]
            if args.probabilities:
                cells += [f"{value:.6f}" for value in values] if row.texts else [""] * len(labels)
            yield "\t".join(cells) + "\n"


def print_metrics(metrics: dict[str, float]) -> None:
    print(", ".join(f"{name}: {value:.5f}" for name, value in metrics.items()))


def config_labels(directory: Path) -> list[str]:
    """The labels that transformers keeps in ``config.json``."""
    config = _config(directory)
    id2label = config.get("id2label")
    if isinstance(id2label, list):  # of the original bertorch
        id2label = {str(index): label for index, label in enumerate(id2label)}
    if not isinstance(id2label, dict) or sorted(id2label) != sorted(str(index) for index in range(len(id2label))):
        raise UserError(
            f"{directory}: config.json names no labels (id2label); give them with --label_file, "
            "or, for sentence vectors, say how they are made, with --pooling_mode mean for one"
        )
    labels = [str(id2label[str(index)]) for index in range(len(id2label))]
    if not all(is_text(label) for label in labels):
        raise UserError(f"{directory}: config.json names labels (id2label) that are half a character")
    check_labels(directory, labels)
    return labels
