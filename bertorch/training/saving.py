"""When a run saves, and the thread that writes while the training goes on.

One thread per process writes one thing after another, so two saves never overlap. It gets copies: the training may change
the weights as soon as ``write_later`` returns. What it writes is complete or absent, as everywhere (see ``writing.py``).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from bertorch.errors import UserError

_STEPS = 100  # updates between saves, if no flag says otherwise
_SHARE = 0.05  # of the time that saving may take, if no flag says otherwise

_thread: ThreadPoolExecutor | None = None
_jobs: dict[str, Future] = {}


def write_later(kind: str, write: Callable[[], None]) -> None:
    """Let the thread call ``write()``, after what was handed to it before. Jobs of a kind wait for each other.

    Raises:
        Exception: an earlier job failed.
    """
    global _thread
    wait_for(kind)
    _thread = _thread or ThreadPoolExecutor(1, "writer")
    _jobs[kind] = _thread.submit(write)


def wait_for(kind: str) -> None:
    """Wait for the last job of this kind; then its copy is free, and there is never more than one of a kind in memory.

    Raises:
        Exception: an earlier job failed.
    """
    if kind in _jobs:
        _jobs[kind].exception()  # this waits
    raise_failure()


def raise_failure() -> None:
    """Raise what a finished job has raised, once; without waiting."""
    for job in _jobs.values():
        if job.done() and job.exception() is not None:
            _forget()
            raise job.exception()


def finish_writing() -> None:
    """Wait until all is written.

    Raises:
        Exception: a job failed.
    """
    failures = [job.exception() for job in _jobs.values()]  # this waits
    _forget()
    for failure in failures:
        if failure is not None:
            raise failure


@contextlib.contextmanager
def all_written() -> Iterator[None]:
    """Wait for the thread at the end, also after an error; but not after Ctrl-C, which is KeyboardInterrupt the second time.

    Raises:
        Exception: a job failed. After another error this is only logged.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        try:
            finish_writing()
        except UserError as error:
            logger.warning(str(error))
        raise
    finish_writing()


def is_writing() -> bool:
    """Whether the thread is at work. At the end of a process it is only if it was given up: then nothing waits for it."""
    return any(not job.done() for job in _jobs.values())


def _forget() -> None:
    global _thread
    if _thread is not None:
        _thread.shutdown(wait=True, cancel_futures=True)
    _thread = None
    _jobs.clear()


def on_host(value: Any) -> Any:
    """A copy of all tensors in dicts, lists and tuples, on the host: pinned, if they are on a GPU, as that copies faster."""
    copy = _copied(value)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()  # the copies of all tensors are under way at once
    return copy


def _copied(value: Any) -> Any:
    match value:
        case Tensor():
            kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            return kept.copy_(value.detach(), non_blocking=True)
        case dict():
            return {key: _copied(part) for key, part in value.items()}
        case list() | tuple():
            return type(value)(_copied(part) for part in value)
    return value


class SavingTimes:
    """Which updates are saved: every ``--save_steps``, and when ``--save_seconds`` have passed since the last save.

    Without these flags: every 100 updates; on a GPU, those of every 100 that keep the time in which the training waits for
    saves under 5 % (a GPU makes 100 updates in a second, and a state has gigabytes).

    Args:
        steps, seconds: the flags.
        on_gpu: whether the run computes on a GPU.
    """

    def __init__(self, steps: int | None, seconds: float | None, on_gpu: bool):
        self.seconds = seconds
        self.steps = _STEPS if steps is None and seconds is None and not on_gpu else steps
        self.adapts = steps is None and seconds is None and on_gpu
        self._last, self._taken = time.perf_counter(), 0.0

    def counted(self, step: int) -> bool:
        """Whether ``--save_steps`` asks to save this update."""
        return self.steps is not None and step % self.steps == 0

    def timed(self, step: int) -> bool:
        """Whether the clock asks to save this update. The main process decides, as clocks differ."""
        since = time.perf_counter() - self._last
        if self.adapts:
            return step % _STEPS == 0 and not is_writing() and since * _SHARE >= self._taken * (1 - _SHARE)
        return self.seconds is not None and since >= self.seconds

    def saved(self, started: float) -> None:
        """Note that a save, started at this ``time.perf_counter()``, no longer holds the training up."""
        self._last = time.perf_counter()
        self._taken = self._last - started
