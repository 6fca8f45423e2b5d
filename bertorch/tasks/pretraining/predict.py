"""What a language model reads where a text has [MASK]."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from bertorch.data.rows import Row
from bertorch.data.tokenizing import tokenize
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.tasks.prediction import json_line, load_rows, standard_input, text_encoder, write_lines, writes_json
from bertorch.tasks.pretraining.head import load_trained_language_model
from bertorch.training.inference import answers
from bertorch.training.process_group import Processes

Candidates = tuple[np.ndarray, np.ndarray]  # token ids and their probabilities, ``[top_k]``


def fill_masks(args: argparse.Namespace, directory: Path, description: dict[str, Any], processes: Processes) -> None:
    """Fill the masks of every row of the input, each for itself."""
    if args.evaluate:
        raise UserError("--evaluate: run_pretraining.py evaluates language models, on its --dev_data_file")
    model = load_trained_language_model(directory, args.init_from_ckpt).to(processes.device)
    encoder = text_encoder(args, directory, description)
    tokenizer = encoder.pretrained
    encoder.backend.encode_special_tokens = False  # to English ALBERT [MASK] is text otherwise
    piped = b"" if args.input_file else standard_input()
    rows = load_rows(args, args.is_text_pair, None, False, piped)
    samples = tokenize(((row.line, row.texts, -1) for row in rows if row.texts), encoder)
    if not (samples.input_ids == tokenizer.mask_token_id).any():
        raise UserError(
            f"{directory}: a language model, and no text has {tokenizer.mask_token} in its first {encoder.max_seq_length} "
            "tokens; for sentence vectors give --pooling_mode mean"
        )
    top_k = min(args.top_k, model.encoder.config.vocab_size)

    def best(tokens: TokenBatch, _: np.ndarray) -> list[list[Candidates]]:
        masked = tokens.input_ids == tokenizer.mask_token_id
        probabilities = model.token_logits(model.encoder(tokens)[masked]).float().softmax(dim=1)
        values, ids = (part.cpu().numpy() for part in probabilities.topk(top_k, dim=1))
        found = iter(zip(ids, values, strict=True))
        return [[next(found) for _ in range(int(part.sum()))] for part in masked.split(tokens.lengths)]

    parts = answers(model, best, samples, args.batch_size, processes, args.precision)
    filled = {int(row): masks for rows_, values in parts for row, masks in zip(rows_, values, strict=True)}
    if processes.is_main:
        write_lines(args, _lines(args, rows, [filled[row] for row in range(len(filled))], tokenizer))


def _lines(
    args: argparse.Namespace, rows: list[Row], filled: list[list[Candidates]], tokenizer: PreTrainedTokenizerBase
) -> Iterable[str]:
    """A line a row: its text with the likeliest tokens, then the candidates of each mask."""
    found = iter(filled)
    for row in rows:
        masks = [
            list(zip(tokenizer.convert_ids_to_tokens(ids.tolist()), values.tolist(), strict=True))
            for ids, values in (next(found) if row.texts else ())
        ]
        text = "\t".join(row.texts)
        for candidates in masks:
            text = text.replace(tokenizer.mask_token, tokenizer.convert_tokens_to_string([candidates[0][0]]).strip(), 1)
        if writes_json(args):
            listed = [[{"token": token, "probability": round(p, 6)} for token, p in candidates] for candidates in masks]
            yield json_line({"text": text, "masks": listed})
        else:
            cells = [" ".join(f"{token}:{p:.4f}" for token, p in candidates) for candidates in masks]
            yield "\t".join([text, *cells]) + "\n"
