"""Choose options."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertorch.data.files import INPUT_FORMATS
from bertorch.errors import UserError
from bertorch.tasks.choice.predictor import Predictor
from bertorch.tasks.choice.rows import ChoiceRow, iter_choices
from bertorch.tasks.choice.scores import choice_metrics
from bertorch.tasks.prediction import header, json_line, print_metrics, table_line, writes_json
from bertorch.tasks.streaming import Output, answer_rows, open_input, writes
from bertorch.training.inference import Compute

_BATCHES = 2  # of a block; a row has several sequences


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write a line per question: the chosen option; with --evaluate print metrics."""
    predictor = Predictor.open(directory, compute.alone, args.init_from_ckpt, args.max_seq_length)
    if args.columns is not None or args.is_text_pair or args.corpus is not None:
        raise UserError("--columns, --is_text_pair and --corpus are not for questions with options")
    if args.input_format not in (None, *INPUT_FORMATS):
        raise UserError(
            f"--input_format {args.input_format}: for questions with options use one of {', '.join(INPUT_FORMATS)}"
        )
    source = open_input(args)
    rows = iter_choices(
        source.path, args.bad_rows, args.evaluate, args.encoding, source.stream,
        source.kind or ("tsv" if source.flows else None), keep_all=writes(args), at_once=source.flows,
    )  # fmt: skip

    def answer(rows: Sequence[ChoiceRow]) -> tuple[list[str], Any]:
        answers = predictor.answers(rows)
        lines = [_line(args, row, one) for row, one in zip(rows, answers, strict=True)]
        pairs = zip(rows, answers, strict=True)
        return lines, [(np.array(one["probabilities"]), row.label) for row, one in pairs if row.options]

    names = ["label", "answer"] + ["probabilities"] * args.probabilities + ["gold"] * args.with_label
    output = Output(args, header(args, names + ["context", "question", "options"] * args.with_text))
    kept = answer_rows(args, source, compute, source.ahead(rows), answer, output, _BATCHES * compute.batch_size)
    if args.evaluate and compute.processes.is_main:
        probabilities, labels = zip(*(known for some in kept for known in some), strict=True)
        print_metrics(choice_metrics(probabilities, labels))


def _line(args: argparse.Namespace, row: ChoiceRow, answer: dict[str, Any]) -> str:
    shares = [round(share, 6) for share in answer["probabilities"] or ()]
    context = "____".join(row.context)
    if writes_json(args):
        shown = {"label": answer["label"], "answer": answer["answer"]}
        if args.probabilities:
            shown["probabilities"] = shares or None
        if args.with_label:
            shown["gold"] = row.label
        if args.with_text:
            shown.update(context=context, question=row.question, options=row.options)
        return json_line(shown)
    cells = [_cell(answer["label"]), answer["answer"] or ""]
    if args.probabilities:
        cells.append("|".join(f"{share:.6f}" for share in shares))
    if args.with_label:
        cells.append(_cell(row.label))
    if args.with_text:
        cells += [context, row.question, "|".join(row.options)]
    return table_line(cells)


def _cell(place: int | None) -> str:
    return "" if place is None else str(place)
