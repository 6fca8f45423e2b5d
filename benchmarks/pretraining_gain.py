"""What pretraining is worth: every task trained from an encoder and from the same architecture without its weights.

    python benchmarks/pretraining_gain.py                                              # the sample sets, five seeds
    python benchmarks/pretraining_gain.py --tasks chnsenticorp afqmc resume stsb --seeds 1  # those of ../shared/data

Both sides run the same command and keep the model that is best on the development set; each takes the learning rate of
--rates whose mean over the seeds is best there. It prints a Markdown table: figures of the test set, of the development set
where the data has no labelled test set, mean and standard deviation over the seeds.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from classifier_quality import ROOT

from bertorch.data.files import read_lines

DATA, SHARED = ROOT / "data", ROOT.parent / "shared" / "data"
SIDES = ("pretrained", "scratch")


def files(folder, suffix, test=True, labels=True):
    """The flags that name a folder's files."""
    named = ["--train_data_file", folder / f"train{suffix}", "--dev_data_file", folder / f"dev{suffix}"]
    named += ["--test_data_file", folder / f"test{suffix}", "--do_test"] if test else []
    return named + (["--label_file", folder / "labels.txt"] if labels else [])


def graded(train):
    """Those of a training file whose sentence vectors are judged by the graded pairs."""
    pairs = DATA / "graded"
    test = ["--test_data_file", pairs / "test.tsv", "--do_test"]
    return ["--train_data_file", train, "--dev_data_file", pairs / "dev.tsv", *test]


def tasks(work_dir):
    """Task -> script, flags, and the metric that decides."""
    mean = ["--pooling_mode", "mean"]
    resume, stsb = SHARED / "ner/resume", SHARED / "sts/stsb_zh"
    return {
        "reviews": ["run_classifier.py", *files(DATA / "reviews", ".tsv"), "--epochs", 20, "--metric", "accuracy"],
        "nli": [
            "run_sentencebert.py", *files(DATA / "nli", ".tsv"), *mean, "--is_nli", "--epochs", 10, "--metric", "accuracy",
        ],
        "graded": [
            "run_sentencebert.py", *files(DATA / "graded", ".tsv", labels=False), *mean, "--objective", "cosent",
            "--epochs", 10, "--metric", "spearman",
        ],
        "sentences": ["run_simcse.py", *graded(DATA / "sentences/train.txt"), *mean, "--epochs", 10, "--metric", "spearman"],
        "paraphrases": [
            "run_batchneg.py", *graded(DATA / "paraphrases/train.tsv"), *mean, "--mean_loss", "--epochs", 10,
            "--metric", "spearman",
        ],
        "entities": ["run_ner.py", *files(DATA / "entities", ".jsonl"), "--use_crf", "--epochs", 20, "--metric", "f1"],
        "reading": [
            "run_mrc.py", *files(DATA / "reading", ".json", labels=False), "--max_seq_length", 256, "--doc_stride", 64,
            "--epochs", 10, "--metric", "f1",
        ],
        "chnsenticorp": [
            "run_classifier.py", *files(SHARED / "classification/chnsenticorp", ".tsv", test=False), "--epochs", 3,
            "--metric", "accuracy",
        ],
        "afqmc": [
            "run_sentencebert.py", *files(SHARED / "pair/afqmc", ".txt", test=False, labels=False), *mean,
            "--objective", "cosent", "--epochs", 1, "--eval_steps", 250, "--metric", "spearman",
        ],
        "resume": ["run_ner.py", *files(resume, ".json"), "--epochs", 5, "--metric", "f1"],
        "stsb": [
            "run_simcse.py", "--train_data_file", work_dir / "stsb.txt", "--dev_data_file", stsb / "sts-b-dev.txt", *mean,
            "--epochs", 1, "--metric", "spearman",
        ],
    }  # fmt: skip


def train(command, directory, model, rate, seeds):
    """The summary that --seeds writes."""
    script, *flags = command
    full = [sys.executable, ROOT / script, *flags, "--pretrained_model_name_or_path", model, "--learning_rate", rate]
    full += ["--saved_dir", directory, "--save_best_model", "--overwrite", "--seeds", *seeds]
    full += ["--warmup_proportion", 0.1]
    with open(f"{directory}.log", "w") as log:
        status = subprocess.run([str(part) for part in full], stdout=log, stderr=log).returncode
    if status:
        raise SystemExit(f"{directory}.log: training failed")
    return json.loads((directory / "seeds.json").read_text(encoding="utf-8"))


def average(summary, metric):
    """Over the seeds, on the development set; the lowest of all where vectors are so alike that there is no correlation."""
    mean = summary["eval"][metric]["mean"]
    return -math.inf if math.isnan(mean) else mean


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=ROOT / "models/bertorch-tiny-zh", type=Path)
    parser.add_argument("--tasks", nargs="+", default=None, help="default: those of the sample sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-4, 1e-3])
    parser.add_argument("--work_dir", type=Path, default=None, help="keeps models and logs; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work_dir = args.work_dir or Path(temporary)
        work_dir.mkdir(parents=True, exist_ok=True)
        scratch = work_dir / "without-weights"
        shutil.copytree(args.encoder, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
        commands = tasks(work_dir)
        names = args.tasks or list(commands)[:7]
        if "stsb" in names:
            rows = [line.split("\t")[:2] for _, line in read_lines(SHARED / "sts/stsb_zh/sts-b-train.txt")]
            sentences = dict.fromkeys(sentence for row in rows for sentence in row)
            (work_dir / "stsb.txt").write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
        print(
            "| task | trained from | set | learning rate | metric | % |\n| --- | --- | --- | --- | --- | --- |", flush=True
        )
        for name in names:
            for side, model in zip(SIDES, (args.encoder, scratch), strict=True):
                directory = work_dir / f"{name}-{side}"
                metric = commands[name][-1]
                tried = {rate: train(commands[name], directory, model, rate, args.seeds) for rate in args.rates}
                chosen, summary = max(tried.items(), key=lambda one: average(one[1], metric))
                kind = "test" if metric in summary["test"] else "eval"
                figure = summary[kind][metric]
                shown = f"{100 * figure['mean']:.2f}" + (f" ± {100 * figure['std']:.2f}" if len(args.seeds) > 1 else "")
                where = "test" if kind == "test" else "dev"
                print(f"| {name} | {side} | {where} | {chosen:g} | {metric} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
