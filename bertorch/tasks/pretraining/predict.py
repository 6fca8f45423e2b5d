"""Predict the tokens at each [MASK] of a text."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bertorch.data.rows import TEXT_ROLES, Row
from bertorch.errors import UserError
from bertorch.tasks.prediction import answer_cell, given_rows, header, json_line, table_line, writes_json
from bertorch.tasks.pretraining.predictor import Candidates, Predictor
from bertorch.tasks.streaming import Output, answer_rows, open_input
from bertorch.training.inference import Compute


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Fill the masks of every row of the input, each mask on its own."""
    if args.evaluate:
        raise UserError("--evaluate: run_pretraining.py evaluates language models, on its --dev_data_file")
    predictor = Predictor.open(
        directory, compute.alone, args.top_k, args.init_from_ckpt, args.max_seq_length, args.truncation
    )
    source = open_input(args)
    tokenizer = predictor.tokenizer

    def answer(rows: Sequence[Row]) -> tuple[list[str], int]:
        samples = predictor.samples(rows)
        filled = predictor.fill(samples) if len(samples) else []
        return _lines(args, predictor, rows, filled), sum(map(len, filled))

    texts = 2 if args.is_text_pair else 1
    originals = [f"original_{role}" for role in TEXT_ROLES[texts]] * args.with_text
    columns = [*TEXT_ROLES[texts], *["gold"] * args.with_label, *originals, "masks"]
    rows = given_rows(args, source, args.is_text_pair)
    counts = answer_rows(args, source, compute, rows, answer, Output(args, header(args, columns)))
    if compute.processes.is_main and not any(counts):
        raise UserError(
            f"{directory}: a language model, and no text has {tokenizer.pretrained.mask_token} in its first "
            f"{tokenizer.max_seq_length} tokens; for sentence vectors give --pooling_mode mean"
        )


def _lines(
    args: argparse.Namespace, predictor: Predictor, rows: Sequence[Row], filled: Sequence[list[Candidates]]
) -> list[str]:
    """One line per row: its text with the likeliest tokens, then the candidates of each mask."""
    found, lines = iter(filled), []
    for row in rows:
        masks = next(found) if row.texts else []
        answer, original = predictor.answer(row, masks), "\t".join(row.texts)
        if writes_json(args):
            given = {"gold": row.label} if args.with_label else {}
            lines.append(json_line({**answer, **given, **({"original": original} if args.with_text else {})}))
        else:
            cells = [*answer["text"].split("\t", len(row.texts) - 1), *[answer_cell(row.label)] * args.with_label]
            cells += list(row.texts) * args.with_text
            cells += [" ".join(f"{token}:{p:.4f}" for token, p in candidates) for candidates in masks]
            lines.append(table_line(cells))
    return lines
