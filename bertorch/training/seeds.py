"""Train once per seed, one after another, to see how much the results vary."""

import argparse
import gc
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from bertorch.errors import ProcessError, UserError
from bertorch.reporting.report import report_finished
from bertorch.reporting.runs import DESCRIPTION, REPORT, STATES
from bertorch.training.checkpoints import holds_run, refuse_run
from bertorch.training.lock import saved_dir_lock
from bertorch.training.process_group import Processes, is_main_process, out_of_memory, start_processes
from bertorch.training.saving import all_written
from bertorch.writing import write_all, write_whole

_SUMMARY = "seeds.json"


def for_each_seed(args: argparse.Namespace, train: Callable[[argparse.Namespace], None]) -> None:
    """Call ``train(args)``; with ``--seeds``, once per seed, in ``saved_dir/seed-N``.

    With ``--seeds``, the mean, highest value and standard deviation of each figure are then logged and written to
    ``saved_dir/seeds.json``, for the development set (at the evaluation whose model a run keeps) and the test set.
    ``saved_dir`` itself gets the best model by ``--metric``.

    Each run writes its report at the end; several seeds also get a report that compares them.

    Raises:
        UserError: no development set, a repeated seed, ``saved_dir`` already holds a run, or another run writes there.
    """
    if args.seeds is not None:
        _check_seeds(args)
    processes = start_processes(args)
    with saved_dir_lock(Path(args.saved_dir), processes):
        if args.seeds is None:
            _train(args, train)
        else:
            _train_each(args, train, processes)


def _check_seeds(args: argparse.Namespace) -> None:
    if args.dev_data_file is None:
        raise UserError("--seeds compares runs on the development set; give --dev_data_file")
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError(f"--seeds {' '.join(map(str, args.seeds))}: give each seed once")


def _train_each(args: argparse.Namespace, train: Callable[[argparse.Namespace], None], processes: Processes) -> None:
    root = Path(args.saved_dir)
    folders = {seed: root / f"seed-{seed}" for seed in args.seeds}
    held = next((folder for folder in (root, *folders.values()) if holds_run(folder)), None)
    if held is not None and not (args.resume or args.overwrite):
        refuse_run(args, held)
    for seed, folder in folders.items():
        with saved_dir_lock(folder, processes):
            _train(argparse.Namespace(**{**vars(args), "seed": seed, "seeds": None, "saved_dir": str(folder)}), train)
        gc.collect()  # free the model of one seed before building the next
    if processes.is_main:
        _summarize(args, root, folders)
        report_finished(list(folders.values()), root)
    processes.gather(None)  # wait until the best model is written


def _train(args: argparse.Namespace, train: Callable[[argparse.Namespace], None]) -> None:
    try:
        with all_written():
            train(args)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ProcessError(
            f"out of memory with --batch_size {args.batch_size}, --eval_batch_size {args.eval_batch_size} and "
            f"--max_seq_length {args.max_seq_length}; lower one of them (--gradient_accumulation_steps keeps the size of an "
            f"update), or give --gradient_checkpointing or --precision bf16"
        ) from None
    if is_main_process():
        report_finished([args.saved_dir], args.saved_dir)


def _summarize(args: argparse.Namespace, root: Path, folders: dict[int, Path]) -> None:
    figures = {seed: _figures(folder, args) for seed, folder in folders.items()}
    summary: dict[str, Any] = {"seeds": list(folders), "metric": args.metric}
    for kind in ("eval", "test"):
        names = [name for name in figures[args.seeds[0]][kind] if name not in ("kind", "global_step")]
        summary[kind] = {name: _spread([figures[seed][kind][name] for seed in folders]) for name in names}
        for name, spread in summary[kind].items():
            logger.info(f"{kind} {name}: {spread['mean']:.5f} ({spread['max']:.5f}), sd {spread['std']:.5f}")
    best = max(folders, key=lambda seed: figures[seed]["eval"][args.metric])
    summary["best_seed"] = best
    paths = [
        path
        for path in sorted(folders[best].rglob("*"))
        if path.is_file() and STATES not in path.parts and path.name != REPORT
    ]
    paths.sort(key=lambda path: path.name == DESCRIPTION)  # last: it declares what the other files are
    copies = {root / path.relative_to(folders[best]): path for path in paths if "tensorboard" not in path.parts}
    write_all({copy: lambda unfinished, path=path: shutil.copyfile(path, unfinished) for copy, path in copies.items()})
    text = json.dumps(summary, indent=2) + "\n"
    write_whole(root / _SUMMARY, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
    logger.info(f"means over {len(folders)} seeds (highest in brackets); the model of seed {best} is in {root}")


def _figures(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The lines of ``metrics.jsonl`` for the evaluation whose model a run keeps, and for the test."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    tests = [line for line in lines if line["kind"] == "test"]
    kept = max(evaluations, key=lambda line: line[args.metric]) if args.save_best_model else evaluations[-1]
    return {"eval": kept, "test": tests[-1] if tests else {}}


def _spread(values: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "max": max(values), "std": deviation, "values": values}
