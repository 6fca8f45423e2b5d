"""Compare classifiers trained by run_classifier.py with those of the Hugging Face Trainer, same data and settings.

    python benchmarks/classifier_quality.py --train_data_file DATA/train.tsv --dev_data_file DATA/dev.tsv \
        --label_file DATA/labels.txt --pretrained_model_name_or_path MODEL --train_rows 3000 --seeds 1 2 3
    python benchmarks/classifier_quality.py ... --is_text_pair                        # rows of two texts
    python benchmarks/classifier_quality.py ... --only bertorch --seeds 1             # one run of ours on all rows

For each seed it trains bertorch, in a process of its own, then the Trainer in this one, and prints a Markdown table of
the last models on the whole development set. Training seconds leave out starting, tokenizing and evaluating. The seeds
give the two different shuffles, head weights and dropout masks, so only means over seeds compare. Needs accelerate.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollator,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

import bertorch
from bertorch.data.files import read_labels
from bertorch.data.rows import Row, read_rows
from bertorch.data.tokenizing import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("bertorch", "trainer")
SAMPLE_SEED = 0


@dataclass
class Result:
    """One training: figures of the last model on the development set, and the seconds its updates took."""

    accuracy: float
    f1: float | None
    seconds: float


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--train_data_file", required=True)
    parser.add_argument("--dev_data_file", required=True)
    parser.add_argument("--label_file", required=True)
    parser.add_argument("--is_text_pair", action="store_true")
    parser.add_argument("--pretrained_model_name_or_path", required=True, help="a local model directory")
    parser.add_argument("--train_rows", type=int, default=None, help="train on a fixed random sample; default: all rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", choices=SIDES, default=None, help="train one side alone")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--warmup_proportion", type=float, default=0.1)
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    return parser.parse_args()


def write_sample(args: argparse.Namespace, labels: list[str], path: Path) -> int:
    """Write the training rows that both sides read; returns how many."""
    rows = read_rows(args.train_data_file, args.is_text_pair, labels)
    if args.train_rows is not None and args.train_rows < len(rows):
        rows = random.Random(SAMPLE_SEED).sample(rows, args.train_rows)
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        for row in rows:
            handle.write("\t".join((*row.texts, str(row.label))) + "\n")
    return len(rows)


def train_bertorch(args: argparse.Namespace, seed: int, train_file: Path, directory: Path) -> Result:
    """One run of run_classifier.py, read back from its ``metrics.jsonl``."""
    saved_dir = directory / f"bertorch-{seed}"
    command = [sys.executable, str(ROOT / "run_classifier.py"), "--train_data_file", str(train_file), "--weight_decay", "0"]
    for name in ("dev_data_file", "label_file", "pretrained_model_name_or_path"):
        command += [f"--{name}", getattr(args, name)]
    for name in ("batch_size", "learning_rate", "warmup_proportion", "max_seq_length", "epochs"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--scheduler", "linear", "--max_grad_norm", "1.0", "--seed", str(seed), "--saved_dir", str(saved_dir)]
    command += ["--save_steps", "1000000000"]
    if args.is_text_pair:
        command.append("--is_text_pair")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"run_classifier.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
    last, seconds = read_journal(saved_dir)
    return Result(last["accuracy"], last.get("f1"), seconds)


def read_journal(saved_dir: Path) -> tuple[dict[str, float], float]:
    """The last evaluation that a run wrote down, empty where it made none, and the seconds its updates took."""
    with open(saved_dir / "metrics.jsonl", encoding="utf-8") as handle:
        lines = [json.loads(line) for line in handle]
    seconds, before, last = 0.0, 0, {}
    for line in lines:
        if line["kind"] == "train":
            seconds += (line["global_step"] - before) / line["steps_per_second"]
            before = line["global_step"]
        elif line["kind"] == "eval":
            last = line
    return last, seconds


def trainer_samples(
    rows: list[Row], labels: list[str], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> list[dict[str, object]]:
    samples = []
    for row in rows:
        encoded = tokenizer(*row.texts, truncation=True, max_length=max_seq_length)
        samples.append({**encoded, "labels": labels.index(row.label)})
    return samples


def figures(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, and with two labels the F1 of the second; computed here, not by the code under test."""
    predicted, labels = prediction.predictions.argmax(axis=1), prediction.label_ids
    result = {"accuracy": float((predicted == labels).mean())}
    if prediction.predictions.shape[1] == 2:
        both = float(np.sum((predicted == 1) & (labels == 1)))
        result["f1"] = 2 * both / max(float(np.sum(predicted == 1) + np.sum(labels == 1)), 1.0)
    return result


def trained_trainer(
    args: argparse.Namespace,
    model: PreTrainedModel,
    train_set: Dataset,
    collator: DataCollator,
    seed: int,
    directory: Path,
    **evaluation: object,
) -> tuple[Trainer, float]:
    """transformers' Trainer with its default optimizer, trained, and the seconds that took.

    Args:
        args: the benchmark's flags: epochs, batch_size, learning_rate, warmup_proportion.
        model: to be trained.
        train_set, collator: its data.
        seed: of the shuffle and the dropout.
        directory: for what the Trainer writes.
        evaluation: more arguments of the Trainer.
    """
    total_steps = args.epochs * math.ceil(len(train_set) / args.batch_size)
    settings = TrainingArguments(
        output_dir=str(directory / f"trainer-{seed}"),
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(args.warmup_proportion * total_steps),
        weight_decay=0.0,
        max_grad_norm=1.0,
        num_train_epochs=args.epochs,
        seed=seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="steps",
        logging_steps=20,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(model=model, args=settings, train_dataset=train_set, data_collator=collator, **evaluation)
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    if trainer.state.global_step != total_steps:
        raise SystemExit(f"the Trainer made {trainer.state.global_step} updates, expected {total_steps}")
    return trainer, seconds


def train_trainer(args: argparse.Namespace, seed: int, train_file: Path, labels: list[str], directory: Path) -> Result:
    """The same training by transformers' Trainer with its default optimizer."""
    tokenizer = load_tokenizer(args.pretrained_model_name_or_path)
    sets = [
        trainer_samples(read_rows(path, args.is_text_pair, labels), labels, tokenizer, args.max_seq_length)
        for path in (train_file, args.dev_data_file)
    ]
    transformers.set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.pretrained_model_name_or_path, num_labels=len(labels), dtype=torch.float32
    )
    collator = DataCollatorWithPadding(tokenizer)
    evaluation = {"eval_dataset": sets[1], "compute_metrics": figures}
    trainer, seconds = trained_trainer(args, model, sets[0], collator, seed, directory, **evaluation)
    metrics = trainer.evaluate()
    return Result(metrics["eval_accuracy"], metrics.get("eval_f1"), seconds)


def percent(values: list[float | None]) -> str:
    """Mean, and standard deviation from two values on, in per cent; a dash where there is nothing to show."""
    if any(value is None for value in values):
        return "-"
    mean = f"{100 * statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.2f}"


def table(results: dict[str, dict[int, Result]]) -> str:
    """Markdown: a line a seed and side, then means with standard deviations, then the difference of the means."""
    sides = [side for side in SIDES if results[side]]
    lines = ["| seed | trained by | accuracy % | F1 % | training seconds |", "| --- | --- | --- | --- | --- |"]
    for seed in results[sides[0]]:
        for side in sides:
            result = results[side][seed]
            lines.append(
                f"| {seed} | {side} | {percent([result.accuracy])} | {percent([result.f1])} | {result.seconds:.0f} |"
            )
    columns = {
        side: [[getattr(result, name) for result in results[side].values()] for name in ("accuracy", "f1", "seconds")]
        for side in sides
    }
    if len(results[sides[0]]) > 1:
        for side, (accuracies, f1s, seconds) in columns.items():
            lines.append(f"| mean ± sd | {side} | {percent(accuracies)} | {percent(f1s)} | {statistics.mean(seconds):.0f} |")
    if len(sides) == 2:
        cells = []
        for ours, theirs in zip(*columns.values(), strict=True):
            known = None not in (*ours, *theirs)
            cells.append(statistics.mean(ours) - statistics.mean(theirs) if known else None)
        shown = [f"{100 * cell:+.2f}" if cell is not None else "-" for cell in cells[:2]]
        lines.append(f"| difference of means | bertorch - trainer | {shown[0]} | {shown[1]} | {cells[2]:+.0f} |")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    labels = read_labels(args.label_file)
    results: dict[str, dict[int, Result]] = {side: {} for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        train_file = directory / "train.tsv"
        rows = write_sample(args, labels, train_file)
        for seed in args.seeds:
            for side in SIDES if args.only is None else (args.only,):
                if side == "bertorch":
                    result = train_bertorch(args, seed, train_file, directory)
                else:
                    result = train_trainer(args, seed, train_file, labels, directory)
                results[side][seed] = result
                print(f"seed {seed}, {side}: {result}", file=sys.stderr, flush=True)
    print(
        f"{rows} training rows, {args.epochs} epochs, batch size {args.batch_size}, learning rate {args.learning_rate:g}, "
        f"max_seq_length {args.max_seq_length}, warmup {args.warmup_proportion:g}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, bertorch {bertorch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print(table(results))


if __name__ == "__main__":
    main()
