"""Which rows form a batch on which rank, and packed batches."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bertorch.data.batching import Batch, collate, epoch_plan, evaluation_batches, evaluation_plan
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
        uncut_lengths=np.array(lengths),
        unknown=0,
    )


numbers = {
    "rows": st.integers(1, 150),
    "batch_size": st.integers(1, 9),
    "world_size": st.integers(1, 6),
    "seed": st.integers(0, 5),
    "epoch": st.integers(0, 3),
}


def plans_of(lengths, batch_size, world_size, seed, epoch, group_by_length=False):
    """Each rank's plan; ``lengths`` may be a number of rows, of any lengths."""
    lengths = np.random.default_rng(seed).integers(1, 512, lengths) if isinstance(lengths, int) else lengths
    return [epoch_plan(lengths, batch_size, world_size, rank, seed, epoch, group_by_length) for rank in range(world_size)]


@given(**numbers, group_by_length=st.booleans())
@settings(deadline=None)
def test_every_row_is_trained_once_an_epoch_in_equal_shares(rows, batch_size, world_size, seed, epoch, group_by_length):
    assume(rows >= world_size)
    plans = plans_of(rows, batch_size, world_size, seed, epoch, group_by_length)
    assert len({len(plan) for plan in plans}) == 1
    global_batches = list(zip(*plans, strict=True))
    for shares in global_batches:
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    totals = [sum(map(len, shares)) for shares in global_batches]
    if group_by_length:  # their order is shuffled
        totals.sort(key=lambda total: total != batch_size * world_size)
    assert set(totals[:-1]) <= {batch_size * world_size}
    assert totals[-1] < batch_size * world_size + world_size
    assert sorted(row for plan in plans for batch in plan for row in batch) == list(range(rows))


@given(**numbers)
@settings(deadline=None)
def test_the_order_is_the_same_for_all_ranks_and_world_sizes(rows, batch_size, world_size, seed, epoch):
    """Global batches are slices of one order, however many ranks share them."""
    assume(rows >= world_size)
    plans = plans_of(rows, batch_size, world_size, seed, epoch)
    ((whole,),) = plans_of(rows, rows, 1, seed, epoch)
    start = 0
    for shares in zip(*plans, strict=True):
        together = {row for share in shares for row in share}
        assert together == set(whole[start : start + len(together)])
        start += len(together)


@given(**numbers)
@settings(deadline=None)
def test_ranks_have_like_numbers_of_tokens(rows, batch_size, world_size, seed, epoch):
    """Dealt there and back, two ranks differ by less than the longest row of what they share, plus a last one."""
    assume(rows >= world_size)
    lengths = np.random.default_rng(seed).integers(1, 512, rows)
    for shares in zip(*plans_of(lengths, batch_size, world_size, seed, epoch), strict=True):
        tokens = [lengths[share].sum() for share in shares]
        longest = max(lengths[share].max() for share in shares)
        assert max(tokens) - min(tokens) <= longest


def test_the_order_changes_with_the_epoch_and_the_seed():
    lengths = np.ones(40, dtype=int)
    orders = {tuple(epoch_plan(lengths, 40, 1, 0, seed, epoch)[0]) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert tuple(range(40)) not in orders


def test_a_rest_with_fewer_rows_than_ranks_joins_the_batch_before_it():
    for rows, totals in ((18, [8, 10]), (20, [8, 8, 4])):
        assert [sum(map(len, shares)) for shares in zip(*plans_of(rows, 2, 4, 0, 0), strict=True)] == totals


@given(**numbers)
@settings(deadline=None)
def test_batches_of_like_length_hold_every_row_once(rows, batch_size, world_size, seed, epoch):
    """Within one pool of 50 batches, the batches are the slices of the rows sorted by length."""
    assume(world_size <= rows <= 50 * batch_size * world_size)
    lengths = np.random.default_rng(seed).integers(1, 512, rows)
    plans = plans_of(lengths, batch_size, world_size, seed, epoch, True)
    batches = [[row for share in shares for row in share] for shares in zip(*plans, strict=True)]
    ranges = sorted((lengths[batch].min(), lengths[batch].max()) for batch in batches)
    assert all(longest <= shortest for (_, longest), (shortest, _) in zip(ranges, ranges[1:], strict=False))


def test_batches_of_like_length_come_in_a_shuffled_order_and_change_with_the_epoch():
    plans = [epoch_plan(np.arange(400), 8, 1, 0, 0, epoch, True) for epoch in range(3)]
    first = [tuple(batch[0] for batch in plan) for plan in plans]
    assert len(set(first)) == 3
    assert all(list(order) not in (sorted(order), sorted(order, reverse=True)) for order in first)
    many = [epoch_plan(np.arange(4000), 8, 1, 0, 0, epoch, True) for epoch in range(2)]  # ten pools
    assert {frozenset(batch) for batch in many[0]} != {frozenset(batch) for batch in many[1]}
    assert max(batch.max() - batch.min() for batch in many[0]) > 8  # a pool is drawn from all rows


lengths_of_rows = st.lists(st.integers(1, 12), min_size=1, max_size=30)


@given(lengths=lengths_of_rows, batch_size=st.integers(1, 8), world_size=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_an_evaluation_has_the_same_batches_on_any_number_of_ranks(lengths, batch_size, world_size):
    samples = samples_of(lengths)
    plan = evaluation_plan(samples.lengths, batch_size)
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


def samples_of_texts(rows: list[list[str]], labels: np.ndarray, copies: int = 1) -> Samples:
    """Rows of several sequences, whose ids are the characters; hashes that need all of their 64 bits."""
    texts = [text for row in rows for text in row]
    lengths = [len(text) for text in texts]
    numbers = {text: number for number, text in enumerate(sorted(set(texts)))}
    return Samples(
        input_ids=np.array([ord(character) for text in texts for character in text], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        second=np.array(lengths, dtype=np.int32),
        row_starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        labels=labels,
        text_hashes=np.array([(numbers[text] * 0x9E3779B97F4A7C15 - 1) % 2**64 for text in texts], dtype=np.uint64),
        lines=np.arange(1, len(rows) + 1, dtype=np.int64),
        uncut_lengths=np.array(lengths),
        unknown=0,
        copies=copies,
    )


def texts_of(batch: Batch) -> list[str]:
    """The sequences of a batch in the order of ``places``."""
    sequences = ["".join(map(chr, ids)) for ids in batch.tokens.input_ids.split(batch.tokens.lengths)]
    return [sequences[place] for place in batch.places]


def test_rows_of_several_texts_are_taken_text_by_text():
    samples = samples_of_texts(
        [["aa", "b"], ["cccc", "aa", "eee"], ["fff", "g", "hhhhh", "aa"]], np.zeros(3, dtype=np.int64)
    )
    batch = collate(samples, np.array([0, 2, 1]))
    assert batch.tokens.lengths == [5, 4, 3, 3, 2, 2, 2, 1, 1]
    assert batch.rows.tolist() == [1, 2, 0]  # by the lengths of their first texts
    assert texts_of(batch) == ["cccc", "fff", "aa", "aa", "g", "b", "eee", "hhhhh", "aa"]
    assert batch.owners.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 1]
    assert len({int(batch.text_hashes[place]) for place in (2, 3, 8)}) == 1
    only = collate(samples, np.array([0]))  # what other rows have is no matter
    assert texts_of(only) == ["aa", "b"] and only.owners.tolist() == [0, 0]


def test_two_copies_of_every_sentence_are_two_views_of_each_row():
    batch = collate(samples_of_texts([["a"], ["ccc"], ["bb"]], np.full(3, -1), copies=2), np.array([0, 1, 2]))
    assert batch.tokens.lengths == [3, 3, 2, 2, 1, 1]
    assert texts_of(batch) == ["ccc", "bb", "a"] * 2
    assert batch.owners.tolist() == [0, 1, 2] * 2
    assert sorted(batch.places.tolist()) == [0, 1, 2, 3, 4, 5]  # no view is the other
    assert batch.text_hashes[:3].tolist() == batch.text_hashes[3:].tolist()
    assert batch.labels.tolist() == [-1, -1, -1]


words = st.text("ab", min_size=1, max_size=4)


@given(
    rows=st.lists(st.lists(words, min_size=1, max_size=4), min_size=1, max_size=12), copies=st.sampled_from([1, 2]),
    data=st.data(),
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_places_owners_and_hashes_of_ragged_rows(rows, copies, data):
    asked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=len(rows), unique=True))
    batch = collate(samples_of_texts(rows, np.arange(len(rows)), copies), np.array(asked))
    in_order = sorted(asked, key=lambda row: -len(rows[row][0]))
    assert batch.rows.tolist() == batch.labels.tolist() == in_order
    expected = [(owner, rows[row][turn]) for turn in range(4) for owner, row in enumerate(in_order) if turn < len(rows[row])]
    assert list(zip(batch.owners.tolist(), texts_of(batch), strict=True)) == expected * copies
    assert sorted(batch.places.tolist()) == list(range(batch.tokens.batch_size))
    assert batch.tokens.lengths == sorted(batch.tokens.lengths, reverse=True)
    of_text = dict(zip(texts_of(batch), batch.text_hashes.tolist(), strict=True))
    assert batch.text_hashes.tolist() == [of_text[text] for text in texts_of(batch)]
    assert len(set(of_text.values())) == len(of_text)
    for tensor in (batch.places, batch.owners, batch.text_hashes, batch.labels):
        assert tensor.dtype == torch.int64


def test_scores_come_in_single_precision_and_missing_ones_as_nan():
    scores = np.array([0.1, 2.5, np.nan, -1e-3])
    batch = collate(samples_of_texts([["a", "b"], ["aa", "b"], ["aaa", "b"], ["aaaa", "b"]], scores), np.arange(4))
    assert batch.labels.dtype == torch.float32
    torch.testing.assert_close(batch.labels, torch.tensor([-1e-3, np.nan, 2.5, 0.1]), rtol=0, atol=0, equal_nan=True)


@given(rows=st.lists(st.lists(words, min_size=1, max_size=3), min_size=1, max_size=9), batch_size=st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_an_evaluation_encodes_every_sequence_of_a_row(rows, batch_size):
    samples = samples_of_texts(rows, np.zeros(len(rows)))
    found = {}
    for tokens, sequences in evaluation_batches(samples, batch_size, CPU):
        texts = ["".join(map(chr, ids)) for ids in tokens.input_ids.split(tokens.lengths)]
        assert len(texts) <= batch_size and not found.keys() & set(sequences.tolist())
        found.update(zip(sequences.tolist(), texts, strict=True))
    assert [found[place] for place in range(len(found))] == [text for row in rows for text in row]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_arrives_on_the_gpu():
    samples = samples_of([3, 5, 2])
    batch = collate(samples, np.array([0, 1, 2]))
    moved = batch.to(torch.device("cuda"))
    assert moved.tokens.input_ids.is_cuda and moved.tokens.input_ids.tolist() == batch.tokens.input_ids.tolist()
    assert moved.labels.is_cuda and moved.labels.tolist() == batch.labels.tolist()
