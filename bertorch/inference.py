"""Predict with a head: batches sharded over all processes, answers in the order of the rows."""

import numpy as np
import torch

from bertorch.data.batching import evaluation_batches
from bertorch.data.tokenizing import Samples
from bertorch.heads.classifier import Classifier
from bertorch.training.process_group import Processes
from bertorch.training.run import autocast


@torch.no_grad()
def predict_logits(
    model: Classifier, samples: Samples, batch_size: int, processes: Processes, precision: str = "fp32"
) -> np.ndarray:
    """The logits of every row, each computed once, on every rank: float32 ``[rows, num_labels]``.

    The batches do not depend on the number of ranks, so neither do the figures made from them.
    """
    model.eval()
    rows, logits = [], []
    for batch in evaluation_batches(samples, batch_size, processes.device, processes.world_size, processes.rank):
        with autocast(processes.device, precision):
            logits.append(model.logits(batch.tokens).float())
        rows.append(batch.rows)
    width = model.classifier.out_features
    mine = (
        np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64),
        torch.cat(logits).cpu().numpy() if logits else np.zeros((0, width), dtype=np.float32),
    )
    result = np.empty((len(samples), width), dtype=np.float32)
    for places, values in processes.gather(mine):
        result[places] = values
    return result
