"""Predict the tokens at each [MASK] of a text."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from bertorch.data.rows import Row
from bertorch.errors import UserError
from bertorch.tasks.prediction import json_line, load_rows, standard_input, write_lines, writes_json
from bertorch.tasks.pretraining.predictor import Candidates, Predictor
from bertorch.training.inference import Compute


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Fill the masks of every row of the input, each mask on its own."""
    if args.evaluate:
        raise UserError("--evaluate: run_pretraining.py evaluates language models, on its --dev_data_file")
    predictor = Predictor.open(directory, compute, args.top_k, args.init_from_ckpt, args.max_seq_length, args.truncation)
    piped = b"" if args.input_file else standard_input()
    rows = load_rows(args, args.is_text_pair, None, False, piped)
    samples, tokenizer = predictor.samples(rows), predictor.tokenizer
    if not (samples.input_ids == tokenizer.pretrained.mask_token_id).any():
        raise UserError(
            f"{directory}: a language model, and no text has {tokenizer.pretrained.mask_token} in its first "
            f"{tokenizer.max_seq_length} tokens; for sentence vectors give --pooling_mode mean"
        )
    filled = predictor.fill(samples)
    if compute.processes.is_main:
        write_lines(args, _lines(args, predictor, rows, filled))


def _lines(args: argparse.Namespace, predictor: Predictor, rows: list[Row], filled: list[list[Candidates]]) -> Iterator[str]:
    """One line per row: its text with the likeliest tokens, then the candidates of each mask."""
    found = iter(filled)
    for row in rows:
        masks = next(found) if row.texts else []
        answer = predictor.answer(row, masks)
        if writes_json(args):
            yield json_line(answer)
        else:
            cells = [" ".join(f"{token}:{p:.4f}" for token, p in candidates) for candidates in masks]
            yield "\t".join([answer["text"], *cells]) + "\n"
