"""One batch of a training: forward, tricks, backward, update."""

from bertorch.data.batching import MovableBatch
from bertorch.training.run import Run
from bertorch.training.tricks import adversarial_step, r_drop


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
