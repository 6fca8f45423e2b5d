"""How the cost of training grows: with the batch, the length, the processes, and the rows of the training set.

    python benchmarks/scaling.py --shape tiny                # all six; minutes
    python benchmarks/scaling.py --shape base --what ranks

Random weights and random tokens, a classifier with two labels, fp32 on the CPU, dropout on; medians of --rounds steps.
batch and length run in one process with one thread and count its CPU time; each length trains the same number of tokens.
ranks starts 1, 2, ... --ranks processes of one thread each that meet through gloo, 32 sequences of 64 tokens each, and
counts wall time: first steps whose gradients stay at home, then steps whose gradients meet; the difference is what
communication adds. More processes than cores share them. balance trains nothing: it counts the tokens of each process's
share of every batch of an epoch of ChnSentiCorp, cut at 128 (--data_dir, or the sample reviews repeated), and prints how
many more the process with the most has than the mean, in %, for all the others wait for it. rows draws the batches of an
epoch. arithmetic measures nothing: it works out what docs/scaling.md says of 8 and 64 GPUs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from chunked_batch import ROOT
from torch.nn.parallel import DistributedDataParallel
from turns import SHAPES, cpu_name, random_encoder

from bertorch.data.batching import Batch, epoch_plan
from bertorch.data.files import read_lines
from bertorch.encoder import TokenBatch
from bertorch.tasks.classification.head import load_classifier
from bertorch.training.optimizer import make_optimizer

KINDS = ("batch", "length", "ranks", "balance", "rows", "arithmetic")
TOKENS = 4096  # of a step of "length"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--what", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ranks", type=int, default=4, help="most processes")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--data_dir", type=Path, default=ROOT.parent / "shared" / "data", help="reviews, vocabulary")
    parser.add_argument("--encoder", help=argparse.SUPPRESS)  # in the processes of ranks
    return parser.parse_args()


def batch_of(lengths: list[int], vocab_size: int) -> Batch:
    """Random tokens for a classifier; the longest first, as training sorts them."""
    lengths, rows = sorted(lengths, reverse=True), torch.arange(len(lengths))
    ids = torch.randint(5, vocab_size, (sum(lengths),))
    tokens = TokenBatch.from_lengths(ids, torch.zeros_like(ids), lengths)
    return Batch(tokens, rows % 2, rows.numpy(), rows, rows, rows)


def step(model, optimizer, batch) -> None:
    loss = model(batch)
    (loss.total / loss.count).backward()
    optimizer.step()
    optimizer.zero_grad()


def median_of_steps(model, optimizer, batch, rounds: int, clock) -> float:
    seconds = []
    for _ in range(rounds + 1):
        started = clock()
        step(model, optimizer, batch)
        seconds.append(clock() - started)
    return statistics.median(seconds[1:])


def one_process(args: argparse.Namespace, encoder: Path, cases: list[tuple[str, list[int]]], head: str) -> str:
    """A line a case: its name and the lengths of its sequences."""
    model = load_classifier(encoder, 2).train()
    optimizer = make_optimizer("adamw", model, 1e-5, 0.01)
    lines = [f"| {head} | tokens | ms a step | µs a token |", "| --- | --- | --- | --- |"]
    for name, lengths in cases:
        batch = batch_of(lengths, model.encoder.config.vocab_size)
        seconds = median_of_steps(model, optimizer, batch, args.rounds, time.process_time)
        lines.append(f"| {name} | {sum(lengths):,} | {1e3 * seconds:,.0f} | {1e6 * seconds / sum(lengths):.1f} |")
    return "\n".join(lines)


def rank(args: argparse.Namespace) -> None:
    """One of the processes of ``ranks``; the first one prints."""
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    bare = load_classifier(args.encoder, 2).train()
    optimizer = make_optimizer("adamw", bare, 1e-5, 0.01)
    batch = batch_of([64] * 32, bare.encoder.config.vocab_size)
    model = DistributedDataParallel(bare, gradient_as_bucket_view=True)
    median_of_steps(model, optimizer, batch, 1, time.perf_counter)  # DDP forms its buckets
    found = {}
    for meets in (False, True):
        model.require_backward_grad_sync = meets
        dist.barrier()
        found["meet" if meets else "alone"] = median_of_steps(model, optimizer, batch, args.rounds, time.perf_counter)
    found["megabytes"] = sum(4 * parameter.numel() for parameter in bare.parameters()) / 1e6
    if dist.get_rank() == 0:
        print(json.dumps(found), flush=True)
    del model
    dist.destroy_process_group()


def ranks(args: argparse.Namespace, encoder: Path) -> str:
    lines = ["| processes | computing, ms a step | communication, ms | sequences/s of all |", "| --- | --- | --- | --- |"]
    for count in range(1, args.ranks + 1):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        command += [__file__, "--rounds", str(args.rounds), "--encoder", str(encoder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        found = json.loads(done.stdout.strip().splitlines()[-1])
        alone, meet = 1e3 * found["alone"], 1e3 * found["meet"]
        lines.append(f"| {count} | {alone:,.0f} | {meet - alone:,.0f} | {32 * count / found['meet']:,.0f} |")
    return f"{found['megabytes']:.0f} MB of gradients, {os.cpu_count()} cores\n\n" + "\n".join(lines)


def balance(args: argparse.Namespace) -> str:
    """How many more tokens than the mean the process with the most has, in the mean over an epoch, in %."""
    path = args.data_dir / "classification" / "chnsenticorp" / "train.tsv"
    path = path if path.is_file() else ROOT / "data" / "reviews" / "train.tsv"
    lengths = np.array([min(len(line.rpartition("\t")[0]) + 2, 128) for _, line in read_lines(path)])
    lengths = np.resize(lengths, max(len(lengths), 32 * 64 * 4))
    lines = ["| processes | shares by chance | as trained | with --group_by_length |", "| --- | --- | --- | --- |"]
    for count in (2, 8, 64):
        cells = []
        for by_length in (None, False, True):
            if by_length is None:
                (whole,) = epoch_plan(lengths, len(lengths), 1, 0, 1, 0)
                size = 32 * count
                global_batches = [whole[start : start + size] for start in range(0, len(whole) - size + 1, size)]
                shares = [np.split(batch, count) for batch in global_batches]
            else:
                shares = zip(*(epoch_plan(lengths, 32, count, rank, 1, 0, by_length) for rank in range(count)), strict=True)
            tokens = np.array([[lengths[share].sum() for share in ranks] for ranks in shares])  # [batches, processes]
            cells.append(f"{100 * (tokens.max(axis=1).sum() / tokens.mean(axis=1).sum() - 1):.1f}")
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return f"{len(lengths):,} rows of {path.parent.name}, 32 a process\n\n" + "\n".join(lines)


def rows(args: argparse.Namespace) -> str:
    lines = ["| rows | seconds | seconds, by length | peak memory of the process MB |", "| --- | --- | --- | --- |"]
    for count in args.rows:
        lengths = np.random.default_rng(0).integers(5, 128, count)
        seconds = []
        for by_length in (False, True):
            started = time.perf_counter()
            epoch_plan(lengths, 32, 8, 0, 1, 1, by_length)
            seconds.append(time.perf_counter() - started)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lines.append(f"| {count:,} | {seconds[0]:.2f} | {seconds[1]:.2f} | {peak:,.0f} |")
    return "\n".join(lines)


def arithmetic() -> str:
    """Memory of the weights, and the share of the time that GPUs compute; the formulas stand in docs/scaling.md."""
    flops = 150e12  # a second: about half of what the bf16 matrix products of an A100 reach
    lines = ["| model | parameters, million | gradients MB | weights, gradients, AdamW GB |", "| --- | --- | --- | --- |"]
    sizes = {
        "tiny": (21128, 6, 128),
        "base": (21128, 12, 768),
        "large": (21128, 24, 1024),
        "XLM-R large": (250002, 24, 1024),
    }
    for name, (vocabulary, layers, width) in sizes.items():
        count = (vocabulary + 516) * width + layers * (12 * width**2 + 13 * width)
        lines.append(f"| {name} | {count / 1e6:.0f} | {4 * count / 1e6:,.0f} | {16 * count / 1e9:.2f} |")
    lines += [
        "",
        "| base, GPUs | GB/s | tokens a GPU | computing ms | communication ms | not hidden ms | efficiency % | of 4 |",
    ]
    lines += ["|" + " --- |" * 8]
    vocabulary, layers, width = sizes["base"]
    last = 4 * vocabulary * width  # bytes: the gradient of the embeddings comes last
    whole = last + 4 * (516 * width + layers * (12 * width**2 + 13 * width))
    for gpus, speed in ((8, 200), (8, 20), (64, 100), (64, 12.5)):
        for tokens in (4_096, 32_768):
            compute = 3 * layers * (24 * width**2 + 4 * 128 * width) * tokens / flops
            ring = 2 * (gpus - 1) / gpus / (speed * 1e9)
            seen = max(ring * last, ring * whole - 2 / 3 * compute)
            cells = [gpus, speed, f"{tokens:,}", *(f"{1e3 * value:.1f}" for value in (compute, ring * whole, seen))]
            cells += [f"{100 * steps * compute / (steps * compute + seen):.0f}" for steps in (1, 4)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    if args.encoder:
        rank(args)
        return
    layers, hidden, _ = SHAPES[args.shape]
    print(f"{cpu_name()}; torch {torch.__version__}; {layers} layers, {hidden} wide; medians of {args.rounds} steps")
    with tempfile.TemporaryDirectory() as temporary:
        encoder = random_encoder(args, Path(temporary))
        sizes = [(str(size), [64] * size) for size in (1, 2, 4, 8, 16, 32, 64, 128)]
        lengths = [(str(length), [length] * (TOKENS // length)) for length in (16, 32, 64, 128, 256, 512)]
        measure = {
            "batch": lambda: one_process(args, encoder, sizes, "sequences of 64 tokens"),
            "length": lambda: one_process(args, encoder, lengths, "length of the sequences"),
            "ranks": lambda: ranks(args, encoder),
            "balance": lambda: balance(args),
            "rows": lambda: rows(args),
            "arithmetic": arithmetic,
        }
        for what in args.what:
            found = measure[what]()
            print(f"\n## {what}\n\n{found}", flush=True)


if __name__ == "__main__":
    main()
