"""Find runs on disk, and read the files they left, even if some are missing or damaged."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertorch.errors import UserError

DESCRIPTION = "bertorch.json"
EVALUATION = "evaluation.json"  # details of the saved model's evaluation, for the report
DATA_REPORT = "data_report.json"
REPORT = "report.html"
STATES = "training_state"
JOURNAL = "metrics.jsonl"
SEEDS = "seeds.json"
_LARGEST = 2**53  # whole numbers up to this are exact as floats, which the charts use
_NO_FLAGS_OF_A_RUN = ("saved_dir", "resume", "overwrite", "seeds", "local_rank")  # they do not affect the results


def latest_state(directory: Path) -> Path | None:
    """The newest complete training state."""
    states = sorted((directory / STATES).glob("step-*"))
    return states[-1] if states else None


@dataclass
class RunFiles:
    """The contents of a run's directory.

    Attributes:
        name: distinguishes the run from the others.
        path: its directory.
        description: ``bertorch.json``; empty if there is none.
        train, evaluations, tests: the lines of ``metrics.jsonl`` of each kind, in order.
        evaluation: ``evaluation.json``.
        data: ``data_report.json``.
        state: ``state.json`` of the newest training state.
        missing: one line for each file that is missing or cannot be read.
    """

    name: str
    path: Path
    description: dict[str, Any] = field(default_factory=dict)
    train: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that the run was started with; empty if nothing was saved yet."""
        return self.description.get("arguments") or self.state.get("arguments") or {}

    @property
    def command(self) -> str | None:
        """The command line as typed; None if the run did not save it."""
        return self._kept("command", str)

    @property
    def started(self) -> str | None:
        """Date and time of the start."""
        return self._kept("started", str)

    @property
    def seconds(self) -> float | None:
        """Duration of training and evaluation; for a resumed run, all parts together."""
        known = [_number(line.get("seconds")) for line in (*self.train[-1:], self.state)]
        return max((one for one in known if one is not None and 0 <= one < _LARGEST), default=None)

    def _kept(self, name: str, kind: type) -> Any:
        found = (content.get(name) for content in (self.description, self.state))
        return next((value for value in found if isinstance(value, kind)), None)

    @property
    def metric(self) -> str | None:
        """The metric that selects the best model; None if unknown."""
        metric = self.flags.get("metric")
        return metric if isinstance(metric, str) else None

    @property
    def steps(self) -> int | None:
        lines = [*self.train, *self.evaluations]
        return max(line["global_step"] for line in lines) if lines else self.description.get("global_step")

    @property
    def best(self) -> dict[str, Any]:
        """The evaluation with the best ``metric``, the first in a tie; empty if there is none."""
        known = [line for line in self.evaluations if _number(line.get(self.metric)) is not None]
        return max(known, key=lambda line: line[self.metric]) if known else {}

    @property
    def last(self) -> dict[str, Any]:
        return self.evaluations[-1] if self.evaluations else {}

    @property
    def test(self) -> dict[str, Any]:
        return self.tests[-1] if self.tests else {}

    @property
    def steps_per_second(self) -> float | None:
        """The median over the log lines."""
        speeds = [line["steps_per_second"] for line in self.train if _number(line.get("steps_per_second")) is not None]
        return statistics.median(speeds) if speeds else None

    @property
    def peak_memory_mb(self) -> float | None:
        peaks = [line["peak_memory_mb"] for line in self.train if _number(line.get("peak_memory_mb")) is not None]
        return max(peaks) if peaks else None


def _number(value: Any) -> float | None:
    """The value if it is a number that can be compared, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value == value else None


def figures_of(line: dict[str, Any]) -> dict[str, Any]:
    """The figures of a line of ``metrics.jsonl``."""
    places = ("kind", "global_step", "epoch", "batch", "seconds")
    return {name: value for name, value in line.items() if name not in places and isinstance(value, int | float)}


def find_runs(directories: Sequence[str | Path]) -> list[RunFiles]:
    """Find the runs in these directories: the directory itself if it is a run, else all runs below it, at any depth.

    A run has ``metrics.jsonl`` or ``bertorch.json``. The directory of several seeds only holds copies of the best seed's
    files, so the folders of the seeds are taken instead.

    Raises:
        UserError: a directory does not exist, or contains no run.
    """
    paths: list[Path] = []
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory")
        found = _below(directory)
        if not found:
            raise UserError(f"{directory}: no run here or below; looked for {JOURNAL} and {DESCRIPTION}")
        paths += [path for path in found if path not in paths]
    return [read_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _below(directory: Path) -> list[Path]:
    is_run = any((directory / name).is_file() for name in (JOURNAL, DESCRIPTION))
    if is_run and not (directory / SEEDS).is_file():
        return [directory]
    inner = sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
    found = [run for path in inner if path.name != STATES and not path.name.startswith(".") for run in _below(path)]
    return found or ([directory] if is_run else [])


def _names(paths: Sequence[Path]) -> list[str]:
    """The paths without their common parent."""
    absolute = [path.absolute() for path in paths]
    if len(set(absolute)) < 2:
        return [path.name for path in absolute]
    common = os.path.commonpath(absolute)
    return [os.path.relpath(path, common) for path in absolute]


def read_run(path: str | Path, name: str | None = None) -> RunFiles:
    """Read a run's directory; missing or damaged files are left out and named in ``missing``."""
    path = Path(path)
    run = RunFiles(name or path.absolute().name, path)
    run.description = _read_object(run, DESCRIPTION, "no model was saved yet, and flags are those of the training state")
    _leave_out_odd(run, DESCRIPTION, run.description)
    run.data = _read_object(run, DATA_REPORT, "the data report is left out")
    for line in _journal_lines(run):
        kinds = {"train": run.train, "eval": run.evaluations, "test": run.tests}
        kinds.get(line.get("kind"), []).append(line)
    if run.evaluations:
        run.evaluation = _read_object(run, EVALUATION, "what the predictions were is left out")
        _leave_out_odd(run, EVALUATION, run.evaluation)
    state = latest_state(path)
    if state is not None:
        run.state = _object(state / "state.json") or {}
        _leave_out_odd(run, "state.json", run.state)
    return run


def _leave_out_odd(run: RunFiles, name: str, content: dict[str, Any]) -> None:
    """Remove values that a run would not write under these names, and add a line to ``missing``."""
    for key, fits in (("arguments", lambda value: isinstance(value, dict)), ("global_step", _is_step)):
        if content.get(key) is not None and not fits(content[key]):
            del content[key]
            run.missing.append(f"{name}: {key} is damaged and left out")


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _read_object(run: RunFiles, name: str, consequence: str) -> dict[str, Any]:
    if not (run.path / name).is_file():
        run.missing.append(f"{name} is not there: {consequence}")
        return {}
    content = _object(run.path / name)
    if content is None:
        run.missing.append(f"{name} cannot be read: {consequence}")
    return content or {}


def _object(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _journal_lines(run: RunFiles) -> list[dict[str, Any]]:
    try:
        raw = (run.path / JOURNAL).read_text(encoding="utf-8", errors="replace")
    except OSError:
        run.missing.append(f"{JOURNAL} is not there: the curves are left out")
        return []
    lines, damaged = [], 0
    for text in raw.split("\n"):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            whole = _is_step(line["global_step"]) and isinstance(line["kind"], str)
            whole = whole and all(abs(value) < _LARGEST for value in line.values() if type(value) is int)
            damaged += not whole
            lines += [line] if whole else []
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += 1
    if damaged:
        run.missing.append(f"{JOURNAL}: {damaged} damaged lines are left out")
    return lines


def differing_flags(runs: Sequence[RunFiles]) -> list[str]:
    """The flags that differ between the runs, in the order in which they first appear."""
    names = dict.fromkeys(name for run in runs for name in run.flags if name not in _NO_FLAGS_OF_A_RUN)
    known = [run for run in runs if run.flags]
    return [name for name in names if len({repr(run.flags.get(name)) for run in known}) > 1]
