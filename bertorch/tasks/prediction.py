"""What the tasks of predict.py share: opening a saved model, reading rows, writing answers."""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from bertorch.data.rows import TEXT_ROLES, Row, iter_rows
from bertorch.data.tokenizing import TextTokenizer, open_text_tokenizer
from bertorch.encoder.hub import local_directory
from bertorch.encoder.weights import find_weights, weights_file
from bertorch.errors import UserError
from bertorch.reporting.runs import DESCRIPTION
from bertorch.tasks.contract import Predictor
from bertorch.tasks.description import Description, config_of
from bertorch.tasks.original import original_task, original_weights
from bertorch.tasks.streaming import Input, writes
from bertorch.tasks.table import TASKS, part
from bertorch.training.checkpoints import read_description
from bertorch.training.inference import Compute
from bertorch.training.process_group import Processes, device_of
from bertorch.writing import write_whole

_BREAKS = re.compile(r"[\t\r\n]")


def load_predictor(
    directory: str | Path,
    device: str | None = None,
    batch_size: int = 64,
    precision: str = "fp32",
    pooling_mode: str | None = None,
    **settings: Any,
) -> Predictor:
    """Open a trained model of any task, to call with rows.

    Args:
        directory: saved by a run, transformers or sentence-transformers; or a name on the hub.
        device: ``cpu``, ``cuda`` or ``cuda:1``; None uses a GPU if there is one.
        batch_size: rows or windows per forward pass.
        precision: number format to compute in, ``fp32``, ``bf16`` or ``fp16``.
        pooling_mode: make sentence vectors with a plain encoder.
        settings: of the task; see ``Predictor.open`` in its ``predictor.py``.

    Raises:
        UserError: the model does not exist, is damaged, or is for an unsupported task.
    """
    directory = local_directory(str(directory))
    compute = Compute(batch_size, Processes(0, 0, 1, device_of(device)), precision, bar=False)
    if pooling_mode is not None:
        settings["pooling_mode"] = pooling_mode
    return part(task_of(directory, pooling_mode), "predictor").Predictor.open(directory, compute, **settings)


def model_directory(args: argparse.Namespace) -> Path:
    """The directory to predict with.

    If ``--init_from_ckpt`` names the weights of a run, and no flag says how else to use them, it is the directory of that
    run, which names its task and holds all its layers; ``args.init_from_ckpt`` is then set to None.

    Raises:
        UserError: no such model, or no such weights.
    """
    if args.init_from_ckpt is not None and not (args.model_dir or args.pooling_mode or args.label_file):
        weights = weights_file(args.init_from_ckpt)
        if (weights.parent / DESCRIPTION).is_file() and weights == find_weights(weights.parent):
            logger.info(f"{weights}: these are the weights of a run; opening all of {weights.parent}")
            args.init_from_ckpt = None
            return weights.parent
    return local_directory(args.model_dir or args.pretrained_model_name_or_path)


def task_of(
    directory: Path, pooling_mode: str | None = None, weights: str | None = None, labels: list[str] | None = None
) -> str:
    """The task that a run's directory names, or that another tool's directory is for.

    Args:
        directory: of the model.
        pooling_mode: if given, a plain encoder is to make sentence vectors.
        weights: a file with the trained weights, if the directory has none.
        labels: of ``--label_file``; they tell a tagger of the original bertorch from its classifier.

    Raises:
        UserError: the task is not in the table.
    """
    raw = read_description(directory)
    if raw is not None and (raw["task"] != "language_model" or pooling_mode is None):
        if not isinstance(raw["task"], str) or raw["task"] not in TASKS:
            raise UserError(f"{directory}: a model for {str(raw['task'])[:60]}, which this version does not support")
        return raw["task"]
    descriptions = {task: part(task, "description").Description for task in TASKS}
    for task, description in descriptions.items():
        if description.marker is not None and (pooling_mode is not None or (directory / description.marker).is_file()):
            return task
    tensors = original_weights(directory, weights)
    if tensors is not None:
        return original_task(tensors, labels)
    architectures = config_of(directory).get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    endings = {ending: task for task, description in descriptions.items() for ending in description.architectures}
    return next((task for ending, task in endings.items() if architecture.endswith(ending)), "classification")


def text_tokenizer(
    directory: Path,
    description: Description,
    max_seq_length: int | None = None,
    truncation: str | None = None,
    longest: int | None = None,
) -> TextTokenizer:
    """The tokenizer of a model, set up as in its training unless told otherwise.

    Args:
        directory: with configuration and vocabulary.
        description: of the model.
        max_seq_length, truncation: in place of the description's.
        longest: ``max_seq_length`` if nothing else gives it; by default 512, or the encoder's number of positions.
    """
    length = max_seq_length or description.max_seq_length
    return open_text_tokenizer(
        directory, length, truncation or description.truncation, longest, description.chinese, description.max_part_lengths
    )


def rows_of(texts: Sequence[str | Sequence[str]]) -> list[Row]:
    """Rows made of texts or groups of texts, as if read from a file; a row with a blank text has no texts."""
    rows = [(one,) if isinstance(one, str) else tuple(one) for one in texts]
    return [Row(line, row if all(map(str.strip, row)) else (), None) for line, row in enumerate(rows, 1)]


def given_rows(
    args: argparse.Namespace,
    source: Input,
    is_text_pair: bool,
    labels: list[str] | None = None,
    label_needed: bool = False,
    **reading: Any,
) -> Iterable[Row]:
    """The rows of the input, read as they are asked for; an unusable row is kept without texts.

    ``reading``: see ``iter_rows``.
    """
    if source.kind == "columns":
        raise UserError("--input_format columns is for entities")
    if source.kind == "text" and (is_text_pair or label_needed or args.columns):
        raise UserError("--input_format text is for a text per line, without pairs, labels or --columns")
    rows = iter_rows(
        source.path,
        is_text_pair,
        labels,
        args.columns,
        args.bad_rows,
        label_needed=label_needed,
        stream=source.stream,
        kind=source.kind or ("tsv" if source.flows else None),
        keep_all=writes(args),  # every row needs an answer
        encoding=args.encoding,
        at_once=source.flows,
        **reading,
    )
    return source.ahead(rows)


def writes_json(args: argparse.Namespace) -> bool:
    return args.output_format == "jsonl" or (args.output_format is None and str(args.output_file).endswith(".jsonl"))


def json_line(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False) + "\n"


def table_line(cells: Iterable[str]) -> str:
    """A line of cells; a TAB or the end of a line inside a cell becomes a space."""
    return "\t".join(_BREAKS.sub(" ", cell) for cell in cells) + "\n"


def header(args: argparse.Namespace, names: Sequence[str]) -> str:
    """With --header the names of a table's columns; json lines name their values anyway."""
    return table_line(names) if args.header and not writes_json(args) else ""


def given_names(args: argparse.Namespace, texts: int) -> list[str]:
    """The columns that --with_label and --with_text add."""
    return ["gold"] * args.with_label + list(TEXT_ROLES[texts]) * args.with_text


def given_cells(args: argparse.Namespace, row: Row, texts: int) -> list[str]:
    """What --with_label and --with_text add to a line of a table: cells of the row as it was read."""
    shown = row.texts or [""] * texts
    return [answer_cell(row.label)] * args.with_label + list(shown) * args.with_text


def given_values(args: argparse.Namespace, row: Row, texts: int) -> dict[str, Any]:
    """The same for json lines; null for a row without texts."""
    values: dict[str, Any] = {"gold": row.label} if args.with_label else {}
    if args.with_text:
        values.update(zip(TEXT_ROLES[texts], row.texts or [None] * texts, strict=True))
    return values


def label_lines(
    args: argparse.Namespace,
    rows: Sequence[Row],
    labels: list[str],
    answers: Iterable[dict[str, Any]],
    texts: int,
    key: str = "label",
) -> list[str]:
    """One line per row: its answer and, on request, probabilities and what was read; an unusable row has an empty answer.

    Args:
        args: the flags.
        rows: the input.
        labels: of the model.
        answers: ``key`` and perhaps ``probabilities``, for the rows that have texts.
        texts: of a row.
        key: ``label``, ``labels`` or ``score``.
    """
    answers, lines = iter(answers), []
    for row in rows:
        answer = next(answers) if row.texts else {key: None}
        probabilities = answer.get("probabilities", {})
        if writes_json(args):
            shown = {key: round(answer[key], 6) if isinstance(answer[key], float) else answer[key]}
            if args.probabilities and row.texts:
                shown["probabilities"] = {name: round(value, 6) for name, value in probabilities.items()}
            lines.append(json_line({**shown, **given_values(args, row, texts)}))
        else:
            cells = [answer_cell(answer[key])]
            if args.probabilities:
                cells += [f"{probabilities[label]:.6f}" if row.texts else "" for label in labels]
            lines.append(table_line([*cells, *given_cells(args, row, texts)]))
    return lines


def label_names(args: argparse.Namespace, labels: list[str], texts: int, key: str = "label") -> list[str]:
    """The names of the columns of ``label_lines``."""
    return [key, *(labels if args.probabilities else []), *given_names(args, texts)]


def answer_cell(answer: str | list[str] | float | None) -> str:
    """A label, labels or a score as a cell of a file; empty if there is none."""
    if isinstance(answer, list):
        return "|".join(answer)
    return f"{answer:.6f}" if isinstance(answer, float) else answer or ""


def write_predictions(saved_dir: str | Path, compute: Compute, answers: Iterable[str]) -> None:
    """Write one answer per line to ``saved_dir/test_predictions.tsv``."""
    if compute.processes.is_main:
        path = Path(saved_dir) / "test_predictions.tsv"
        lines = [f"{answer}\n" for answer in answers]
        write_whole(path, lambda unfinished: unfinished.write_text("".join(lines), encoding="utf-8"))
        logger.info(f"{len(lines)} predictions in {path}")


def print_metrics(metrics: dict[str, float]) -> None:
    print(", ".join(f"{name}: {value:.5f}" for name, value in metrics.items()))
