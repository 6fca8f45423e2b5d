"""Whether this tree trains and predicts what another commit did: byte for byte, for every script.

    python benchmarks/same_weights.py 3e54c43
    python benchmarks/same_weights.py HEAD~5 --only ner mrc --processes 1

Each script makes a few updates on the sample sets, from the same seed, in both trees: plain and with tricks, in one process
and in two. Then `model.safetensors` must hold the same names and the same bytes (safetensors writes the two entries of its
metadata in random order, so they are left out), and `predict.py` must print the same. For changes that move code and must
not change what it computes. Takes about ten minutes on two cores; ends with 1 where something differs.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from chunked_batch import ROOT
from safetensors.torch import load_file

TRICKS = ["--fgm_epsilon", "0.5", "--ema_decay", "0.9", "--gradient_accumulation_steps", "2", "--weight_decay", "0.01"]
CLASSES = ["--label_smoothing", "0.1", "--focal_gamma", "1", "--class_weights", "balanced"]
SENTENCES = ["--pooling_mode", "mean", "--dev_data_file", "data/graded/dev.tsv"]

# Each case: the script, its flags, the flags of its tricks, and what predict.py is asked for.
CASES: dict[str, tuple[str, list[str], list[str], list[str]]] = {
    "classifier": (
        "run_classifier.py",
        ["--train_data_file", "data/reviews/train.tsv", "--dev_data_file", "data/reviews/dev.tsv",
         "--label_file", "data/reviews/labels.txt"],
        [*CLASSES, "--r_drop_weight", "2", "--dropout_samples", "3", "--layer_decay", "0.9"],
        ["--input_file", "data/reviews/test.tsv", "--probabilities"],
    ),
    "sentencebert": (
        "run_sentencebert.py",
        ["--pooling_mode", "mean", "--train_data_file", "data/nli/train.tsv", "--dev_data_file", "data/nli/dev.tsv",
         "--label_file", "data/nli/labels.txt", "--is_nli"],
        [*CLASSES, "--r_drop_weight", "2", "--freeze_layers", "1", "--fgm_epsilon", "0"],
        ["--input_file", "data/nli/test.tsv", "--is_text_pair", "--probabilities"],
    ),
    "cosent": (
        "run_sentencebert.py",
        ["--objective", "cosent", "--train_data_file", "data/graded/train.tsv", *SENTENCES],
        ["--group_by_length"],
        ["--input_file", "data/graded/test.tsv"],
    ),
    "simcse": (
        "run_simcse.py",
        ["--train_data_file", "data/sentences/train.txt", *SENTENCES],
        ["--chunk_size", "8", "--output_emb_size", "16"],
        ["--input_file", "data/sentences/train.txt"],
    ),
    "batchneg": (
        "run_batchneg.py",
        ["--train_data_file", "data/paraphrases/train.tsv", *SENTENCES],
        ["--mean_loss", "--r_drop_weight", "1"],
        ["--input_file", "data/graded/test.tsv"],
    ),
    "ner": (
        "run_ner.py",
        ["--train_data_file", "data/entities/train.jsonl", "--dev_data_file", "data/entities/dev.jsonl",
         "--label_file", "data/entities/labels.txt", "--use_crf"],
        ["--dropout_samples", "2"],
        ["--input_file", "data/entities/test.jsonl", "--output_format", "jsonl"],
    ),
    "spans": (
        "run_ner.py",
        ["--train_data_file", "data/entities/train.jsonl", "--dev_data_file", "data/entities/dev.jsonl",
         "--label_file", "data/entities/labels.txt", "--ner_head", "global_pointer"],
        ["--layer_decay", "0.9"],
        ["--input_file", "data/entities/test.jsonl", "--output_format", "jsonl"],
    ),
    "mrc": (
        "run_mrc.py",
        ["--train_data_file", "data/reading/train.json", "--dev_data_file", "data/reading/dev.json",
         "--max_seq_length", "128", "--doc_stride", "32"],
        ["--r_drop_weight", "1"],
        ["--input_file", "data/reading/test.json"],
    ),
    "pretraining": (
        "run_pretraining.py",
        ["--objectives", "mlm,sop", "--train_data_file", "data/sentences/train.txt"],
        ["--r_drop_weight", "1", "--optimizer", "lamb"],
        [],  # two texts with a mask, written below
    ),
}  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("commit", help="what this tree is compared with")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tricks", nargs="+", choices=("plain", "tricks"), default=["plain", "tricks"])
    parser.add_argument("--max_steps", type=int, default=6)
    return parser.parse_args()


def outcome(tree: Path, name: str, tricks: bool, processes: int, max_steps: int, scratch: Path) -> tuple[str, str]:
    """Digests of the weights that a script saves, and of what predict.py prints with them."""
    script, flags, trick_flags, questions = CASES[name]
    saved_dir = scratch / f"{name}-{tricks}-{processes}"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [
        sys.executable, *launch, script, "--pretrained_model_name_or_path", "models/bertorch-tiny-zh", *flags,
        *(TRICKS + trick_flags if tricks else []), "--max_steps", str(max_steps), "--batch_size", "8",
        "--learning_rate", "1e-3", "--save_steps", str(max_steps // 2), "--saved_dir", str(saved_dir),
        "--cache_dir", str(scratch / "cache"), "--device", "cpu",
    ]  # fmt: skip
    run(command, tree)
    if not questions:
        masks = scratch / "masks.txt"
        masks.write_text("中国的首都是北[MASK]。\n今天[MASK]气很好。\n", encoding="utf-8")
        questions = ["--input_file", str(masks)]
    printed = run([sys.executable, "predict.py", "--model_dir", str(saved_dir), *questions, "--device", "cpu"], tree)
    weights = load_file(saved_dir / "model.safetensors")
    content = b"".join(name.encode() + weights[name].numpy().tobytes() for name in sorted(weights))
    return digest(content), digest(printed)


def run(command: list[str], tree: Path) -> bytes:
    """Standard output of a command that must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True)
    if done.returncode:
        sys.exit(f"{tree}: {' '.join(command)}\n{done.stderr.decode()[-3000:]}")
    return done.stdout


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def main() -> None:
    args = parse_args()
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(before), args.commit], check=True)
        try:
            for name in args.only:
                for tricks in args.tricks:
                    for processes in args.processes:
                        found = []
                        for side, tree in (("old", before), ("new", ROOT)):
                            scratch = Path(folder) / side
                            scratch.mkdir(exist_ok=True)
                            found.append(outcome(tree, name, tricks == "tricks", processes, args.max_steps, scratch))
                        same = ["same" if old == new else "DIFFERENT" for old, new in zip(*found, strict=True)]
                        different += same.count("DIFFERENT")
                        print(
                            f"{name:12} {tricks:6} {processes} process{'es' if processes > 1 else '  '}  "
                            f"weights {found[1][0]} {same[0]}, predictions {found[1][1]} {same[1]}",
                            flush=True,
                        )
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)
    sys.exit(f"{different} differ" if different else 0)


if __name__ == "__main__":
    main()
