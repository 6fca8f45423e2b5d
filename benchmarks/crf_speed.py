"""Time of a CRF's loss and decoding, against pytorch-crf.

    pip install pytorch-crf
    python benchmarks/crf_speed.py

Both have the same parameters and see the same texts, on the CPU: ours packed, pytorch-crf padded under a mask. That both
agree is checked first; then both run in turn, --rounds times each, and the median counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from turns import cpu_name

from bertorch.tasks.entities.crf import CRF

try:
    import torchcrf
except ImportError:
    raise SystemExit("benchmarks/crf_speed.py compares with pytorch-crf: pip install pytorch-crf") from None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="of the longest text")
    parser.add_argument("--shortest", type=int, default=8, help="ragged texts have this many to --length places")
    parser.add_argument("--tags", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Sides:
    """The same texts for both sides; what each method returns is in the form in which the side gives it."""

    def __init__(self, lengths: list[int], tags: int):
        self.lengths = lengths
        self.ours, self.theirs = CRF(tags), torchcrf.CRF(tags, batch_first=True)
        for parameter in self.ours.parameters():
            torch.nn.init.normal_(parameter)
        self.theirs.load_state_dict(self.ours.state_dict())
        self.packed = torch.randn(sum(lengths), tags, requires_grad=True)
        self.tags = torch.randint(tags, (sum(lengths),))
        self.padded = self.pad(self.packed.detach()).requires_grad_()  # [texts, longest, tags]
        self.padded_tags = self.pad(self.tags)
        self.mask = self.pad(torch.ones(sum(lengths), dtype=torch.bool))

    def pad(self, packed: Tensor) -> Tensor:
        return pad_sequence(list(packed.split(self.lengths)), batch_first=True)

    def our_loss(self) -> list[Tensor]:
        """The loss and its gradients, of emissions and parameters."""
        loss = -self.ours.log_likelihood(self.packed, self.tags, self.lengths).mean()
        return [loss, *torch.autograd.grad(loss, [self.packed, *self.ours.parameters()])]

    def their_loss(self) -> list[Tensor]:
        loss = -self.theirs(self.padded, self.padded_tags, self.mask, reduction="mean")
        names = dict(self.theirs.named_parameters())
        return [loss, *torch.autograd.grad(loss, [self.padded, *(names[name] for name, _ in self.ours.named_parameters())])]

    def our_tags(self) -> Tensor:
        return self.ours.decode(self.packed, self.lengths)

    @torch.no_grad()
    def their_tags(self) -> list[list[int]]:
        return self.theirs.decode(self.padded, self.mask)

    def check(self) -> None:
        """Exits where the two sides differ."""
        (loss, emissions, *parameters), (their_loss, padded, *their_parameters) = self.our_loss(), self.their_loss()
        pairs = [(loss.float(), their_loss), (emissions, padded[self.mask]), *zip(parameters, their_parameters, strict=True)]
        if not all(torch.allclose(one, other, rtol=1e-3, atol=1e-5) for one, other in pairs):
            raise SystemExit("the losses or their gradients differ")
        if self.our_tags().tolist() != [tag for text in self.their_tags() for tag in text]:
            raise SystemExit("the decoded tags differ")


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def medians(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """In ms, of calls in turn; which side begins alternates as well."""
    times = {ours: [], theirs: []}
    for number in range(rounds):
        for call in (ours, theirs) if number % 2 else (theirs, ours):
            times[call].append(milliseconds(call))
    return statistics.median(times[ours]), statistics.median(times[theirs])


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    drawn = torch.randint(args.shortest, args.length + 1, (args.batch_size,)).tolist()
    print(f"torch {torch.__version__}, {cpu_name()}, threads: {args.threads}")
    print(f"{args.batch_size} texts, {args.tags} tags, median of {args.rounds} rounds in ms\n")
    print("| lengths | what | bertorch | pytorch-crf | ratio |\n| --- | --- | --- | --- | --- |")
    for name, lengths in {
        f"all {args.length}": [args.length] * args.batch_size,
        f"{args.shortest} to {args.length}": drawn,
    }.items():
        sides = Sides(lengths, args.tags)
        sides.check()  # also warms both up
        for what, ours, theirs in [
            ("loss and gradients", sides.our_loss, sides.their_loss),
            ("decode", sides.our_tags, sides.their_tags),
        ]:
            our_time, their_time = medians(ours, theirs, args.rounds)
            print(f"| {name} | {what} | {our_time:.1f} | {their_time:.1f} | {their_time / our_time:.1f} |", flush=True)


if __name__ == "__main__":
    main()
