"""One training step: forward, tricks, backward, update."""

import torch

from bertorch.data.batching import MovableBatch
from bertorch.training.run import Run
from bertorch.training.tricks import r_drop


def train_step(run: Run, batch: MovableBatch) -> None:
    """Train on one batch. To experiment, paste these lines into a script's loop and change them there."""
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
    """Add the gradient of an adversarial batch, with word embeddings moved in the direction that raises the loss most.

    They move by ``epsilon * g / |g|`` (Miyato et al. 2017, eq. 5, FGM), where g is the current gradient of the whole
    embedding matrix, as is usual for BERT; the paper uses the gradient for each text.
    """
    weight = run.bare_model.encoder.embeddings.word.weight
    before = weight.detach().clone()
    with torch.no_grad():
        norm = weight.grad.norm()
        weight.add_(weight.grad * torch.where(norm > 0, epsilon / norm, 0.0))
    with run.autocast():
        loss = run.model(batch)
    run.backward(loss)  # before the embeddings are restored: a tied decoder's gradient needs the moved ones
    with torch.no_grad():
        weight.copy_(before)
