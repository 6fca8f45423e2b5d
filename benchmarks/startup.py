"""Seconds from the start of run_classifier.py to the end of its first update, beside an equivalent script with the Trainer.

    python benchmarks/startup.py
    python benchmarks/startup.py --imports                # and where the time of importing goes

Both train a new encoder on the sample reviews, batch size 32, one thread. Ours finds its rows in the token cache, as at
every start but the first; the other tokenizes its 467 rows in one call. An update is over when its line is logged; then the
process is killed, and the system reports its CPU time. --help of two of our scripts runs to the end of its process, which
the first two do not. In turn, --pairs times; who begins changes.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chunked_batch import ROOT
from turns import SHAPES, in_turn, machine, random_encoder

REVIEWS = ROOT / "data" / "reviews"
TRAINER = "an equivalent Trainer script"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--shape", choices=SHAPES, default="tiny", help="base: 12 layers, 768 wide; tiny: 6 layers, 128 wide"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--imports", action="store_true", help="list what takes longest to import for run_classifier.py")
    parser.add_argument("--top", type=int, default=15, help="how many of them")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.threads, args.device, args.data_dir = 1, "cpu", ROOT.parent / "shared" / "data"
    return args


def train_trainer(encoder: str, output_dir: str) -> None:
    """What such a script consists of, without a library of ours."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    labels = (REVIEWS / "labels.txt").read_text(encoding="utf-8").split()
    with open(REVIEWS / "train.tsv", encoding="utf-8") as handle:
        texts, names = zip(*(line.rstrip("\n").split("\t") for line in handle), strict=True)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    encoded = tokenizer(list(texts), truncation=True, max_length=128)
    samples = [
        {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "labels": labels.index(name)}
        for ids, types, mask, name in zip(
            encoded["input_ids"], encoded["token_type_ids"], encoded["attention_mask"], names, strict=True
        )
    ]
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(labels))
    settings = TrainingArguments(
        output_dir, per_device_train_batch_size=32, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=True,
    )  # fmt: skip
    Trainer(model, settings, train_dataset=samples, data_collator=DataCollatorWithPadding(tokenizer)).train()


def until(command: list[str], sign: str | None, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command until it prints ``sign``, or to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if sign is not None and sign in line:
            break
    else:
        if sign is not None:
            raise SystemExit(f"{' '.join(command)}: ended early\n{''.join(printed)[-3000:]}")
    wall = time.perf_counter() - started
    if sign is not None:
        process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is over: nothing is left for Popen to wait for
    return wall, usage.ru_utime + usage.ru_stime


def imports(command: list[str], environment: dict[str, str], top: int) -> str:
    """Markdown: what takes longest to import, by itself and with what it imports."""
    listed = subprocess.run([command[0], "-X", "importtime", *command[1:]], env=environment, capture_output=True, text=True)
    lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \| +(\S+)", listed.stderr)
    found = [(int(own), int(whole), name) for own, whole, name in lines]
    rows = ["| module | ms itself | | module | ms with what it imports |", "| --- | --- | --- | --- | --- |"]
    for by_self, by_all in zip(sorted(found, reverse=True)[:top], sorted(found, key=lambda one: -one[1])[:top], strict=True):
        rows.append(f"| {by_self[2]} | {by_self[0] / 1000:.0f} | | {by_all[2]} | {by_all[1] / 1000:.0f} |")
    return "\n".join(rows)


def main() -> None:
    args = parse_args()
    if args.worker:
        train_trainer(*args.worker)
        return
    print(machine(args) + "\n")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        encoder = random_encoder(args, directory)
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "BERTORCH_CACHE": str(directory / "cache"),
            "PYTHONUNBUFFERED": "1",
        }
        environment |= {variable: "1" for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
        script = [sys.executable, str(ROOT / "run_classifier.py")]
        ours = [*script, "--train_data_file", str(REVIEWS / "train.tsv"), "--label_file", str(REVIEWS / "labels.txt")]
        ours += ["--pretrained_model_name_or_path", str(encoder), "--saved_dir", str(directory / "saved"), "--overwrite"]
        ours += ["--logging_steps", "1", "--device", "cpu"]
        theirs = [sys.executable, __file__, "--worker", str(encoder), str(directory / "trainer")]
        commands = {
            "run_classifier.py, first update": (ours, "global step: 1,"),
            f"{TRAINER}, first update": (theirs, "'loss'"),
            "run_classifier.py --help": ([*script, "--help"], None),
            "predict.py --help": ([sys.executable, str(ROOT / "predict.py"), "--help"], None),
        }
        for command, sign in commands.values():  # fills the token cache, and the system's cache of files
            until(command, sign, environment)
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for order in in_turn(list(commands), args.pairs):
            for name in order:
                took[name].append(until(*commands[name], environment))
                print(name, took[name][-1], file=sys.stderr, flush=True)
        first, second = list(commands)[:2]
        print("| | wall s | CPU s |\n| --- | --- | --- |")
        for name, pairs in took.items():
            shown = [f"{statistics.median(one):.2f} ({min(one):.2f}..{max(one):.2f})" for one in zip(*pairs, strict=True)]
            print(f"| {name} | {' | '.join(shown)} |")
        ratios = [[t / o for o, t in zip(*both, strict=True)] for both in zip(took[first], took[second], strict=True)]
        shown = [f"{statistics.median(one):.2f}" for one in zip(*ratios, strict=True)]
        print(f"| ratio of the first two, median of {args.pairs} pairs | {' | '.join(shown)} |")
        if args.imports:
            print("\n" + imports([*script, "--help"], environment, args.top))


if __name__ == "__main__":
    main()
