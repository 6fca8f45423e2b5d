"""The CRF against all tag sequences listed one by one, against a recursion in logs, and against pytorch-crf."""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bertorch.tasks.entities import crf as crf_module
from bertorch.tasks.entities.crf import CRF, Steps


def new_crf(tags: int, generator: torch.Generator, scale: float = 1.0, allowed=None, dtype=torch.float64) -> CRF:
    """With parameters drawn at random."""
    model = CRF(tags, allowed).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return model


def draw_allowed(tags: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Constraints at random; a text of zeros alone is always allowed."""
    matrix, start, end = (torch.rand(shape, generator=generator) < 0.6 for shape in [(tags, tags), (tags,), (tags,)])
    matrix[0, 0] = start[0] = end[0] = True
    return matrix, start, end


def all_paths(length: int, tags: int, allowed: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
    """Every tag sequence that is allowed, ``[paths, length]``."""
    paths = list(product(range(tags), repeat=length))
    if allowed is not None:
        matrix, start, end = (mask.tolist() for mask in allowed)
        paths = [
            path
            for path in paths
            if start[path[0]] and end[path[-1]] and all(matrix[a][b] for a, b in zip(path, path[1:], strict=False))
        ]
    return torch.tensor(paths)


def path_scores(model: CRF, emissions: Tensor, paths: Tensor) -> Tensor:
    """Of one text: ``[paths]``, from the docstring of the class, emissions ``[length, tags]``."""
    score = model.start_transitions[paths[:, 0]] + model.end_transitions[paths[:, -1]]
    for place in range(paths.shape[1]):
        score = score + emissions[place, paths[:, place]]
        if place:
            score = score + model.transitions[paths[:, place - 1], paths[:, place]]
    return score


@dataclass
class Case:
    """Texts with the scores of a model, all their tag sequences, and one of these drawn for each text."""

    model: CRF
    emissions: Tensor
    lengths: list[int]
    paths: list[Tensor]
    drawn: list[int]

    @property
    def tags(self) -> Tensor:
        return torch.cat([paths[row] for paths, row in zip(self.paths, self.drawn, strict=True)])

    def brute_force(self, emissions: Tensor) -> list[Tensor]:
        """Log-probabilities of all sequences of each text."""
        texts = zip(emissions.split(self.lengths), self.paths, strict=True)
        return [path_scores(self.model, text, paths).log_softmax(0) for text, paths in texts]


@st.composite
def cases(draw, most_texts: int = 5) -> Case:
    tags = draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=most_texts))
    scale = draw(st.sampled_from([1.0, 30.0, 300.0, 3000.0]))
    constrained = draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    allowed = draw_allowed(tags, generator) if constrained else None
    model = new_crf(tags, generator, scale, allowed)
    emissions = scale * torch.randn(sum(lengths), tags, dtype=torch.float64, generator=generator)
    paths = [all_paths(length, tags, allowed) for length in lengths]
    drawn = [torch.randint(len(one), (), generator=generator).item() for one in paths]
    return Case(model, emissions, lengths, paths, drawn)


def gradients(value: Tensor, model: CRF, emissions: Tensor) -> list[Tensor]:
    """With respect to emissions, transitions, start and end."""
    wanted = [emissions, model.transitions, model.start_transitions, model.end_transitions]
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(wanted, found, strict=True)]


def close(found, expected, rtol: float = 1e-10, atol: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(0, 2**32))
def test_log_likelihood_and_gradients_by_brute_force(case, seed):
    emissions = case.emissions.requires_grad_()
    weights = torch.randn(len(case.lengths), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = case.model.log_likelihood(emissions, case.tags, case.lengths)
    expected = torch.stack([logs[row] for logs, row in zip(case.brute_force(emissions), case.drawn, strict=True)])
    assert found.dtype == torch.float64
    close(found, expected)
    close(gradients(found @ weights, case.model, emissions), gradients(expected @ weights, case.model, emissions))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_decode_by_brute_force(case):
    before = case.emissions.clone()
    found = case.model.decode(case.emissions, case.lengths)
    best = [paths[logs.argmax()] for paths, logs in zip(case.paths, case.brute_force(case.emissions), strict=True)]
    assert found.dtype == torch.int64
    assert found.tolist() == torch.cat(best).tolist()
    assert torch.equal(case.emissions, before)


@settings(max_examples=200, deadline=None)
@given(cases(most_texts=1), st.sampled_from([1, 2, 3, 7, 30, 4000]))
def test_n_best_by_brute_force(case, n):
    """4,000 is more than any text here has: all allowed sequences come, and no other."""
    paths, logs = case.model.n_best(case.emissions, n)
    (expected,) = case.brute_force(case.emissions)
    scores, order = expected.sort(descending=True)
    assert paths.dtype == torch.int64 and logs.dtype == torch.float64
    assert paths.tolist() == case.paths[0][order[:n]].tolist()
    close(logs, scores[:n])
    if n >= len(order):
        assert logs.exp().sum().item() == pytest.approx(1, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1.0, 2000.0]), st.integers(0, 2**32))
def test_what_is_forbidden_has_probability_zero(tags, length, scale, seed):
    """Every sequence that could be written, each as a text of its own with the same emissions."""
    generator = torch.Generator().manual_seed(seed)
    allowed = draw_allowed(tags, generator)
    model = new_crf(tags, generator, scale, allowed)
    paths = all_paths(length, tags, None)
    emissions = scale * torch.randn(length, tags, dtype=torch.float64, generator=generator)
    logs = model.log_likelihood(emissions.repeat(len(paths), 1), paths.flatten(), [length] * len(paths))
    good = {tuple(path) for path in all_paths(length, tags, allowed).tolist()}
    is_good = torch.tensor([tuple(path) in good for path in paths.tolist()])
    assert logs[is_good].exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert logs[is_good].isfinite().all()
    assert (logs[~is_good] == -torch.inf).all()


def test_by_hand():
    """Two places, two tags, 1 after 0 forbidden: 00 scores 2 * 3, 10 scores 5 * 7 * 3, 11 scores 5 * 11 (as products)."""
    model = CRF(2, (torch.tensor([[True, False], [True, True]]), torch.tensor([True, True]), torch.tensor([True, True])))
    with torch.no_grad():
        model.transitions.copy_(torch.tensor([[1.0, 1000.0], [7.0, 11.0]]).log())
        model.start_transitions.copy_(torch.tensor([2.0, 1.0]).log())
        model.end_transitions.copy_(torch.tensor([3.0, 1.0]).log())
    emissions = torch.tensor([[1.0, 5.0], [1.0, 1.0]]).log()
    tags = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = model.log_likelihood(emissions.repeat(4, 1), tags.flatten(), [2] * 4).exp()
    close(found, torch.tensor([6.0, 0.0, 105.0, 55.0], dtype=torch.float64) / 166, rtol=1e-6, atol=0)
    assert model.decode(emissions, [2]).tolist() == [1, 0]
    paths, logs = model.n_best(emissions, 9)
    assert paths.tolist() == [[1, 0], [1, 1], [0, 0]]
    close(logs.exp(), torch.tensor([105.0, 55.0, 6.0], dtype=torch.float64) / 166, rtol=1e-6, atol=0)


# Two tags: which transition and which first tag is allowed, the score of changing the tag, emissions, the tags given.
FAR_APART = {
    "a step's sum is nearly zero": ([[1, 0], [1, 1]], [1, 0], 0, [[0, 0], [0, 720]], [0, 0]),
    "a step's sum is subnormal": ([[1, 0], [1, 1]], [1, 0], 0, [[0, 0], [0, 743]], [0, 0]),
    "a step's sum is zero": ([[1, 0], [1, 1]], [1, 0], 0, [[0, 0], [0, 3000]], [0, 0]),
    "the best path seems lost after a step": ([[1, 0], [0, 1]], [1, 1], 0, [[0, 800], [700, 0], [700, 0]], [0, 0, 0]),
    "the same, all allowed": ([[1, 1], [1, 1]], [1, 1], -800, [[0, 790], [700, 0], [700, 0]], [0, 0, 0]),
    "a tag no path reaches": ([[1, 0], [1, 0]], [1, 0], 0, [[0, 0], [0, 3000], [0, 3000]], [0, 0, 0]),
}


@pytest.mark.parametrize("case", FAR_APART)
def test_scores_whose_exponentials_vanish(case):
    """Where a float64 cannot hold the exponential of a difference, below -708 to -745."""
    matrix, start, change, scores, tags = FAR_APART[case]
    allowed = (torch.tensor(matrix).bool(), torch.tensor(start).bool(), torch.tensor([True, True]))
    model = CRF(2, allowed).double()
    with torch.no_grad():
        model.transitions.copy_(change * (1 - torch.eye(2)))
    emissions = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
    paths = all_paths(len(scores), 2, allowed)
    logs = path_scores(model, emissions, paths).log_softmax(0)
    expected = logs[(paths == torch.tensor(tags)).all(1)]
    found = model.log_likelihood(emissions, torch.tensor(tags), [len(scores)])
    close(found, expected)
    close(model.n_best(emissions.detach(), 8)[1], logs.detach().sort(descending=True)[0])
    close(gradients(found.sum(), model, emissions), gradients(expected.sum(), model, emissions))


@pytest.mark.parametrize("constrained", [False, True])
def test_gradcheck(constrained):
    generator = torch.Generator().manual_seed(3)
    allowed = draw_allowed(3, generator) if constrained else None
    model = new_crf(3, generator, allowed=allowed)
    lengths = [2, 4, 1]
    tags = torch.zeros(7, dtype=torch.int64)
    emissions = torch.randn(7, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda scores: model.log_likelihood(scores, tags, lengths), [emissions])


@settings(max_examples=60, deadline=None)
@given(cases(), st.data())
def test_the_order_of_texts_does_not_matter(case, data):
    order = data.draw(st.permutations(range(len(case.lengths))))
    places = torch.cat([torch.arange(sum(case.lengths)).split(case.lengths)[text] for text in order])
    lengths = [case.lengths[text] for text in order]
    emissions, moved = case.emissions.requires_grad_(), case.emissions.detach()[places].requires_grad_()
    weights = torch.arange(1.0, 1 + len(order), dtype=torch.float64)
    first = case.model.log_likelihood(emissions, case.tags, case.lengths)
    second = case.model.log_likelihood(moved, case.tags[places], lengths)
    close(second, first[order])
    expected = gradients(first @ weights, case.model, emissions)
    expected[0] = expected[0][places]
    close(gradients(second @ weights[order], case.model, moved), expected)
    found = case.model.decode(moved, lengths)
    assert found.tolist() == case.model.decode(emissions, case.lengths)[places].tolist()


def ragged(lengths: list[int], packed: Tensor) -> Tensor:
    """``[texts, longest, ...]``, zero where a text has no place."""
    return torch.nn.utils.rnn.pad_sequence(list(packed.split(lengths)), batch_first=True)


def their_crf(model: CRF):
    """pytorch-crf's model with the same parameters."""
    torchcrf = pytest.importorskip("torchcrf")
    theirs = torchcrf.CRF(model.transitions.shape[0], batch_first=True).to(model.transitions.dtype)
    theirs.load_state_dict(model.state_dict())
    return theirs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)], ids=str)
@pytest.mark.parametrize("lengths", [[9], [6, 6, 6], [1, 17, 4, 30, 4, 2]], ids=str)
def test_pytorch_crf_agrees(lengths, dtype, tolerance):
    generator = torch.Generator().manual_seed(sum(lengths))
    model = new_crf(7, generator, dtype=dtype)
    theirs = their_crf(model)
    emissions = torch.randn(sum(lengths), 7, dtype=dtype, generator=generator, requires_grad=True)
    tags = torch.randint(7, (sum(lengths),), generator=generator)
    weights = torch.randn(len(lengths), dtype=torch.float64, generator=generator)
    mask = ragged(lengths, torch.ones(sum(lengths), dtype=torch.bool))
    found = model.log_likelihood(emissions, tags, lengths)
    expected = theirs(ragged(lengths, emissions), ragged(lengths, tags), mask, reduction="none").double()
    close(found, expected, rtol=tolerance, atol=tolerance)
    ours = gradients(found @ weights, model, emissions)
    close(ours, gradients(expected @ weights, theirs, emissions), rtol=tolerance, atol=tolerance)
    decoded = [text.tolist() for text in model.decode(emissions, lengths).split(lengths)]
    assert decoded == theirs.decode(ragged(lengths, emissions), mask)


def recursion(model: CRF, emissions: Tensor) -> float:
    """The log-partition of one text, in logs."""
    start, transitions, end, scores = (
        one.detach().double().numpy()
        for one in (model.start_transitions, model.transitions, model.end_transitions, emissions)
    )
    alpha = start + scores[0]
    for row in scores[1:]:
        alpha = np.logaddexp.reduce(alpha[:, None] + transitions, axis=0) + row
    return np.logaddexp.reduce(alpha + end).item()


@pytest.fixture
def only_rescaled(monkeypatch):
    """The slower recursion in logs must not be needed."""

    def fail(*arguments):
        raise AssertionError("ordinary scores went the way of those far apart")

    monkeypatch.setattr(crf_module, "_log_partition_in_logs", fail)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_long_text(scale, only_rescaled):
    """Neither over- nor underflow, beside a short text, and the gradient of pytorch-crf."""
    generator = torch.Generator().manual_seed(8)
    model = new_crf(6, generator, scale)
    emissions = scale * torch.randn(2003, 6, dtype=torch.float64, generator=generator)
    tags = torch.randint(6, (2003,), generator=generator)
    lengths = [3, 2000]
    emissions.requires_grad_()
    found = model.log_likelihood(emissions, tags, lengths)
    for row, text, path in zip(found, emissions.split(lengths), tags.split(lengths), strict=True):
        given_score = path_scores(model, text, path.unsqueeze(0)).item()
        assert math.isfinite(row.item())
        assert given_score - row.item() == pytest.approx(recursion(model, text), rel=1e-10)
    theirs = their_crf(model)
    mask = ragged(lengths, torch.ones(2003, dtype=torch.bool))
    expected = theirs(ragged(lengths, emissions), ragged(lengths, tags), mask, reduction="none")
    close(found, expected)
    close(gradients(found.sum(), model, emissions), gradients(expected.sum(), theirs, emissions), atol=1e-8)


@pytest.mark.parametrize("lengths", [[1], [2, 1], [5, 9, 5, 1], [3, 40, 17, 8]], ids=str)
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_by_halves(scale, constrained, lengths):
    """What a GPU computes is what the recursion in logs computes, with the gradients."""
    generator = torch.Generator().manual_seed(3)
    model = new_crf(5, generator, scale, draw_allowed(5, generator) if constrained else None)
    emissions = (scale * torch.randn(sum(lengths), 5, dtype=torch.float64, generator=generator)).requires_grad_()
    steps = Steps.of(lengths, torch.device("cpu"))
    weights = torch.randn(len(lengths), dtype=torch.float64, generator=generator)

    def results(recursion) -> list[Tensor]:
        value = recursion(emissions.index_select(0, steps.places), *model.scores(), steps)
        return [value, *gradients(value @ weights, model, emissions)]

    close(results(crf_module._log_partition_by_halves), results(crf_module._log_partition_in_logs), rtol=1e-9, atol=1e-9)


def test_by_halves_of_any_scores():
    """Scores too far apart for doubles, and a text that the constraints forbid, give finite numbers."""
    allowed = (torch.tensor([[True, False], [False, False]]), torch.tensor([True, False]), torch.tensor([False, True]))
    for model in (CRF(2).double(), CRF(2, allowed).double()):
        emissions = torch.tensor([[1e4, 0.0], [0.0, -1e5], [3.0, 1e6]], dtype=torch.float64, requires_grad=True)
        steps = Steps.of([3], torch.device("cpu"))
        value = crf_module._log_partition_by_halves(emissions, *model.scores(), steps)
        assert all(one.isfinite().all() for one in [value, *gradients(value.sum(), model, emissions)])


def test_autocast_changes_nothing():
    generator = torch.Generator().manual_seed(5)
    model = new_crf(5, generator, dtype=torch.float32)
    lengths = [4, 11, 1]
    emissions = (3 * torch.randn(16, 5, generator=generator)).requires_grad_()
    tags = torch.randint(5, (16,), generator=generator)

    def results() -> list[Tensor]:
        value = model.log_likelihood(emissions, tags, lengths)
        best = model.n_best(emissions[:4], 6)
        return [value, *gradients(value.sum(), model, emissions), model.decode(emissions, lengths), *best]

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        assert (emissions @ model.transitions).dtype == torch.bfloat16
        found = results()
    assert found[0].dtype == torch.float64
    close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("lengths", [[], [0], [2, 0, 1]], ids=str)
def test_empty_text_is_refused(lengths):
    model = CRF(2)
    emissions = torch.zeros(sum(lengths), 2)
    with pytest.raises(ValueError, match="every text a place at least"):
        model.log_likelihood(emissions, torch.zeros(sum(lengths), dtype=torch.int64), lengths)
    with pytest.raises(ValueError, match="every text a place at least"):
        model.decode(emissions, lengths)


@pytest.mark.parametrize("constrained", [False, True])
def test_state_dict(constrained):
    """Constraints are the caller's: they are not stored, and a model with them reads the weights of one without."""
    generator = torch.Generator().manual_seed(1)
    model = CRF(4, draw_allowed(4, generator) if constrained else None)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {"transitions": (4, 4), "start_transitions": (4,), "end_transitions": (4,)}
    assert not any(parameter.any() for parameter in model.parameters())
    CRF(4, draw_allowed(4, generator)).load_state_dict(model.state_dict())
