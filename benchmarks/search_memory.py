"""Memory and time of predict.py --corpus over many lines.

    python benchmarks/search_memory.py --model_dir MODEL --text_file SENTENCES --lines 1000000

The corpus is made of halves of the sentences in --text_file, put together at random; its first lines are the queries.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from chunked_batch import ROOT, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--text_file", required=True)
    parser.add_argument("--lines", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=100)
    return parser.parse_args()


def write_corpus(sentences: list[str], path: Path, lines: int) -> list[str]:
    """Write ``lines`` lines; returns the first of them."""
    generator = random.Random(0)
    first = []
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        for _ in range(lines):
            start, end = generator.sample(sentences, 2)
            text = start[: len(start) // 2] + end[len(end) // 2 :]
            handle.write(text + "\n")
            if len(first) < 1_000:
                first.append(text)
    return first


def main() -> None:
    args = parse_args()
    with open(args.text_file, encoding="utf-8") as handle:
        sentences = [line.strip() for line in handle if line.strip()]
    print("| lines | peak memory MB | seconds |\n| --- | --- | --- |")
    for lines in args.lines:
        with tempfile.TemporaryDirectory() as temporary:
            corpus, queries = Path(temporary) / "corpus.txt", Path(temporary) / "queries.txt"
            first = write_corpus(sentences, corpus, lines)
            queries.write_text("".join(f"{text}\n" for text in first[: args.queries]), encoding="utf-8")
            command = [sys.executable, str(ROOT / "predict.py"), "--model_dir", args.model_dir, "--corpus", str(corpus)]
            command += ["--input_file", str(queries), "--output_file", str(Path(temporary) / "hits.tsv")]
            memory, seconds = run([*command, "--batch_size", "256"])
        print(f"| {lines:,} | {memory:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
