"""Answers in order, whatever the number of batches under way."""

import numpy as np
import pytest
import torch
from torch import nn

from bertorch.copies import Fetch
from bertorch.training.inference import _AHEAD, Compute
from bertorch.training.process_group import Processes
from tests.data.test_batching import samples_of

ALONE = Processes(0, 0, 1, torch.device("cpu"))


@pytest.mark.parametrize("sequences", [1, 2 * _AHEAD + 1, 4 * _AHEAD + 3])
def test_every_sequence_has_its_answer(sequences):
    samples = samples_of(np.random.default_rng(sequences).integers(1, 9, sequences).tolist())
    compute = Compute(2, ALONE)
    firsts = compute.of_sequences(nn.Module(), lambda tokens: tokens.input_ids[tokens.cu_seqlens[:-1].long(), None], samples)
    np.testing.assert_array_equal(firsts[:, 0], samples.input_ids[samples.offsets[:-1]])
    every = compute.of_tokens(nn.Module(), lambda tokens: tokens.input_ids[:, None], samples)
    np.testing.assert_array_equal(every[:, 0], samples.input_ids)


def test_answers_are_read_with_their_sequences():
    samples = samples_of(np.random.default_rng(0).integers(1, 9, 3 * _AHEAD).tolist())

    def answer(tokens, sequences):
        return tokens.input_ids, torch.tensor(len(sequences), dtype=torch.bfloat16)

    def read(ids, count, sizes, sequences):
        assert len(sizes) == len(sequences) == count and count.dtype == np.float32
        return [part[0] for part in np.split(ids, np.cumsum(sizes)[:-1])]

    for sequences, firsts in Compute(2, ALONE).batches(nn.Module(), answer, samples, read):
        assert firsts == samples.input_ids[samples.offsets[sequences]].tolist()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fetched_from_a_gpu():
    values = torch.arange(100_000, device="cuda")
    fetched = Fetch(values, values.half())
    values.zero_()  # after the copies
    whole, half = fetched.arrays()
    np.testing.assert_array_equal(whole, np.arange(100_000))
    assert half.dtype == np.float32 and half[:1000].tolist() == list(range(1000))
