"""Memory, first answer and rate of predict.py with rows that come through a pipe, and its rate with a whole file.

    python benchmarks/stream_memory.py --megabytes 300
    python benchmarks/stream_memory.py --megabytes 20 --whole_file --trees BEFORE AFTER --rounds 3

The rows are those of data/reviews, again and again, ``--texts_a_row`` together in a row. The model is a classifier of the
vocabulary of data/tiny-encoder with random weights, unless --model_dir names one. "First answer" is counted from the start
of the process; "with one row" is the same where one row is the whole input, which is mostly imports and loading.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model_dir", default=None)
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--texts_a_row", type=int, default=1)
    parser.add_argument("--max_seq_length", type=int, default=32)
    parser.add_argument("--whole_file", action="store_true", help="give the rows as a file")
    parser.add_argument("--trees", nargs="+", default=[str(ROOT)], help="checkouts to run in turn")
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


def make_model(directory: Path) -> Path:
    """Save a classifier of one layer, 64 wide, with random weights."""
    import shutil

    from transformers import BertConfig, BertForSequenceClassification

    config = json.loads((ROOT / "data/tiny-encoder/config.json").read_text())
    config.update(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config = BertConfig(**config, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    BertForSequenceClassification(config).save_pretrained(directory)
    shutil.copy(ROOT / "data/tiny-encoder/vocab.txt", directory)
    return directory


def blocks(texts: list[str], megabytes: float, together: int) -> Iterator[tuple[bytes, int]]:
    """``(bytes of a thousand rows or so, how many)`` until there are so many megabytes."""
    rows = ["".join(texts[(start + place) % len(texts)] for place in range(together)) for start in range(len(texts))]
    block = "".join(f"{row}\n" for row in rows).encode()
    done = 0
    while done < megabytes * 1e6:
        yield block, len(rows)
        done += len(block)


def measure(tree: str, model: Path, args: argparse.Namespace, source: list[tuple[bytes, int]], file: Path | None) -> dict:
    """Seconds to the first answer and to the last, rows a second between them, peak memory in MB."""
    command = [sys.executable, str(Path(tree) / "predict.py"), "--model_dir", str(model), "--device", "cpu"]
    command += ["--max_seq_length", str(args.max_seq_length), *(["--input_file", str(file)] if file else [])]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL if file else subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": tree},
    )  # fmt: skip

    def feed() -> None:
        for block, _ in source:
            process.stdin.write(block)
        process.stdin.close()

    if file is None:
        threading.Thread(target=feed, daemon=True).start()
    lines = process.stdout.readline().count(b"\n")
    first = time.perf_counter() - began
    while more := process.stdout.read1(1 << 20):
        lines += more.count(b"\n")
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0 and lines == sum(rows for _, rows in source), (status, lines)
    return {"first": first, "seconds": seconds, "rate": lines / max(seconds - first, 1e-9), "memory": usage.ru_maxrss / 1024}


def main() -> None:
    args = parse_args()
    lines = (ROOT / "data/reviews/train.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[0] for line in lines]
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(args.model_dir) if args.model_dir else make_model(Path(temporary) / "model")
        source, file = list(blocks(texts, args.megabytes, args.texts_a_row)), None
        size = sum(len(block) for block, _ in source) / 1e6
        if args.whole_file:
            file = Path(temporary) / "rows.tsv"
            with open(file, "wb") as handle:
                handle.writelines(block for block, _ in source)
        print("| tree | rows | MB | first answer s | with one row s | all s | rows/s after the first | peak memory MB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for _ in range(args.rounds):
            for tree in args.trees:
                one = measure(tree, model, args, [(f"{texts[0]}\n".encode(), 1)], None)
                found = measure(tree, model, args, source, file)
                rows = sum(rows for _, rows in source)
                print(
                    f"| {tree} | {rows:,} | {size:.0f} | {found['first']:.1f} | {one['first']:.1f} | {found['seconds']:.0f} "
                    f"| {found['rate']:,.0f} | {found['memory']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
