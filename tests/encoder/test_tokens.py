"""Packed and padded are two forms of one batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertorch.encoder import TokenBatch, from_padded, to_padded
from bertorch.encoder.tokens import sequence_ids

texts = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=9), min_size=1, max_size=7)


def pack(rows: list[list[int]]) -> TokenBatch:
    ids = torch.tensor([token for row in rows for token in row])
    return TokenBatch.from_lengths(ids, ids % 2, [len(row) for row in rows])


@settings(max_examples=50, deadline=None)
@given(rows=texts)
def test_pack(rows):
    batch = pack(rows)
    assert (batch.batch_size, batch.total_tokens) == (len(rows), sum(map(len, rows)))
    assert batch.max_seqlen == max(map(len, rows))
    assert batch.position_ids.tolist() == [place for row in rows for place in range(len(row))]
    assert sequence_ids(batch).tolist() == [index for index, row in enumerate(rows) for _ in row]
    ends = batch.cu_seqlens.tolist()
    assert [batch.input_ids[a:b].tolist() for a, b in zip(ends, ends[1:], strict=False)] == rows
    assert batch.cu_seqlens.dtype == torch.int32 and batch.position_ids.dtype == torch.int64


@settings(max_examples=50, deadline=None)
@given(rows=texts)
def test_to_padded(rows):
    padded, mask = to_padded(pack(rows).input_ids, pack(rows), fill=-1)
    width = max(map(len, rows))
    assert padded.tolist() == [row + [-1] * (width - len(row)) for row in rows]
    assert mask.tolist() == [[place < len(row) for place in range(width)] for row in rows]


@settings(max_examples=50, deadline=None)
@given(rows=texts, left=st.booleans(), extra=st.integers(0, 3))
def test_round_trip(rows, left, extra):
    """Padding on either side, and more of it than the longest text asks for, is dropped."""
    width = max(map(len, rows)) + extra
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    batch = from_padded(ids, mask, ids % 2)
    expected = pack(rows)
    assert batch.lengths == expected.lengths and batch.max_seqlen == expected.max_seqlen
    for name in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    assert torch.equal(to_padded(batch.input_ids, batch)[0], to_padded(expected.input_ids, expected)[0])


def test_token_types_default_to_the_first_segment():
    ids = torch.tensor([[3, 4], [5, 0]])
    batch = from_padded(ids, torch.tensor([[1, 1], [1, 0]]))
    assert batch.token_type_ids.tolist() == [0, 0, 0]


def test_to_padded_keeps_trailing_dimensions_and_gradients():
    batch = pack([[1, 2], [3]])
    values = torch.arange(12.0).view(3, 2, 2).requires_grad_()
    padded, mask = to_padded(values, batch, fill=7.0)
    assert padded.shape == (2, 2, 2, 2)
    assert torch.equal(padded[mask], values)
    assert (padded[~mask] == 7.0).all()
    (padded * 2).sum().backward()
    assert torch.equal(values.grad, torch.full_like(values, 2.0))


def test_interior_padding_counts_as_no_token():
    """A mask with a hole, as sentence pairs padded one by one give it: positions run over the real tokens."""
    batch = from_padded(torch.tensor([[8, 0, 9]]), torch.tensor([[1, 0, 1]]))
    assert (batch.input_ids.tolist(), batch.position_ids.tolist(), batch.lengths) == ([8, 9], [0, 1], [2])


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_mask_of_any_type(dtype):
    batch = from_padded(torch.tensor([[8, 9, 0]]), torch.tensor([[1, 1, 0]], dtype=dtype))
    assert batch.lengths == [2]
