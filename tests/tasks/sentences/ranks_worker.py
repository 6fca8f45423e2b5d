"""Gradients of the losses that compare rows with each other, each rank with its share of one batch; no dropout, doubles.

torchrun --nproc_per_node=N ranks_worker.py MODEL_DIR OUT
"""

import random
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bertorch.data.batching import collate
from bertorch.data.tokenizing import Samples, TextTokenizer, load_tokenizer, tokenize
from bertorch.tasks.sentences.contrastive import Contrastive
from bertorch.tasks.sentences.directory import new_sentence_encoder
from bertorch.tasks.sentences.pair import SentencePair
from bertorch.training.process_group import run_script

CHUNKS = (None, 3)


@dataclass
class Case:
    """A batch, the head it goes through, and how many rows each rank takes (in equal shares unless told otherwise)."""

    rows: list[tuple[str, ...]]
    objective: str = "contrastive"
    options: dict = field(default_factory=dict)
    scores: list[float] | None = None
    copies: int = 1
    pooling_mode: str = "mean"
    sizes: dict[int, list[int]] = field(default_factory=dict)

    def samples(self, encoder: TextTokenizer) -> Samples:
        scores = self.scores or [-1] * len(self.rows)
        samples = tokenize(zip(range(len(self.rows)), self.rows, scores, strict=True), encoder, separate=True)
        samples.copies = self.copies
        return samples

    def shares(self, world_size: int) -> list[np.ndarray]:
        places = np.arange(len(self.rows))
        if world_size in self.sizes:
            return np.split(places, np.cumsum(self.sizes[world_size])[:-1])
        return np.array_split(places, world_size)

    def model(self, directory: str, chunk_size: int | None) -> nn.Module:
        sentence, _ = new_sentence_encoder(directory, self.pooling_mode, dropout=0.0)
        sentence.chunk_size = chunk_size
        if self.objective == "contrastive":
            head = Contrastive(sentence, **self.options)
        else:
            head = SentencePair(sentence, self.objective, **self.options)
        return head.double().train()


def rows_of(*sequences: int) -> list[tuple[str, ...]]:
    """Rows of so many texts of 1 to 12 characters each, no text twice."""
    draw = random.Random(len(sequences))
    texts: list[str] = []
    while len(texts) < sum(sequences):
        text = "".join(draw.choices("的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得", k=draw.randint(1, 12)))
        texts += [text] * (text not in texts)
    remaining = iter(texts)
    return [tuple(next(remaining) for _ in range(count)) for count in sequences]


def with_duplicates() -> list[tuple[str, ...]]:
    """8 rows, some with a hard negative; texts of rows 0, 1 and 3 stand in rows 4 to 7 too."""
    rows = [list(row) for row in rows_of(2, 3, 2, 3, 2, 2, 3, 2)]
    rows[4][0] = rows[0][0]  # text and text
    rows[5][0] = rows[1][1]  # positive and text
    rows[6][2] = rows[0][1]  # positive and hard negative
    rows[7][1] = rows[3][1]  # positive and positive
    return [tuple(row) for row in rows]


UNEQUAL = {2: [7, 3], 4: [1, 4, 2, 3]}
SCORES = [3.0, 0.0, 5.0, 1.0, 1.0, 4.0, 0.0, 2.5, 5.0, 3.0]
GATHERED = {
    "simcse": Case(rows_of(*[1] * 9), copies=2, pooling_mode="linear"),
    "simcse, a sentence twice": Case([*rows_of(*[1] * 7), *rows_of(*[1] * 7)[:1]], copies=2, pooling_mode="cls"),
    "one direction": Case(rows_of(*[2] * 7), options={"margin": 0.1}),
    "both directions": Case(rows_of(*[2] * 10), options={"mean_loss": True}, pooling_mode="first_last"),
    "unequal shares": Case(rows_of(*[2] * 10), options={"mean_loss": True}, sizes=UNEQUAL),
    "hard negatives": Case(rows_of(4, 2, 3, 3, 2, 4, 3, 2)),
    "hard negatives, unequal shares": Case(rows_of(4, 2, 3, 3, 2, 4, 3, 2, 3, 2), options={"scale": 8.0}, sizes=UNEQUAL),
    "hard negatives, a rank without": Case(rows_of(3, 4, 2, 4, 2, 2, 2, 2), options={"mean_loss": True}),
    "duplicates": Case(with_duplicates(), options={"mean_loss": True}),
    "duplicates, not masked": Case(with_duplicates(), options={"mean_loss": True, "mask_duplicates": False}),
    "cosent": Case(rows_of(*[2] * 10), "cosent", {"scale": 10.0}, SCORES),
    "cosent, unequal shares": Case(rows_of(*[2] * 10), "cosent", {}, SCORES, pooling_mode="last_two", sizes=UNEQUAL),
    "cosent, all scores equal on a rank": Case(rows_of(*[2] * 8), "cosent", {}, [1.0] * 4 + [0.0, 2.0, 1.0, 1.0]),
}
# Nothing is compared across ranks here: the total is the sum of what each share gives for itself.
ALONE = {
    "contrastive": Case(rows_of(*[2] * 10), options={"mean_loss": True, "gather_negatives": False}, sizes=UNEQUAL),
    "cosent": Case(rows_of(*[2] * 10), "cosent", {"gather_pairs": False}, SCORES, sizes=UNEQUAL),
    "triplet, a rank without negatives": Case(rows_of(3, 4, 2, 4, 2, 2, 2, 2), "triplet", {"margin": 20.0}),
}


def main():
    directory, out = sys.argv[1:]
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    encoder = TextTokenizer(load_tokenizer(directory), 16)
    found = {}
    for kind, cases in (("gathered", GATHERED), ("alone", ALONE)):
        for name, case in cases.items():
            batch = collate(case.samples(encoder), case.shares(world_size)[rank])
            for chunk_size in CHUNKS:
                model = case.model(directory, chunk_size)
                parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
                loss = parallel(batch)
                loss.total.backward()
                sums = torch.tensor([loss.total.item(), loss.count], dtype=torch.float64)
                dist.all_reduce(sums)
                total, count = sums
                prefix = f"{kind}|{name}|{chunk_size}|"
                found[f"{prefix}loss"] = total / count
                for parameter, value in model.named_parameters():
                    found[prefix + parameter] = value.grad * (world_size / count)  # as Run.step(): DDP has averaged
    if rank == 0:
        save_file(found, out)


if __name__ == "__main__":
    run_script(main)
