"""Log lines through loguru, a progress bar on a terminal, and every figure in ``metrics.jsonl``."""

import json
import sys
from pathlib import Path
from typing import Any

from loguru import logger
from tqdm import tqdm

from bertorch.errors import UserError
from bertorch.writing import write_whole, writing

_FIGURES = 80  # columns for the figures of an evaluation, of a line of 120


def set_up_logging(is_main: bool) -> None:
    """Log on the main process only; log lines appear above the progress bar, if any."""
    logger.remove()
    if is_main:
        layout = (
            "<green>{time:HH:mm:ss}</green> | <level>{level}</level> | <level>{message}</level>"  # short, for a terminal
        )
        logger.add(
            lambda line: tqdm.write(line, file=sys.stderr, end=""),
            level="INFO",
            format=layout,
            colorize=sys.stderr.isatty(),
        )


def step_line(global_step: int, figures: dict[str, Any], speed: float, total_steps: int) -> str:
    """The log line of a step; its first fields are the original bertorch's, and people search logs for them.

    Args:
        global_step: updates so far.
        figures: ``epoch``, ``batch``, ``loss`` and perhaps ``accuracy``.
        speed: updates per second.
        total_steps: of the run; the line says in how much time they are reached.
    """
    parts = [f"{name}: {value:.5f}" if isinstance(value, float) else f"{name}: {value}" for name, value in figures.items()]
    left = tqdm.format_interval((total_steps - global_step) / max(speed, 1e-9))
    return f"global step: {global_step}, {', '.join(parts)}, speed: {speed:.2f} step/s, {total_steps} in {left}"


def shown(metrics: dict[str, float], originals: dict[str, tuple[str, int]]) -> str:
    """Format metrics for a log line: the loss, then the figures that the original bertorch logs, then the others.

    What does not fit the line is left out; ``metrics.jsonl`` has it.

    Args:
        metrics: the figures.
        originals: a figure's name in the original's log lines -> its name here and its digits there. People search logs
            for the old names.
    """
    parts = [f"{name}: {value:.5f}" for name, value in metrics.items()]
    original = [f"{name}: {metrics[own]:.{digits}f}" for name, (own, digits) in originals.items() if own in metrics]
    place = 1 if next(iter(metrics), None) == "loss" else 0
    listed = parts[:place] + original + parts[place:]
    while len(", ".join(listed)) > _FIGURES:
        listed = [*listed[:-2], "…"] if listed[-1] == "…" else [*listed[:-1], "…"]
    return ", ".join(listed)


class Journal:
    """Writes a run's figures to ``metrics.jsonl``, one JSON line per record, and to TensorBoard if asked.

    Raises:
        UserError: TensorBoard is asked for but not installed.
    """

    def __init__(self, directory: Path, tensorboard: bool):
        self.path = directory / "metrics.jsonl"
        self.writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("--tensorboard needs a package: pip install tensorboard") from None
            self.writer = SummaryWriter(str(directory / "tensorboard"))

    def write(self, kind: str, global_step: int, figures: dict[str, Any]) -> None:
        with writing(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"kind": kind, "global_step": global_step, **figures}) + "\n")
        if self.writer is not None:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self.writer.add_scalar(f"{kind}/{name}", value, global_step)
            self.writer.flush()

    def forget_after(self, global_step: int) -> None:
        """Drop the figures of updates that a resumed run will repeat, and any incomplete line."""
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                if json.loads(line)["global_step"] <= global_step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        write_whole(self.path, lambda unfinished: unfinished.write_text("".join(kept), encoding="utf-8"))


def is_shown() -> bool:
    """Whether bars are shown: on a terminal only, not in a file or pipe."""
    return sys.stderr.isatty()


def progress_bar(total: int, done: int) -> tqdm:
    """A bar of a run's steps, with the time left."""
    return tqdm(total=total, initial=done, unit="step", disable=not is_shown(), dynamic_ncols=True)


def evaluation_bar(total: int, wanted: bool) -> tqdm:
    """A bar of the sequences of an evaluation, with the time left; it appears after a second and leaves nothing."""
    shown = wanted and is_shown()
    return tqdm(total=total, unit=" texts", desc="evaluating", leave=False, delay=1, disable=not shown, dynamic_ncols=True)
