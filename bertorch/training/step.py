"""One batch of a training: forward, tricks, backward, update."""

import torch

from bertorch.data.batching import MovableBatch
from bertorch.training.run import Run
from bertorch.training.tricks import r_drop


def train_step(run: Run, batch: MovableBatch) -> None:
    """Train on one batch. To experiment with a step, paste these lines into the loop of a script and change them there."""
    args = run.args
    with run.autocast():
        loss = run.model(batch)
        if args.r_drop_weight:
            loss = r_drop(loss, run.model(batch), args.r_drop_weight)
    run.backward(loss)
    if args.fgm_epsilon:
        adversarial_step(run, batch, args.fgm_epsilon)
    run.step()


def adversarial_step(run: Run, batch: MovableBatch, epsilon: float) -> None:
    """Add the gradient of the batch under attack: its word embeddings moved to where the loss grows fastest.

    They move by ``epsilon * g / |g|`` (Miyato et al. 2017, eq. 5, FGM), g the gradient at hand, of the whole embedding
    matrix, as is usual for BERT; the paper has that of each text.
    """
    weight = run.bare_model.encoder.embeddings.word.weight
    before = weight.detach().clone()
    with torch.no_grad():
        norm = weight.grad.norm()
        weight.add_(weight.grad * torch.where(norm > 0, epsilon / norm, 0.0))
    with run.autocast():
        loss = run.model(batch)
    run.backward(loss)  # before the embeddings are back: a tied decoder's gradient needs them as they were
    with torch.no_grad():
        weight.copy_(before)
