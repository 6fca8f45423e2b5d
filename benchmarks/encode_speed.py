"""Sentence vectors a second, tokenizing included, beside SentenceTransformer.encode of sentence-transformers.

    python benchmarks/encode_speed.py --shape tiny
    python benchmarks/encode_speed.py --shape base --lines 1000

Both encode blocks of the lines, --lines divided by --pairs each, in turn and each in a process of its own; who begins
changes from block to block. Ours computes as predict.py does for vectors: tokenize, sort by length, pack, encode, mean
pooling. Both have the same random weights; bf16 is autocast over fp32 weights here and bf16 weights there, as each is used.
First all sides encode a short block, which warms up, and whose vectors must agree: a cosine above 0.9999 in fp32, 0.99 in
bf16. Seconds are CPU time of the process with one thread, wall time with more or with --device cuda.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from chunked_batch import ROOT
from turns import SHAPES, Turns, Worker, add_arguments, in_turn, machine, random_encoder, seconds, spread

# Libraries are imported where they are used: a worker loads those of its own side, because its memory is compared.

SIDES = ("bertorch", "sentence-transformers")
WARM_UP = 256
LOWEST_COSINE = {"fp32": 0.9999, "bf16": 0.99}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--text_file", type=Path, default=None, help="a text a line; default: Wikipedia of --data_dir")
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--precision", choices=LOWEST_COSINE, nargs="+", default=list(LOWEST_COSINE))
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--max_seq_length", type=int, default=128)
    add_arguments(parser)
    return parser.parse_args()


def read_texts(args: argparse.Namespace) -> tuple[list[str], str]:
    """The lines, repeated where the file has fewer, and a line on them."""
    path = args.text_file or args.data_dir / "plain" / "commonvoice_wiki_zh.txt"
    path = path if args.text_file or path.is_file() else ROOT / "data" / "sentences" / "train.txt"
    with open(path, encoding="utf-8") as handle:
        found = [line.strip() for line in handle if line.strip()]
    said = f"{path.name}, {args.lines:,} of {len(found):,} lines" + (", repeated" if args.lines > len(found) else "")
    return list(itertools.islice(itertools.cycle(found), args.lines)), said


def encode_bertorch(args: argparse.Namespace) -> Any:
    """Texts -> vectors, by the functions that predict.py calls."""
    import torch

    from bertorch.data.tokenizing import TextTokenizer, load_tokenizer, tokenize
    from bertorch.tasks.sentences.directory import plain_sentence_encoder
    from bertorch.training.inference import Compute
    from bertorch.training.process_group import Processes

    sentence = plain_sentence_encoder(args.worker["encoder"], "mean").to(args.device)
    encoder = TextTokenizer(load_tokenizer(args.worker["encoder"]), args.max_seq_length)
    processes = Processes(rank=0, local_rank=0, world_size=1, device=torch.device(args.device))

    def encode(texts: list[str]) -> np.ndarray:
        samples = tokenize(((line, (text,), -1) for line, text in enumerate(texts, 1)), encoder)
        return Compute(args.batch_size, processes, args.worker["precision"]).of_sequences(sentence, sentence, samples)

    return encode


def encode_theirs(args: argparse.Namespace) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.worker["precision"]]
    model = SentenceTransformer(args.worker["encoder"], device=args.device, model_kwargs={"dtype": dtype})  # mean pooling
    model.max_seq_length = args.max_seq_length

    def encode(texts: list[str]) -> np.ndarray:
        return model.encode(texts, batch_size=args.batch_size, show_progress_bar=False)

    return encode


def work(args: argparse.Namespace) -> NoReturn:
    """Encode the lines that each word names, and leave the vectors in a file."""
    turns = Turns()
    try:
        encode = {"bertorch": encode_bertorch, "sentence-transformers": encode_theirs}[args.worker["side"]](args)
    except ModuleNotFoundError as error:
        sys.exit(f"left out, it needs {error.name.replace('_', '-')}")
    texts, _ = read_texts(args)
    np.save(args.worker["vectors"], np.asarray(encode(texts[:WARM_UP]), dtype=np.float32))
    turns.stop()
    turns.answer()
    while True:
        start, end = map(int, turns.wait().split())
        encode(texts[start:end])
        turns.stop()
        turns.answer(texts=end - start)


def check(vectors: dict[str, np.ndarray]) -> None:
    """Ends the program where a side's vectors are not those of the first one."""
    first, reference = next(iter(vectors.items()))
    for title, own in vectors.items():
        cosines = (own * reference).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(reference, axis=1)
        print(f"{title}: lowest cosine with the vectors of {first} {cosines.min():.6f}", file=sys.stderr)
        lowest = LOWEST_COSINE["bf16" if "bf16" in title + first else "fp32"]
        if not cosines.min() > lowest:
            raise SystemExit(f"{title}: its vectors differ from those of {first}: cosine {cosines.min():.6f}")


def table(args: argparse.Namespace, figures: dict[str, list[dict[str, Any]]]) -> str:
    speeds = {title: [one["texts"] / seconds(one, args) for one in blocks] for title, blocks in figures.items()}
    lines = ["| side | texts/s | peak memory MB |", "| --- | --- | --- |"]
    lines += [f"| {title} | {spread(own, 0)} | {figures[title][-1]['memory']:,.0f} |" for title, own in speeds.items()]
    lines += ["", "| bertorch divided by sentence-transformers | texts/s |", "| --- | --- |"]

    def compare(what: str, ours: str, theirs: str) -> None:
        ratios = [mine / other for mine, other in zip(speeds[ours], speeds[theirs], strict=True)]
        lines.append(f"| {what} | {spread(ratios, 2)} |")

    for precision in args.precision:
        titles = [f"{side} {precision}" for side in SIDES]
        if all(title in speeds for title in titles):
            compare(f"{precision} against {precision}", *titles)
    best = [
        max((title for title in speeds if title.startswith(side)), key=lambda t: sum(speeds[t]), default="")
        for side in SIDES
    ]
    if all(best):
        compare(f"best of each: {best[0]} against {best[1]}", *best)
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    if args.worker:
        work(args)
    _, said = read_texts(args)
    layers, hidden, _ = SHAPES[args.shape]
    print(
        f"{machine(args, 'sentence-transformers')}\n\n{layers} layers, {hidden} wide, random weights; {said}; batch size "
        f"{args.batch_size}; medians of {args.pairs} blocks (lowest..highest), of the ratios within a block\n"
    )
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        directory = Path(temporary)
        encoder = random_encoder(args, directory)
        workers, vectors = {}, {}
        for precision, side in itertools.product(args.precision, SIDES):
            title, path = f"{side} {precision}", directory / f"{side}-{precision}.npy"
            job = {"side": side, "precision": precision, "encoder": str(encoder), "vectors": str(path)}
            worker = Worker(title, job, args.threads, directory)
            stack.callback(worker.close)
            if worker.answer(optional=True) is not None:
                workers[title], vectors[title] = worker, np.load(path)
        check(vectors)
        figures: dict[str, list[dict[str, Any]]] = {title: [] for title in workers}
        size = args.lines // args.pairs
        for block, order in enumerate(in_turn(list(workers), args.pairs)):
            for title in order:
                figures[title].append(workers[title].ask(f"{block * size} {(block + 1) * size}"))
    print(table(args, figures))


if __name__ == "__main__":
    main()
