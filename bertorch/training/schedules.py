"""Learning-rate schedules, the same as those of ``transformers.get_scheduler``."""

import math

SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
_POLYNOMIAL_END = 1e-7


def learning_rate(name: str, highest: float, step: int, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of update number ``step`` (from 0).

    Args:
        name: one of ``SCHEDULES``. ``constant`` has no warm-up, ``cosine_with_restarts`` has one cycle, ``polynomial`` has
            power 1 and ends at 1e-7, whatever the parameter group's highest rate.
        highest: the rate at the end of the warm-up.
        warmup_steps: number of updates over which the rate rises linearly from 0.
        total_steps: number of updates in the whole run.
    """
    if name == "constant":
        return highest
    if step < warmup_steps:
        return highest * step / max(1, warmup_steps)
    if name == "constant_with_warmup":
        return highest
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if name == "linear":
        return highest * max(0.0, 1.0 - progress)
    if name == "cosine":
        return highest * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if name == "cosine_with_restarts":
        return 0.0 if progress >= 1.0 else highest * 0.5 * (1.0 + math.cos(math.pi * (progress % 1.0)))
    if name == "polynomial":
        end = min(_POLYNOMIAL_END, highest)
        return end if progress >= 1.0 else end + (highest - end) * (1.0 - progress)
    raise ValueError(f"unknown schedule {name!r}")
