"""Milliseconds of attention with dropout on a CPU, forward and backward: grouped matrix products beside padded SDPA.

    python benchmarks/attention_speed.py
    python benchmarks/attention_speed.py --heads 12 --hidden_size 768 --longest 512

A batch has sequences of random lengths, from 8 tokens to --longest, sorted as the training sorts them. The two backends take
turns; medians of --rounds.
"""

import argparse
import statistics
import sys
import time

import torch
from chunked_batch import ROOT

sys.path.insert(0, str(ROOT))

from bertorch.encoder import TokenBatch  # noqa: E402
from bertorch.encoder.attention import attention  # noqa: E402


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--hidden_size", type=int, default=768)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lengths = sorted(torch.randint(8, args.longest + 1, (args.batch_size,)).tolist(), reverse=True)
    ids = torch.zeros(sum(lengths), dtype=torch.long)
    batch = TokenBatch.from_lengths(ids, ids, lengths)
    shape = (sum(lengths), args.heads, args.hidden_size // args.heads)
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    taken: dict[str, list[float]] = {"grouped": [], "padded": []}
    for turn in range(args.rounds + 1):
        for backend, times in taken.items():
            started = time.perf_counter()
            attention(*inputs, batch, 0.1, backend).sum().backward()
            if turn:  # the first warms up
                times.append(1000 * (time.perf_counter() - started))
    grouped, padded = (statistics.median(times) for times in taken.values())
    print(
        f"{sum(lengths)} tokens of {args.batch_size} sequences: grouped {grouped:.1f} ms, padded {padded:.1f} ms, ", end=""
    )
    print(f"{padded / grouped:.2f} times as long")


if __name__ == "__main__":
    main()
