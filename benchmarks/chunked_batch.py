"""Memory and time of one update of run_batchneg.py with a large batch, encoded in chunks and whole.

    python benchmarks/chunked_batch.py --train_data_file PAIRS --pretrained_model_name_or_path MODEL

Each setting is a process of its own that makes --steps updates; its peak resident memory is what the system reports.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--train_data_file", required=True)
    parser.add_argument("--positive_label", default=None)
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument(
        "--settings", nargs="+", default=["64", "512", "512/64", "4096/64"], help="batch_size, or batch_size/chunk_size"
    )
    parser.add_argument("--steps", type=int, default=2)
    return parser.parse_args()


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; its peak resident memory in MB and its seconds."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def measure(args: argparse.Namespace, batch_size: str, chunk_size: str) -> tuple[float, float, float]:
    """Peak memory in MB, seconds an update and the logged loss of one setting."""
    with tempfile.TemporaryDirectory() as saved_dir:
        command = [sys.executable, str(ROOT / "run_batchneg.py"), "--saved_dir", saved_dir, "--pooling_mode", "mean"]
        for name in ("train_data_file", "pretrained_model_name_or_path", "positive_label"):
            if getattr(args, name) is not None:
                command += [f"--{name}", str(getattr(args, name))]
        command += ["--batch_size", batch_size, "--max_steps", str(args.steps), "--mean_loss"]
        command += ["--chunk_size", chunk_size] if chunk_size else []
        memory, _ = run(command)
        lines = (Path(saved_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1])
    return memory, 1 / last["steps_per_second"], last["loss"]


def main() -> None:
    args = parse_args()
    print("| batch_size | chunk_size | peak memory MB | seconds an update | loss |\n| --- | --- | --- | --- | --- |")
    for setting in args.settings:
        batch_size, _, chunk_size = setting.partition("/")
        memory, seconds, loss = measure(args, batch_size, chunk_size)
        print(f"| {batch_size} | {chunk_size or 'none'} | {memory:.0f} | {seconds:.1f} | {loss:.4f} |", flush=True)


if __name__ == "__main__":
    main()
