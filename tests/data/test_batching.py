"""Which rows form a batch on which rank, and packed batches."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bertorch.data.batching import collate, epoch_plan, evaluation_batches, evaluation_plan
from bertorch.data.tokenizing import Samples

CPU = torch.device("cpu")


def samples_of(lengths: list[int]) -> Samples:
    """Rows of these lengths whose ids occur once each, half of every row in the second segment."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Samples(
        input_ids=np.arange(1000, 1000 + offsets[-1], dtype=np.int32),
        offsets=offsets,
        second=np.array([length - length // 2 for length in lengths], dtype=np.int32),
        row_starts=np.arange(len(lengths) + 1),
        labels=np.arange(len(lengths), dtype=np.int64) - 1,
        text_hashes=np.arange(len(lengths), dtype=np.uint64),
        lines=np.arange(1, len(lengths) + 1, dtype=np.int64),
        truncated=0,
        unknown=0,
    )


numbers = {
    "rows": st.integers(1, 150),
    "batch_size": st.integers(1, 9),
    "world_size": st.integers(1, 6),
    "seed": st.integers(0, 5),
    "epoch": st.integers(0, 3),
}


@given(**numbers)
@settings(deadline=None)
def test_every_row_is_trained_once_an_epoch_in_equal_shares(rows, batch_size, world_size, seed, epoch):
    assume(rows >= world_size)
    plans = [epoch_plan(rows, batch_size, world_size, rank, seed, epoch) for rank in range(world_size)]
    assert len({len(plan) for plan in plans}) == 1
    global_batches = list(zip(*plans, strict=True))
    for shares in global_batches:
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    totals = [sum(map(len, shares)) for shares in global_batches]
    assert set(totals[:-1]) <= {batch_size * world_size}
    assert totals[-1] < batch_size * world_size + world_size
    assert sorted(row for plan in plans for batch in plan for row in batch) == list(range(rows))


@given(**numbers)
@settings(deadline=None)
def test_the_order_is_the_same_for_all_ranks_and_world_sizes(rows, batch_size, world_size, seed, epoch):
    assume(rows >= world_size)
    plans = [epoch_plan(rows, batch_size, world_size, rank, seed, epoch) for rank in range(world_size)]
    order = [row for shares in zip(*plans, strict=True) for share in shares for row in share]
    (whole,) = epoch_plan(rows, rows, 1, 0, seed, epoch)
    assert order == whole.tolist()


def test_the_order_changes_with_the_epoch_and_the_seed():
    orders = {tuple(epoch_plan(40, 40, 1, 0, seed, epoch)[0]) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert tuple(range(40)) not in orders


def test_a_rest_with_fewer_rows_than_ranks_joins_the_batch_before_it():
    sizes = [[len(batch) for batch in epoch_plan(18, 2, 4, rank, 0, 0)] for rank in range(4)]
    assert [sum(batch) for batch in zip(*sizes, strict=True)] == [8, 10]
    sizes = [[len(batch) for batch in epoch_plan(20, 2, 4, rank, 0, 0)] for rank in range(4)]
    assert [sum(batch) for batch in zip(*sizes, strict=True)] == [8, 8, 4]


lengths_of_rows = st.lists(st.integers(1, 12), min_size=1, max_size=30)


@given(lengths=lengths_of_rows, batch_size=st.integers(1, 8), world_size=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_an_evaluation_has_the_same_batches_on_any_number_of_ranks(lengths, batch_size, world_size):
    samples = samples_of(lengths)
    plan = evaluation_plan(samples, batch_size)
    assert sorted(row for batch in plan for row in batch) == list(range(len(lengths)))
    assert {len(batch) for batch in plan[:-1]} <= {batch_size} and 1 <= len(plan[-1]) <= batch_size
    in_order = [lengths[row] for batch in plan for row in batch]
    assert in_order == sorted(lengths, reverse=True)
    shares = [list(evaluation_batches(samples, batch_size, CPU, world_size, rank)) for rank in range(world_size)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    found = {tuple(sequences) for share in shares for _, sequences in share}
    assert found == {tuple(batch) for batch in plan}
    assert sum(map(len, shares)) == len(plan)


@given(lengths=lengths_of_rows, data=st.data())
@settings(deadline=None, max_examples=50)
def test_a_batch_holds_the_tokens_segments_and_labels_of_its_rows(lengths, data):
    samples = samples_of(lengths)
    rows = np.array(data.draw(st.permutations(range(len(lengths)))))[: data.draw(st.integers(1, len(lengths)))]
    asked = rows.copy()
    batch = collate(samples, rows)
    assert rows.tolist() == asked.tolist()
    assert batch.rows.tolist() == sorted(asked, key=lambda row: -lengths[row])  # the longest first, equal ones in order
    assert batch.labels.tolist() == [row - 1 for row in batch.rows]
    assert batch.tokens.lengths == [lengths[row] for row in batch.rows]
    assert batch.tokens.max_seqlen == max(batch.tokens.lengths)
    bounds = batch.tokens.cu_seqlens.tolist()
    assert bounds[0] == 0 and bounds[-1] == batch.tokens.total_tokens == sum(batch.tokens.lengths)
    for place, row in enumerate(batch.rows):
        length, start = lengths[row], bounds[place]
        first = 1000 + sum(lengths[:row])
        assert batch.tokens.input_ids[start : start + length].tolist() == list(range(first, first + length))
        half = length - length // 2
        assert batch.tokens.token_type_ids[start : start + length].tolist() == [0] * half + [1] * (length - half)
        assert batch.tokens.position_ids[start : start + length].tolist() == list(range(length))
    for tensor in (batch.tokens.input_ids, batch.tokens.token_type_ids, batch.labels):
        assert tensor.dtype == torch.int64


def test_a_batch_shares_no_memory_with_the_samples():
    samples = samples_of([3, 2])
    for array in (samples.input_ids, samples.offsets, samples.second, samples.labels):
        array.flags.writeable = False  # as the mapped arrays of the cache are
    batch = collate(samples, np.array([0, 1]))
    batch.tokens.input_ids.zero_()
    batch.labels.zero_()
    assert samples.input_ids.tolist() == [1000, 1001, 1002, 1003, 1004]
    assert samples.labels.tolist() == [-1, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_pinned_batch_arrives_on_the_gpu():
    samples = samples_of([3, 5, 2])
    batch = collate(samples, np.array([0, 1, 2])).pin_memory()
    assert batch.tokens.input_ids.is_pinned() and batch.labels.is_pinned()
    moved = batch.to(torch.device("cuda"))
    assert moved.tokens.input_ids.is_cuda and moved.tokens.input_ids.tolist() == batch.tokens.input_ids.tolist()
    assert moved.labels.is_cuda and moved.labels.tolist() == batch.labels.tolist()
