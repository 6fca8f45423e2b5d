"""Losses that compare the rows of a batch: the same on any number of ranks, chunked or not, as on one process."""

import sys
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bertorch.data.batching import collate, pack
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from tests.processes import finished
from tests.scripts.launch import ROOT, environment
from tests.tasks.sentences.ranks_worker import ALONE, CHUNKS, GATHERED, Case

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tiny_model) -> str:
    """A small encoder whose random weights leave the cosines of texts well apart."""
    return str(tiny_model("bert", num_hidden_layers=2))


@cache
def text_encoder(directory: str) -> TextTokenizer:
    return TextTokenizer(load_tokenizer(directory), 16)


@pytest.fixture(scope="module", params=[1, 2, 4], ids="ranks={}".format)
def on_ranks(request, directory, tmp_path_factory) -> tuple[int, dict[str, Tensor]]:
    """The world size, and what the worker found on so many ranks."""
    out = tmp_path_factory.mktemp("ranks") / "found"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(request.param),
        "tests/tasks/sentences/ranks_worker.py", directory, str(out),
    ]  # fmt: skip
    done = finished(command, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    return request.param, load_file(out)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {"loss": loss.detach(), **{name: parameter.grad for name, parameter in model.named_parameters()}}


@cache
def of_shares(directory: str, case: str, alone: bool, shares: int, chunk_size: int | None = None) -> dict[str, Tensor]:
    """Loss and gradient on this one process: each share of the batch for itself, summed, over their count."""
    case = (ALONE if alone else GATHERED)[case]
    samples, model = case.samples(text_encoder(directory)), case.model(directory, chunk_size)
    losses = [model(collate(samples, share)) for share in case.shares(shares)]
    return gradients(model, sum(loss.total for loss in losses) / sum(loss.count for loss in losses))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]):
    assert found.keys() == expected.keys()
    assert max(float(value.abs().max()) for name, value in expected.items() if name != "loss") > 0.1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(float((found[name] - value).abs().max()) for name, value in expected.items() if name != "loss")


def formula(case: Case, model: nn.Module, encoder: TextTokenizer) -> Tensor:
    """The mean loss of the whole batch, written down row by row from vectors of one text each."""
    samples = case.samples(encoder)
    vectors = [model.sentence(pack(samples, np.array([place]))[0])[0] for place in range(len(samples.offsets) - 1)]
    starts = samples.row_starts.tolist()
    of_rows = [vectors[start:end] * case.copies for start, end in zip(starts, starts[1:], strict=False)]
    texts = [list(row) * case.copies for row in case.rows]
    if case.objective == "triplet":
        terms = [
            (torch.sqrt(((row[0] - row[1] + 1e-6) ** 2).sum()) - torch.sqrt(((row[0] - negative + 1e-6) ** 2).sum()))
            for row in of_rows
            for negative in row[2:]
        ]
        return torch.stack([torch.clamp(term + case.options["margin"], min=0.0) for term in terms]).mean()
    of_rows = [[vector / vector.norm() for vector in row] for row in of_rows]
    count = len(of_rows)
    if case.objective == "cosent":
        cosines = [row[0] @ row[1] for row in of_rows]
        scale = case.options.get("scale", 20.0)
        terms = [
            torch.exp(scale * (cosines[i] - cosines[j]))
            for i, j in product(range(count), repeat=2)
            if case.scores[i] < case.scores[j]
        ]
        return torch.log(1 + sum(terms))

    scale, margin = case.options.get("scale", 20.0), case.options.get("margin", 0.2)
    masked = case.options.get("mask_duplicates", True)
    mean_loss = case.options.get("mean_loss", False)
    total = 0.0
    for i, (anchor, positive) in enumerate(row[:2] for row in of_rows):
        own = set(texts[i][:2])
        others = [j for j in range(count) if j != i and not (masked and own & set(texts[j][:2]))]
        negatives = [
            vector
            for row, names in zip(of_rows, texts, strict=True)
            for vector, name in zip(row[2:], names[2:], strict=True)
            if not (masked and name in own)
        ]
        forth = [anchor @ positive - margin, *(anchor @ of_rows[j][1] for j in others), *(anchor @ x for x in negatives)]
        total = total - F.log_softmax(scale * torch.stack(forth), dim=0)[0] * (0.5 if mean_loss else 1.0)
        if mean_loss:
            back = [anchor @ positive - margin, *(positive @ of_rows[j][0] for j in others)]
            total = total - F.log_softmax(scale * torch.stack(back), dim=0)[0] / 2
    return total / count


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("name", GATHERED)
def test_one_process_computes_the_formula(directory, name, chunk_size):
    model = GATHERED[name].model(directory, None)
    expected = gradients(model, formula(GATHERED[name], model, text_encoder(directory)))
    assert_same(of_shares(directory, name, False, 1, chunk_size), expected)


def test_triplets_are_the_formula(directory):
    name = "triplet, a rank without negatives"
    model = ALONE[name].model(directory, None)
    assert_same(of_shares(directory, name, True, 1), gradients(model, formula(ALONE[name], model, text_encoder(directory))))


def of_ranks(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("name", GATHERED)
def test_ranks_give_loss_and_gradient_of_one_process_with_the_whole_batch(on_ranks, directory, name, chunk_size):
    world_size, found = on_ranks
    found = of_ranks(found, f"gathered|{name}|{chunk_size}|")
    assert_same(found, of_shares(directory, name, False, 1))
    if world_size > 1:  # the batch would notice a rank that looks at its own rows only
        assert distance(found, of_shares(directory, name, False, world_size)) > 1e-3


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("name", ALONE)
def test_without_gathering_ranks_give_the_sum_over_their_shares(on_ranks, directory, name, chunk_size):
    world_size, found = on_ranks
    found = of_ranks(found, f"alone|{name}|{chunk_size}|")
    assert_same(found, of_shares(directory, name, True, world_size))
    if world_size > 1 and not name.startswith("triplet"):  # no_gather is another loss
        assert distance(found, of_shares(directory, name, True, 1)) > 1e-3


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_duplicates_stand_on_different_ranks_and_masking_them_matters(directory, world_size):
    case = GATHERED["duplicates"]
    texts = [{text for row in share for text in case.rows[row]} for share in case.shares(world_size)]
    assert sum(len(case.rows[row]) for share in case.shares(world_size) for row in share) == sum(map(len, texts))
    assert len(set.union(*texts)) < sum(map(len, texts))
    masked, unmasked = (of_shares(directory, f"duplicates{how}", False, 1) for how in ("", ", not masked"))
    assert distance(masked, unmasked) > 1e-3
