"""Prediction with a trained language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertorch.copies import to_device
from bertorch.data.rows import Row
from bertorch.data.tokenizing import Samples, TextTokenizer, tokenize
from bertorch.encoder import TokenBatch
from bertorch.tasks.prediction import rows_of, text_tokenizer
from bertorch.tasks.pretraining.description import Description
from bertorch.tasks.pretraining.head import LanguageModel, load_trained_language_model
from bertorch.training.inference import Compute

Candidates = list[tuple[str, float]]  # tokens for a mask and their probabilities, the likeliest first


@dataclass
class Predictor:
    """A trained model that fills masks, with ``top_k`` candidates for each; see ``contract.Predictor``."""

    model: LanguageModel
    tokenizer: TextTokenizer
    description: Description
    compute: Compute
    top_k: int = 10

    @classmethod
    def open(
        cls,
        directory: str | Path,
        compute: Compute,
        top_k: int = 10,
        weights: str | Path | None = None,
        max_seq_length: int | None = None,
        truncation: str | None = None,
    ) -> "Predictor":
        """See ``contract.Predictor``.

        Args:
            directory: that of a run, or of a masked language model of transformers.
            compute: the device and batches of computation.
            top_k: candidates for each mask.
            weights: a file with the trained weights, if the directory has none.
            max_seq_length, truncation: if different from training.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        directory = Path(directory)
        description = Description.read(directory) or Description(objectives=["mlm"])
        model = load_trained_language_model(directory, weights).to(compute.device)
        tokenizer = text_tokenizer(directory, description, max_seq_length, truncation)
        tokenizer.backend.encode_special_tokens = False  # otherwise English ALBERT reads [MASK] as text
        return cls(model, tokenizer, description, compute, min(top_k, model.encoder.config.vocab_size))

    def __call__(self, rows: Sequence[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """Each ``text`` with its masks filled, and the candidates of each of its ``masks``."""
        read = rows_of(rows)
        found = iter(self.fill(self.samples(read)) if any(row.texts for row in read) else ())
        return [self.answer(row, next(found) if row.texts else []) for row in read]

    def samples(self, rows: list[Row]) -> Samples:
        """Token ids of the rows that have texts."""
        return tokenize(((row.line, row.texts, -1) for row in rows if row.texts), self.tokenizer)

    def fill(self, samples: Samples) -> list[list[Candidates]]:
        """The candidates for each mask of each row, on every rank."""
        pretrained = self.tokenizer.pretrained

        masked = [
            np.flatnonzero(samples.input_ids[start:end] == pretrained.mask_token_id)
            for start, end in zip(samples.offsets, samples.offsets[1:], strict=False)
        ]  # of each row

        def best(tokens: TokenBatch, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            starts = np.cumsum([0, *tokens.lengths])
            places = np.concatenate([masked[row] + start for row, start in zip(rows, starts, strict=False)])
            states = self.model.encoder(tokens).index_select(0, to_device(torch.from_numpy(places), self.compute.device))
            return tuple(self.model.token_logits(states).float().softmax(dim=1).topk(self.top_k, dim=1))

        def read(values: np.ndarray, ids: np.ndarray, _: list[int], rows: np.ndarray) -> list[list[Candidates]]:
            pairs = zip(map(pretrained.convert_ids_to_tokens, ids.tolist()), values.tolist(), strict=True)
            found = iter([list(zip(*pair, strict=True)) for pair in pairs])
            return [[next(found) for _ in masked[row]] for row in rows]

        parts = self.compute.batches(self.model, best, samples, read)
        filled = {int(row): masks for rows, values in parts for row, masks in zip(rows, values, strict=True)}
        return [filled[row] for row in range(len(filled))]

    def answer(self, row: Row, masks: list[Candidates]) -> dict[str, Any]:
        """The text of a row with the likeliest tokens, and the candidates of each mask."""
        pretrained, text = self.tokenizer.pretrained, "\t".join(row.texts)
        for candidates in masks:
            text = text.replace(pretrained.mask_token, pretrained.convert_tokens_to_string([candidates[0][0]]).strip(), 1)
        listed = [[{"token": token, "probability": round(p, 6)} for token, p in candidates] for candidates in masks]
        return {"text": text, "masks": listed}
