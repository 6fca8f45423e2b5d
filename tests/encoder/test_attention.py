"""The attention backends agree with each other, with the formula, and with autograd; dropout is dropout."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bertorch.encoder import TokenBatch
from bertorch.encoder.attention import attention
from bertorch.encoder.grouped_attention import _MOST_WASTED, _Groups
from bertorch.encoder.relative import Relative
from tests.closeness import DOUBLE, SINGLE, assert_close

LENGTHS = [[1], [4], [1, 7, 33, 2, 33], [6, 6, 6, 2, 2, 1], [3, 1, 3]]


def packed(lengths: list[int]) -> TokenBatch:
    zeros = torch.zeros(sum(lengths), dtype=torch.long)
    return TokenBatch.from_lengths(zeros, zeros, lengths)


def draw(lengths: list[int], heads: int, head_dim: int, seed: int = 0, dtype=torch.float32) -> list[Tensor]:
    """Query, key, value and the gradient that comes back, each ``[total_tokens, heads, head_dim]``."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(sum(lengths), heads, head_dim, generator=generator, dtype=dtype) for _ in range(4)]


def by_hand(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, one sequence and one head at a time."""
    rows, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        heads = [
            torch.softmax(query[part, head] @ key[part, head].T / math.sqrt(query.shape[-1]), dim=-1) @ value[part, head]
            for head in range(query.shape[1])
        ]
        rows.append(torch.stack(heads, dim=1))
        start += length
    return torch.cat(rows)


def with_gradients(function, inputs: list[Tensor], grad_out: Tensor) -> list[Tensor]:
    """The output and the gradients of query, key and value."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad_out)]


def assert_all_close(found: list[Tensor], expected: list[Tensor], part: float = SINGLE) -> None:
    """Queries and keys of a text of one token have no gradient but rounding: all are measured by the largest."""
    largest = max(float(x.abs().max()) for x in expected)
    for name, x, y in zip(("output", "query", "key", "value"), found, expected, strict=True):
        assert_close(x, y, part, largest, name)


@pytest.mark.parametrize("backend", ["grouped", "padded"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_formula(backend, lengths):
    *inputs, grad_out = draw(lengths, 3, 5)
    found = with_gradients(lambda q, k, v: attention(q, k, v, packed(lengths), backend=backend), inputs, grad_out)
    assert_all_close(found, with_gradients(lambda q, k, v: by_hand(q, k, v, lengths), inputs, grad_out))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_backends_agree(lengths, heads, head_dim, seed):
    *inputs, grad_out = draw(lengths, heads, head_dim, seed)
    grouped, padded = (
        with_gradients(lambda q, k, v, name=name: attention(q, k, v, packed(lengths), backend=name), inputs, grad_out)
        for name in ("grouped", "padded")
    )
    assert_all_close(grouped, padded)


def test_sequences_do_not_see_each_other():
    lengths = [5, 5, 3, 5]
    query, key, value, _ = draw(lengths, 2, 4)
    before = attention(query, key, value, packed(lengths))
    changed = slice(5, 10)  # the second sequence, in one run with the first
    for x in (query, key, value):
        x[changed] += 3.0
    after = attention(query, key, value, packed(lengths))
    others = torch.ones(sum(lengths), dtype=torch.bool)
    others[changed] = False
    assert torch.equal(before[others], after[others])
    assert not torch.allclose(before[changed], after[changed])


def test_inputs_that_are_not_contiguous():
    lengths = [4, 4, 2]
    *inputs, grad_out = draw(lengths, 2, 6)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs]
    slices = [torch.stack([x, x], dim=-1)[..., 0] for x in inputs]  # every second number of its storage
    expected = with_gradients(lambda q, k, v: attention(q, k, v, packed(lengths)), inputs, grad_out)
    for variant in (strided, slices):
        assert not variant[0].is_contiguous()
        out = attention(*variant, packed(lengths))
        assert_close(out, expected[0])
    broadcast = torch.ones(()).expand_as(grad_out)  # the gradient of a sum has no storage of its own
    found = with_gradients(lambda q, k, v: attention(q, k, v, packed(lengths)), inputs, broadcast)
    assert_all_close(found, with_gradients(lambda q, k, v: by_hand(q, k, v, lengths), inputs, broadcast))


def test_large_scores_stay_finite():
    lengths = [3, 2]
    *inputs, grad_out = draw(lengths, 1, 4)
    scaled = [inputs[0] * 1e3, inputs[1] * 1e3, inputs[2]]
    for x in with_gradients(lambda q, k, v: attention(q, k, v, packed(lengths), backend="grouped"), scaled, grad_out):
        assert torch.isfinite(x).all()


def probabilities(length: int, count: int, p: float, backend: str) -> Tensor:
    """What the backend multiplies the values with, ``[count, length queries, length keys]``: the values are one-hot."""
    query, key, _, _ = draw([length] * count, 1, length)
    value = torch.eye(length).repeat(count, 1)[:, None]
    return attention(query, key, value, packed([length] * count), dropout_p=p, backend=backend).view(count, length, length)


@pytest.mark.parametrize("backend", ["grouped", "padded"])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_share_and_scale(backend, p):
    torch.manual_seed(0)
    kept = probabilities(32, 40, 0.0, backend)
    dropped = probabilities(32, 40, p, backend)
    zero = dropped == 0
    trials = zero.numel()
    assert abs(zero.float().mean().item() - p) < 5 * math.sqrt(p * (1 - p) / trials)
    torch.testing.assert_close(dropped[~zero], kept[~zero] / (1 - p))
    # Each sequence has its own draw: not one mask for all of a run.
    assert not torch.equal(zero[0], zero[1])


def test_dropout_leaves_the_mean():
    torch.manual_seed(0)
    lengths = [6, 6, 3]
    query, key, value, _ = draw(lengths, 2, 4)
    p, draws = 0.2, 400
    outs = torch.stack([attention(query, key, value, packed(lengths), dropout_p=p, backend="grouped") for _ in range(draws)])
    error = (outs.mean(dim=0) - attention(query, key, value, packed(lengths), backend="grouped")).abs()
    assert (error <= 5 * outs.std(dim=0) / math.sqrt(draws) + 1e-6).all()
    assert (outs.std(dim=0) > 0).all()


def test_dropout_gradient():
    """The masks of a draw are read from the probabilities; plain autograd with the same masks gives the same gradient."""
    p, lengths, heads, head_dim = 0.3, [5, 5, 2], 2, 4
    *inputs, grad_out = draw(lengths, heads, head_dim, dtype=torch.float64)

    def drawn(query, key, value):
        torch.manual_seed(7)
        return attention(query, key, value, packed(lengths), dropout_p=p, backend="grouped")

    # The draw depends on the number of probabilities only, so that one-hot values show the masks of the same seed.
    one_hot = torch.cat([torch.eye(length, max(lengths), dtype=torch.float64) for length in lengths])
    one_hot = one_hot[:, None].expand(-1, heads, -1)
    wide = [torch.nn.functional.pad(x, (0, max(lengths) - head_dim)) for x in inputs[:2]]
    masks = (drawn(*wide, one_hot) != 0).double() / (1 - p)  # [total_tokens, heads, keys]
    assert (masks == 0).any()

    def plain(query, key, value):
        rows, start = [], 0
        for length in lengths:
            part = slice(start, start + length)
            q, k, v = (x[part].transpose(0, 1) for x in (query, key, value))
            probs = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(head_dim), dim=-1)
            rows.append((probs * masks[part, :, :length].transpose(0, 1) @ v).transpose(0, 1))
            start += length
        return torch.cat(rows)

    assert_all_close(with_gradients(drawn, inputs, grad_out), with_gradients(plain, inputs, grad_out), DOUBLE)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_gradcheck(p):
    lengths = [3, 3, 1, 2]
    inputs = [x.requires_grad_() for x in draw(lengths, 2, 3, dtype=torch.float64)[:3]]

    def function(query, key, value):
        torch.manual_seed(0)
        return attention(query, key, value, packed(lengths), dropout_p=p, backend="grouped")

    assert torch.autograd.gradcheck(function, inputs)


@pytest.fixture
def garbage():
    """What torch takes from the heap without filling it holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("lengths", [[1], [3, 2, 2], [33, 32, 31, 7, 6, 1, 9]], ids=str)
@pytest.mark.parametrize("window", [None, 5])
def test_no_number_comes_from_memory_that_nobody_filled(garbage, lengths, window, p):
    assert torch.empty(3).isnan().all()
    *inputs, grad_out = draw(lengths, 2, 4)
    for part in (slice(None), [sum(lengths[:place]) for place in range(len(lengths))]):
        found = with_gradients(
            lambda q, k, v, part=part: attention(q[part], k, v, packed(lengths), p, "grouped", window=window),
            inputs,
            grad_out[part],
        )
        assert all(torch.isfinite(x).all() for x in found)


@pytest.mark.parametrize("backend", ["grouped", "padded"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_queries_of_first_tokens_alone(backend, lengths):
    """Output and gradients are those of all queries where only the first tokens' outputs are used."""
    *inputs, grad_out = draw(lengths, 3, 5)
    first = [sum(lengths[:place]) for place in range(len(lengths))]
    found = with_gradients(
        lambda q, k, v: attention(q[first], k, v, packed(lengths), backend=backend), inputs, grad_out[first]
    )
    assert_all_close(found, with_gradients(lambda q, k, v: by_hand(q, k, v, lengths)[first], inputs, grad_out[first]))


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), heads=st.integers(1, 16))
def test_every_token_has_its_place_in_a_group(lengths, heads):
    groups = _Groups.of(tuple(lengths), heads, torch.device("cpu"))
    rows = sum(count * width for count, width in groups.shapes)
    wasted = sum(count * width * width for count, width in groups.shapes) - heads * sum(length**2 for length in lengths)
    assert wasted <= _MOST_WASTED * len(groups.shapes)
    assert len(groups.gather) == rows
    assert torch.equal(groups.gather[groups.scatter], torch.arange(sum(lengths) * heads))
    assert sorted(groups.padding.tolist() + groups.scatter.tolist()) == list(range(rows))


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("backend", ["grouped", "padded"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_bias_by_distance(backend, lengths, first_only):
    """Softmax of the scores plus a number for each head and distance, one query at a time; its gradient too."""
    query, key, value, grad_out = draw(lengths, 3, 5)
    longest = max(lengths)
    bias = torch.randn(3, 2 * longest - 1, generator=torch.Generator().manual_seed(1))
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    places = starts if first_only else list(range(sum(lengths)))

    def by_distance(q, k, v, b):
        rows = []
        for start, length in zip(starts, lengths, strict=True):
            own = slice(start, start + length)
            for place in range(1 if first_only else length):
                scores = torch.einsum("hd,jhd->hj", q[start + place], k[own]) / math.sqrt(5)
                added = torch.stack([b[:, far + longest - 1] for far in range(-place, length - place)], dim=1)
                rows.append(torch.einsum("hj,jhd->hd", torch.softmax(scores + added, dim=-1), v[own]))
        return torch.stack(rows)

    inputs = [query, key, value, bias]
    expected = with_gradients(by_distance, inputs, grad_out[places])
    found = with_gradients(
        lambda q, k, v, b: attention(q[places], k, v, packed(lengths), backend=backend, bias=b), inputs, grad_out[places]
    )
    largest = max(float(x.abs().max()) for x in expected)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, SINGLE, largest)


def test_packed_refuses_a_bias():
    query, key, value, _ = draw([3], 2, 8)
    with pytest.raises(ValueError, match="bias"):
        attention(query, key, value, packed([3]), backend="packed", bias=torch.zeros(2, 5))


EDGES = {
    3: [[1], [4], [5], [7, 7, 8], [9, 1, 5, 4, 3]],
    64: [[63, 64, 65, 66], [128, 129, 127], [300, 65, 193, 1]],
}


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("backend", ["grouped", "padded"])
@pytest.mark.parametrize(
    ("window", "lengths"), [(window, lengths) for window in EDGES for lengths in EDGES[window]], ids=str
)
def test_a_window(backend, window, lengths, first_only):
    """Each query's softmax over its neighbours alone, one query at a time; gradients too."""
    *inputs, grad_out = draw(lengths, 2, 4)
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    places = starts if first_only else list(range(sum(lengths)))

    def by_window(q, k, v):
        rows = []
        for start, length in zip(starts, lengths, strict=True):
            for place in range(1 if first_only else length):
                near = slice(start + max(0, place - window), start + min(length, place + window + 1))
                scores = torch.einsum("hd,jhd->hj", q[start + place], k[near]) / 2
                rows.append(torch.einsum("hj,jhd->hd", torch.softmax(scores, dim=-1), v[near]))
        return torch.stack(rows)

    expected = with_gradients(by_window, inputs, grad_out[places])
    found = with_gradients(
        lambda q, k, v: attention(q[places], k, v, packed(lengths), backend=backend, window=window), inputs, grad_out[places]
    )
    assert_all_close(found, expected)


@pytest.mark.parametrize("first_only", [False, True])
def test_a_window_and_a_bias(first_only):
    """The grouped backend beside the padded one, whose bias and window the tests above compare with the formula."""
    lengths = [150, 149, 20]
    query, key, value, grad_out = draw(lengths, 2, 4)
    bias = torch.randn(2, 299, generator=torch.Generator().manual_seed(1))
    places = [0, 150, 299] if first_only else list(range(319))
    found, expected = (
        with_gradients(
            lambda q, k, v, b, name=name: attention(q[places], k, v, packed(lengths), 0.0, name, b, 8),
            [query, key, value, bias],
            grad_out[places],
        )
        for name in ("grouped", "padded")
    )
    largest = max(float(x.abs().max()) for x in expected)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, SINGLE, largest)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_gradcheck_of_a_window(p):
    lengths = [70, 69, 2]  # more than one block
    inputs = [x.requires_grad_() for x in draw(lengths, 1, 2, dtype=torch.float64)[:3]]

    def function(query, key, value):
        torch.manual_seed(0)
        return attention(query, key, value, packed(lengths), dropout_p=p, backend="grouped", window=2)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


def test_a_window_costs_its_band(monkeypatch):
    """Scores of a long text with a window are few: at most three for each that a query needs."""
    made = []
    new_empty = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", lambda self, *size, **kind: made.append(size) or new_empty(self, *size, **kind))
    length, window = 4000, 64
    query, key, value, _ = draw([length], 1, 4)
    attention(query, key, value, packed([length]), backend="grouped", window=window)
    ((scores,),) = made
    assert length * (2 * window + 1) / 2 < scores <= 3 * length * (2 * window + 1)


def test_packed_refuses_a_window_for_first_tokens():
    query, key, value, _ = draw([9], 2, 8)
    with pytest.raises(ValueError, match="window"):
        attention(query[:1], key, value, packed([9]), backend="packed", window=3)


def one_query_at_a_time(
    lengths: list[int], first_only: bool, q, k, v, of_keys=None, of_queries=None, of_values=None, window=99
) -> Tensor:
    """Shaw et al. 2018, eq. 3 and 4, and He et al. 2021, eq. 4: each table's row by the distance of key and query."""
    longest, rows, start = max(lengths), [], 0

    def row(table, far):
        return 0.0 if table is None else table.expand(q.shape[1], -1, -1)[:, far + longest - 1]

    for length in lengths:
        for place in range(1 if first_only else length):
            query, scores, values = q[start + place], [], []
            for other in range(max(0, place - window), min(length, place + window + 1)):
                key, far = k[start + other], other - place
                scores.append(
                    (query * (key + row(of_keys, far)) + key * row(of_queries, far)).sum(-1) / math.sqrt(q.shape[2])
                )
                values.append(v[start + other] + row(of_values, far))
            probs = torch.softmax(torch.stack(scores), dim=0)
            rows.append((probs[..., None] * torch.stack(values)).sum(0))
        start += length
    return torch.stack(rows)


TABLES = {"keys": 3, "queries": 3, "values": 3}, {"keys": 1, "values": 1}, {"queries": 3}


@pytest.mark.parametrize(
    ("lengths", "window"),
    [([1], 99), ([4], 99), ([1, 7, 13, 2, 13], 99), ([6, 6, 5, 2, 1], 99), ([1, 90, 40, 3], 7)],
    ids=str,
)
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("backend", ["grouped", "padded"])
@pytest.mark.parametrize("heads", TABLES, ids=str)
def test_tables_by_distance(backend, lengths, window, heads, first_only):
    """Output and the gradients of query, key, value and tables, with as many heads as the model or one for all."""
    query, key, value, grad_out = draw(lengths, 3, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    tables = [torch.randn(n, 2 * max(lengths) - 1, 4, generator=generator, dtype=torch.float64) for n in heads.values()]
    places = [sum(lengths[:number]) for number in range(len(lengths))] if first_only else list(range(sum(lengths)))

    def computed(q, k, v, *given):
        relative = Relative(**dict(zip(heads, given, strict=True)))
        within = window if window < max(lengths) else None
        return attention(q[places], k, v, packed(lengths), backend=backend, window=within, relative=relative)

    def expected(q, k, v, *given):
        named = {f"of_{name}": x for name, x in zip(heads, given, strict=True)}
        return one_query_at_a_time(lengths, first_only, q, k, v, **named, window=window)

    inputs = [query, key, value, *tables]
    wanted = with_gradients(expected, inputs, grad_out[places])
    for one, other in zip(with_gradients(computed, inputs, grad_out[places]), wanted, strict=True):
        assert_close(one, other, DOUBLE, max(float(x.abs().max()) for x in wanted))


def test_dropout_with_tables_by_distance():
    """What is dropped takes no part in the table of the values either: its gradients are those of a difference quotient."""
    lengths, generator = [3, 3, 1, 2], torch.Generator().manual_seed(1)
    tables = [torch.randn(n, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True) for n in (2, 2, 1)]
    inputs = [x.requires_grad_() for x in draw(lengths, 2, 3, dtype=torch.float64)[:3]]

    def function(query, key, value, *given):
        torch.manual_seed(0)
        return attention(query, key, value, packed(lengths), 0.4, "grouped", relative=Relative(*given))

    assert torch.autograd.gradcheck(function, (*inputs, *tables))


def test_packed_refuses_tables_by_distance():
    query, key, value, _ = draw([3], 2, 8)
    with pytest.raises(ValueError, match="bias"):
        attention(query, key, value, packed([3]), backend="packed", relative=Relative(keys=torch.zeros(1, 5, 8)))
