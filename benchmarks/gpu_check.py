"""All that only a GPU can show, with one command, in ten minutes.

    python3 benchmarks/gpu_check.py                           # prints a Markdown table; runs/gpu_check holds all of it
    python3 benchmarks/gpu_check.py --wheels wheels           # on a machine without network that lacks some packages
    python3 benchmarks/gpu_check.py --rehearse                # on a CPU, with tiny sizes: does every part run?
    python3 benchmarks/gpu_check.py --parts saving compiled   # only these; the table keeps the results of earlier calls

The parts are in ``gpu_parts.py`` and run in the order of ``PARTS``, the most valuable first. Each is a process group of its
own, killed when its time is up: what fails or hangs costs the others nothing. Results are written to results.jsonl as they
come, and table.md is written anew after every part, so that even a machine that disappears leaves what was measured.

This file needs the standard library only. Of the packages in --wheels, those that the machine lacks are unpacked to a folder
that the parts import from; nothing is installed. To fill it, for a machine with Python 3.12 that has torch and transformers:

    pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 --dest wheels \
        loguru tqdm nltk joblib click regex sentencepiece protobuf scipy scikit-learn threadpoolctl accelerate psutil \
        sentence-transformers pytorch-crf pytest pluggy iniconfig hypothesis sortedcontainers

Without accelerate the Trainer cannot run, without sentence-transformers and pytorch-crf its parts are left out.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
# name: (most seconds, title). The most valuable first: later ones are left out where time runs short.
PARTS = {
    "device": (40, "Device"),
    "attention": (60, "Self-check of the attention backends"),
    "training": (75, "Training, bertorch"),
    "trainer": (90, "Training, the Trainer with its defaults in bf16"),
    "profile": (60, "One step of bertorch: host, GPU, launches, kernels"),
    "tests": (90, "Tests that need a GPU"),
    "finetuning": (60, "A short real fine-tuning, GPU beside CPU"),
    "backends": (45, "Attention backends, forward and backward"),
    "compiled": (75, "Training, bertorch with --compile"),
    "encoding": (60, "Encoding"),
    "grouped": (50, "Training, bertorch with --group_by_length"),
    "trainer-grouped": (60, "Training, the Trainer with batches grouped by length"),
    "ceilings": (30, "Ceilings"),
    "saving": (50, "Saving and resuming"),
    "tasks": (60, "Training of other heads, bertorch"),
    "trainer-tasks": (75, "Training of other heads, the Trainer and sentence-transformers"),
    "trainer-compiled": (75, "Training, the Trainer with torch_compile"),
    "trainer-profile": (60, "One step of the Trainer: host, GPU, launches, kernels"),
}
_SPEED = "samples/s"


@dataclass(frozen=True)
class Part:
    """A process that writes JSON lines to the file that ``GPU_CHECK_RESULTS`` names.

    Attributes:
        name: of its results and its log.
        limit: the seconds after which its process group is killed.
        command: what to run.
        title: heading of its table.
    """

    name: str
    limit: float
    command: list[str]
    title: str


class Results:
    """JSON lines, each complete or left aside: a part may be killed while it writes."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, **figures: Any) -> None:
        whole = not self.path.exists() or self.path.read_bytes().endswith(b"\n") or not self.path.stat().st_size
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(("" if whole else "\n") + json.dumps(figures, ensure_ascii=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [one for one in found if isinstance(one, dict)]


def conduct(parts: list[Part], out: Path, seconds: float, environment: dict[str, str]) -> str:
    """Run the parts one after another, until all have run or the seconds are over; returns the table, also in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    results, started = Results(out / "results.jsonl"), time.monotonic()
    environment = {**environment, "GPU_CHECK_RESULTS": str(results.path)}
    titles = {part.name: part.title for part in parts}
    for part in parts:
        left = seconds - (time.monotonic() - started)
        if left < min(10, seconds / 10):
            results.add(part=part.name, ended="not run", why="no time was left")
        else:
            _run(part, min(part.limit, left), out / f"{part.name}.log", results, environment)
        (out / "table.md").write_text(table(results.read(), titles), encoding="utf-8")
    return (out / "table.md").read_text(encoding="utf-8")


def _run(part: Part, limit: float, log: Path, results: Results, environment: dict[str, str]) -> None:
    began = time.monotonic()
    print(f"{part.name} ...", file=sys.stderr, flush=True)
    ended, why = "ok", ""
    with open(log, "w", encoding="utf-8") as handle:
        process = subprocess.Popen(
            part.command, stdin=subprocess.DEVNULL, stdout=handle, stderr=handle, env=environment, start_new_session=True
        )
        try:
            code = process.wait(limit)
            if code:
                ended, why = "failed", _last_line(log) or f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended, why = "timed out", f"killed after {limit:.3g} s"
        finally:  # also where this program is interrupted
            with contextlib.suppress(ProcessLookupError):  # its children too, whatever they are waiting for
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = round(time.monotonic() - began, 1)
    results.add(part=part.name, ended=ended, seconds=seconds, why=why)
    print(f"{part.name}: {ended} after {seconds:.0f} s {why}", file=sys.stderr, flush=True)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


# The table.


def table(results: list[dict[str, Any]], titles: dict[str, str]) -> str:
    """Markdown: how each part ended, then a table for each part that has results."""
    titles = {name: title for name, (_, title) in PARTS.items()} | titles
    names = list(dict.fromkeys(one["part"] for one in results if "part" in one))
    ends = {one["part"]: one for one in results if "ended" in one}
    shown = [[name, *(ends.get(name, {}).get(key, "") for key in ("ended", "seconds", "why"))] for name in names]
    rehearsed = any(one.get("rehearsal") for one in results)
    said = "Rehearsed on a CPU with tiny sizes: the figures mean nothing." if rehearsed else "Measured"
    lines = [f"{said} ({time.strftime('%Y-%m-%d')})", "", *_markdown(["part", "ended", "seconds", "why"], shown), ""]
    rows = [one for one in results if "row" in one]
    rivals = {one["case"]: one for one in rows if one["part"].startswith("trainer") and _SPEED in one and "case" in one}
    defaults = {one["case"]: one for one in rows if one["part"] in ("trainer", "trainer-tasks") and _SPEED in one}
    for name in names:
        found = [_beside(one, rivals, defaults) for one in rows if one["part"] == name]
        if found:
            columns = list(dict.fromkeys(key for one in found for key in one))
            lines += [f"### {titles.get(name, name)}", ""]
            lines += [*_markdown(columns, [[one.get(column, "") for column in columns] for one in found]), ""]
    return "\n".join(lines)


def _beside(one: dict[str, Any], rivals: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """A result as a row of its table; a speed of ours with its ratio to the Trainer's in the same case."""
    row = {"": one["row"], **{key: value for key, value in one.items() if key not in ("part", "row", "case")}}
    failed = row.pop("failed", None)
    other = defaults.get(one.get("case"), rivals.get(one.get("case")))
    if _SPEED in one and other is not None and not one["part"].startswith("trainer"):
        row["against the Trainer"] = f"{one[_SPEED] / other[_SPEED]:.2f}x"
    return row if failed is None else {**row, "failed": failed}


def _markdown(columns: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "| --- |" + " --- |" * (len(columns) - 1)
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|")


# The packages that the machine lacks.


def unpack_missing(wheels: Path, packages: Path) -> list[str]:
    """Unpack the wheels of packages that this Python lacks into the folder ``packages``; returns their names."""
    unpacked = []
    for wheel in sorted(wheels.glob("*.whl")):
        name = wheel.name.split("-")[0]
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            continue
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
            unpacked.append(name)
        except (OSError, zipfile.BadZipFile) as error:
            print(f"{wheel}: cannot be unpacked ({error}); left out", file=sys.stderr)
    return unpacked


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu_check", help="folder for results and logs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=570, help="for all parts together")
    parser.add_argument("--wheels", type=Path, default=None, help="folder with the wheels of packages that may be missing")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny sizes")
    return parser.parse_args()


def _stop(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    args = parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    packages = out / "packages"
    if args.wheels is not None:
        shutil.rmtree(packages, ignore_errors=True)
        print(f"unpacked: {', '.join(unpack_missing(args.wheels, packages)) or 'nothing'}", file=sys.stderr)
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "BERTORCH_CACHE": str(out / "cache"), "TOKENIZERS_PARALLELISM": "true",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(packages), os.environ.get("PYTHONPATH", "")])),
    }  # fmt: skip
    flags = ["--out", str(out), *(["--rehearse"] if args.rehearse else [])]
    program = str(Path(__file__).with_name("gpu_parts.py"))
    parts = [Part(name, PARTS[name][0], [sys.executable, program, name, *flags], PARTS[name][1]) for name in args.parts]
    if args.rehearse:
        Results(out / "results.jsonl").add(rehearsal=True)
    try:
        print(conduct(parts, out, args.seconds, environment))
    except KeyboardInterrupt:
        text = table(Results(out / "results.jsonl").read(), {})
        (out / "table.md").write_text(text, encoding="utf-8")
        print(text)
        sys.exit(130)


if __name__ == "__main__":
    main()
