"""Log lines through loguru, a progress bar on a terminal, and every figure in ``metrics.jsonl``."""

import json
import sys
from pathlib import Path
from typing import Any

from loguru import logger
from tqdm import tqdm

from bertorch.errors import UserError
from bertorch.writing import write_whole, writing


def set_up_logging(is_main: bool) -> None:
    """Only the main process logs; lines go above a progress bar where there is one."""
    logger.remove()
    if is_main:
        logger.add(lambda line: tqdm.write(line, file=sys.stderr, end=""), level="INFO", colorize=sys.stderr.isatty())


def shown(metrics: dict[str, float], originals: dict[str, tuple[str, int]]) -> str:
    """The figures of an evaluation as a log line has them: the loss, what the original shows beside it, then the others.

    Args:
        metrics: the figures.
        originals: what the original's log lines call a figure -> its name here, and how many digits it has there; people
            search logs for them.
    """
    parts = [f"{name}: {value:.5f}" for name, value in metrics.items()]
    original = [f"{name}: {metrics[own]:.{digits}f}" for name, (own, digits) in originals.items() if own in metrics]
    place = 1 if next(iter(metrics), None) == "loss" else 0
    return ", ".join(parts[:place] + original + parts[place:])


class Journal:
    """The figures of a run: ``metrics.jsonl``, a line each, and TensorBoard events where asked for.

    Raises:
        UserError: TensorBoard is asked for and not installed.
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
        """Drop the figures of updates that a resumed run will make again, and a line cut short."""
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


def progress_bar(total: int, done: int) -> tqdm:
    """A bar with the time left on a terminal; nothing in a file or pipe, where the log lines tell."""
    return tqdm(total=total, initial=done, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)
