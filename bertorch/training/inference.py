"""Compute with a head: batches sharded over all processes, answers in the order of the rows."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor, nn

from bertorch.data.batching import evaluation_batches
from bertorch.data.tokenizing import Samples
from bertorch.encoder import TokenBatch
from bertorch.tasks.sentences.directory import load_sentence_encoder
from bertorch.tasks.sentences.encoder import SentenceEncoder
from bertorch.tasks.sentences.pair import SentencePair
from bertorch.tasks.sentences.scores import cosines, similarity_metrics
from bertorch.training.checkpoints import write_whole
from bertorch.training.process_group import Processes
from bertorch.training.run import Run, autocast


def compute(
    model: nn.Module,
    answer: Callable[[TokenBatch], Tensor],
    samples: Samples,
    batch_size: int,
    processes: Processes,
    precision: str = "fp32",
) -> np.ndarray:
    """``answer`` of every sequence, each computed once, on every rank: float32 ``[sequences, width]``.

    The batches do not depend on the number of ranks, so neither do the figures made from them.

    Args:
        model: set to evaluation.
        answer: a method of it, ``model.logits`` say: a batch -> ``[batch_size, width]``.
        samples: what to compute it of.
        batch_size: sequences a forward pass.
        processes: share the batches.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    parts = answers(model, lambda tokens, _: answer(tokens), samples, batch_size, processes, precision)
    result = np.empty((len(samples.lengths), parts[0][1].shape[1]), dtype=np.float32)
    for sequences, values in parts:
        result[sequences] = values
    return result


def compute_tokens(
    model: nn.Module,
    answer: Callable[[TokenBatch], Tensor],
    samples: Samples,
    batch_size: int,
    processes: Processes,
    precision: str = "fp32",
) -> np.ndarray:
    """As ``compute``, where ``answer`` gives something of every token: float32 ``[total_tokens, width]``."""
    parts = answers(model, lambda tokens, _: answer(tokens), samples, batch_size, processes, precision)
    result = np.empty((len(samples.input_ids), parts[0][1].shape[1]), dtype=np.float32)
    for sequences, values in parts:
        starts, ends = samples.offsets[sequences], samples.offsets[sequences + 1]
        result[np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])] = values
    return result


@torch.no_grad()
def answers(
    model: nn.Module,
    answer: Callable[[TokenBatch, np.ndarray], Any],
    samples: Samples,
    batch_size: int,
    processes: Processes,
    precision: str,
) -> list[tuple[np.ndarray, Any]]:
    """``(sequences of a batch, answer to it)`` of every batch, on every rank; tensors become float32 arrays."""
    model.eval()
    mine = []
    for tokens, sequences in evaluation_batches(samples, batch_size, processes.device, processes.world_size, processes.rank):
        with autocast(processes.device, precision):
            values = answer(tokens, sequences)
        mine.append((sequences, values.float().cpu().numpy() if isinstance(values, Tensor) else values))
    return [part for of_rank in processes.gather(mine) for part in of_rank]


def pair_cosines(
    sentence: SentenceEncoder, samples: Samples, batch_size: int, processes: Processes, precision: str = "fp32"
) -> np.ndarray:
    """The cosine between the vectors of the first two sequences of each row, on every rank: float64 ``[rows]``."""
    return cosines(*pair_vectors(sentence, samples, batch_size, processes, precision))


def pair_vectors(
    sentence: SentenceEncoder, samples: Samples, batch_size: int, processes: Processes, precision: str = "fp32"
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the first two sequences of each row, on every rank: float32 ``[rows, width]`` twice."""
    vectors = compute(sentence, sentence, samples, batch_size, processes, precision)
    first = samples.row_starts[:-1]
    return vectors[first], vectors[first + 1]


def pair_logits(
    model: SentencePair, samples: Samples, batch_size: int, processes: Processes, precision: str = "fp32"
) -> tuple[np.ndarray, np.ndarray]:
    """The class logits of each row, float32 ``[rows, num_labels]``, and the cosine of its vectors, ``[rows]``."""
    u, v = pair_vectors(model.sentence, samples, batch_size, processes, precision)
    return vector_logits(model, u, v, processes), cosines(u, v)


@torch.no_grad()
def vector_logits(model: SentencePair, u: np.ndarray, v: np.ndarray, processes: Processes) -> np.ndarray:
    """The class logits of pairs of vectors ``[rows, width]``: float32 ``[rows, num_labels]``."""
    model.eval()
    return model.logits(*(torch.from_numpy(side).to(processes.device) for side in (u, v))).cpu().numpy()


def test_pairs(args: argparse.Namespace, samples: Samples, processes: Processes, run: Run) -> None:
    """Cosines of the test pairs by the saved model; they stand in ``saved_dir/test_predictions.tsv``."""
    sentence = load_sentence_encoder(args.saved_dir)[0].to(processes.device)
    similarities = pair_cosines(sentence, samples, args.eval_batch_size, processes, args.precision)
    if not np.isnan(samples.labels).any():
        run.report("test", similarity_metrics(similarities, samples.labels))
    write_predictions(args, processes, (f"{similarity:.6f}" for similarity in similarities))


def write_predictions(args: argparse.Namespace, processes: Processes, answers: Iterable[str]) -> None:
    """One answer a line in ``saved_dir/test_predictions.tsv``."""
    if processes.is_main:
        path = Path(args.saved_dir) / "test_predictions.tsv"
        lines = [f"{answer}\n" for answer in answers]
        write_whole(path, lambda unfinished: unfinished.write_text("".join(lines), encoding="utf-8"))
        logger.info(f"{len(lines)} predictions in {path}")
