"""Texts tokenized a second, into the token cache, beside one call of transformers' fast tokenizer.

    python benchmarks/tokenize_speed.py
    python benchmarks/tokenize_speed.py --lines 20000 --pairs 3 --threads 2

Ours reads the file, tokenizes, hashes the texts, and writes the cache that it then maps into memory: what a training
does at its first start; then it starts a second time, from the cache. The tokenizer of transformers has the lines in a
list already, and gives lists, which nothing keeps: what a script does that calls it on its data. In turn, --pairs times; the
lines are those of the file, repeated with a number behind them, so that all are unequal. That both give the same ids is
checked. Seconds are CPU time of the process with one thread, wall time with more.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chunked_batch import ROOT
from encode_speed import read_texts
from turns import clock, machine, spread


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--text_file", type=Path, default=None, help="a text a line; default: Wikipedia of --data_dir")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data_dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model_dir", type=Path, default=ROOT / "models" / "bertorch-tiny-zh", help="with the vocabulary")
    parser.set_defaults(device="cpu")
    return parser.parse_args()


def timed(call: Callable[[], Any], now: Callable[[], float]) -> tuple[float, Any]:
    gc.collect()
    started = now()
    result = call()
    return now() - started, result


def main() -> None:
    args = parse_args()
    os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before the tokenizers start theirs
    from loguru import logger

    from bertorch.data.files import read_lines
    from bertorch.data.tokenizing import Samples, TextTokenizer, load_tokenizer, tokenize_cached

    logger.remove()
    now = time.process_time if clock(args) == "cpu" else time.perf_counter
    texts, said = read_texts(args)
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    tokenizer = load_tokenizer(args.model_dir)
    encoder = TextTokenizer(load_tokenizer(args.model_dir), args.max_seq_length)  # switches truncation off in its own
    took: dict[str, list[float]] = {"bertorch": [], "bertorch, from the cache": [], "transformers": []}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "texts.txt"
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

        def rows() -> Iterator[tuple[int, tuple[str], int]]:
            return ((line, (text,), -1) for line, text in read_lines(path))

        def ours(cache: str) -> Samples:
            return tokenize_cached(path, rows, encoder, ("texts",), f"{temporary}/{cache}")

        def theirs() -> list[list[int]]:
            return tokenizer(texts, truncation=True, max_length=args.max_seq_length)["input_ids"]

        def check(samples: Samples, ids: list[list[int]]) -> None:
            equal = len(samples) == len(ids) and samples.input_ids.tolist() == [one for row in ids for one in row]
            if not equal:
                raise SystemExit("the two do not give the same ids")

        for pair in range(args.pairs):
            samples = ids = None
            for side in ("bertorch", "transformers")[:: -1 if pair % 2 else 1]:
                if side == "transformers":
                    taken, ids = timed(theirs, now)
                    took["transformers"].append(taken)
                else:
                    for name in ("bertorch", "bertorch, from the cache"):
                        taken, samples = timed(lambda cache=str(pair): ours(cache), now)
                        took[name].append(taken)
            check(samples, ids)
    print(f"{machine(args, 'tokenizers')}\n\n{said}, unequal by a number; max_seq_length {args.max_seq_length}\n")
    print("| | seconds | texts/s | faster than transformers by |\n| --- | --- | --- | --- |")
    for name, values in took.items():
        ratios = [theirs / own for theirs, own in zip(took["transformers"], values, strict=True)]
        cells = [spread(values, 3), spread([len(texts) / value for value in values], 0), spread(ratios, 2)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
