"""Start processes that do not outlive the test that started them, and find those that do."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

PATIENCE = 600  # seconds that a process may take: some need 20 on a quiet machine, and many times that on a busy one
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@contextlib.contextmanager
def started(command: list[str], **how) -> Iterator[subprocess.Popen]:
    """A process in a session of its own, its output piped as text; it and all that it has started are killed at the end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **{**pipes, **how}) as process:
        try:
            yield process
        finally:
            _kill(process)


def finished(command: list[str], input: str | None = None, **how) -> subprocess.CompletedProcess:
    """Wait for a process, as ``subprocess.run`` does with its output captured."""
    if input is not None:
        how["stdin"] = subprocess.PIPE
    with started(command, **how) as process:
        try:
            out, error = process.communicate(input, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise AssertionError(f"{command} has not ended after {PATIENCE} seconds: {process.communicate()}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def _kill(process: subprocess.Popen) -> None:
    """Kill a process, its descendants, which may have sessions of their own (torchrun's workers do), and its group."""
    descendants = []
    with contextlib.suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(process.pid).children(recursive=True)
    for one in (process, *descendants):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# Hooks of pytest, which tests/conftest.py has too: the suite fails where a test has left a process behind.

_LEFT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT] = []
    if sys.platform == "linux":  # elsewhere a process whose parent has ended is not found
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist each worker looks for what its tests have left, and their controller for what workers have left."""
    left = session.config.stash[_LEFT]
    left += _left_behind()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = left
    elif left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    node.config.stash[_LEFT] += getattr(node, "workeroutput", {}).get("left", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for command in config.stash[_LEFT]:
        terminalreporter.write_line(f"FAILED: a test has left a process behind, {command}", red=True)


def _left_behind() -> list[str]:
    """The descendants of this process that do not end by themselves in seconds; kills them.

    Multiprocessing's tracker of resources lives as long as the process that uses it.
    """
    commands = {}
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            commands[one] = " ".join(one.cmdline())
    mine = [one for one, command in commands.items() if command and "multiprocessing.resource_tracker" not in command]
    _, alive = psutil.wait_procs(mine, timeout=5)
    for one in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(alive, timeout=5)
    return [f"{one.pid}: {commands[one]}" for one in alive]
