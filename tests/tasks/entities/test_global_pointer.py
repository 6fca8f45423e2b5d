"""The Efficient GlobalPointer against its formulas written out, and the reading of long texts."""

import cmath
import math

import numpy as np
import pytest
import torch

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.tasks.entities.answers import load_entity_head, load_trained_entity_head, read_entities
from bertorch.tasks.entities.batching import collate_spans
from bertorch.tasks.entities.description import Description
from bertorch.tasks.entities.global_pointer import GlobalPointer
from bertorch.tasks.entities.rows import Document
from bertorch.tasks.entities.windows import UnitTokenizer, tag_documents
from bertorch.training.checkpoints import save_model
from bertorch.training.inference import Compute
from bertorch.training.process_group import Processes
from tests.closeness import assert_close

TYPES = ["PER", "LOC", "ORG"]
ALONE = Processes(0, 0, 1, torch.device("cpu"))
SIGNS = "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着"


def described(**changes) -> Description:
    values = {"ner_head": "global_pointer", "types": TYPES, "labels": TYPES, "tag": "bios", "crf_constraints": True}
    return Description(**{**values, "unit": "character", "doc_stride": None, "max_seq_length": 64, **changes})


@pytest.fixture
def model(tiny_model) -> GlobalPointer:
    """With weights wide enough that scores differ, biases too."""
    model = load_entity_head(tiny_model("bert"), described()).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in (model.query_key, model.type_scores):
            for parameter in layer.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def samples_of(directory, texts, max_seq_length: int = 64, doc_stride: int | None = None):
    encoder = UnitTokenizer(TextTokenizer(load_tokenizer(directory), max_seq_length), "character", doc_stride)
    documents = [Document(line, text, entities=entities) for line, (text, entities) in enumerate(texts, 1)]
    return tag_documents(documents, encoder, TYPES)


def windows_of(lengths: list[int]) -> tuple[TokenBatch, torch.Tensor, list[int]]:
    """Windows of random tokens; each but the first and last of a window is a unit. Lengths are those of the units."""
    generator = torch.Generator().manual_seed(sum(lengths))
    sizes = [length + 2 for length in lengths]
    ids = torch.randint(5, 100, (sum(sizes),), generator=generator)
    starts = np.cumsum([0, *sizes[:-1]])
    places = torch.cat([torch.arange(start + 1, start + 1 + length) for start, length in zip(starts, lengths, strict=True)])
    return TokenBatch.from_lengths(ids, torch.zeros_like(ids), sizes), places, lengths


def rotated(vector: list[float], position: int) -> list[float]:
    """RoPE: neighbouring values are a complex number, turned by position * 10000^(-2i/d) (Su et al. 2021, eq. 15)."""
    turned = []
    for place in range(0, len(vector), 2):
        angle = position * 10000 ** (-place / len(vector))
        value = complex(vector[place], vector[place + 1]) * cmath.exp(1j * angle)
        turned += [value.real, value.imag]
    return turned


def scores_by_hand(model: GlobalPointer, states: torch.Tensor) -> list[list[list[float]]]:
    """``[types][first][last]`` of one window: q_m . k_n / 8, and half of what each type has for the first and the last."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items() if not name.startswith("encoder")}
    inner, query, key, marks = len(weights["query_key.bias"]) // 2, [], [], []
    assert inner == 64
    for position, state in enumerate(states.double().numpy()):
        both = weights["query_key.weight"] @ state + weights["query_key.bias"]
        query.append(rotated(both[:inner].tolist(), position))
        key.append(rotated(both[inner:].tolist(), position))
        marks.append(weights["type_scores.weight"] @ both + weights["type_scores.bias"])
    result = []
    for kind in range(len(TYPES)):
        table = [[-math.inf] * len(states) for _ in states]
        for first in range(len(states)):
            for last in range(first, len(states)):
                product = sum(q * k for q, k in zip(query[first], key[last], strict=True)) / math.sqrt(inner)
                table[first][last] = product + marks[first][kind] / 2 + marks[last][len(TYPES) + kind] / 2
        result.append(table)
    return result


@torch.no_grad()
def test_scores_by_hand(model):
    tokens, places, lengths = windows_of([5, 9, 1])
    found = model.scores(tokens, places, lengths)
    assert found.shape == (3, len(TYPES), 9, 9)
    states = model.encoder(tokens)[places].split(lengths)
    for window, (length, own) in enumerate(zip(lengths, states, strict=True)):
        expected = torch.tensor(scores_by_hand(model, own))
        assert_close(found[window, :, :length, :length], expected)
        outside = found[window].clone()
        outside[:, :length, :length] = -torch.inf
        assert (outside == -torch.inf).all()
    assert found[1][found[1].isfinite()].std() > 0.1


@torch.no_grad()
def test_scores_know_distances_and_not_places(model):
    """Turned by the same angle, query and key have the product they had: the same states give the same scores anywhere."""
    state = model.encoder(windows_of([1])[0])[1:2]
    model.encoder.forward = lambda tokens: state.expand(len(tokens.input_ids), -1)
    scores = model.scores(*windows_of([40]))[0, 0]
    for distance in (0, 1, 7):
        line = scores.diagonal(distance)
        assert_close(line, line[:1].expand_as(line), of=scores.diagonal(0)[0].abs())
    assert (scores.diagonal(0)[0] - scores.diagonal(1)[0]).abs() > 1e-3


@torch.no_grad()
def test_windows_do_not_influence_each_other(model):
    tokens, places, lengths = windows_of([5, 12, 1, 7])
    together = model.scores(tokens, places, lengths)
    starts = np.cumsum([0, *tokens.lengths])
    for window, (length, start, end) in enumerate(zip(lengths, starts, starts[1:], strict=False)):
        ids = tokens.input_ids[start:end]
        alone = model.scores(
            TokenBatch.from_lengths(ids, torch.zeros_like(ids), [len(ids)]), torch.arange(1, 1 + length), [length]
        )
        assert_close(together[window, :, :length, :length], alone[0])
    some = TokenBatch.from_lengths(tokens.input_ids, tokens.token_type_ids, tokens.lengths)
    spans = torch.tensor([[0, 1, 0, 2], [1, 0, 3, 11], [3, 2, 6, 6]])
    parts = []
    for window in range(4):
        length = lengths[window]
        own = spans[spans[:, 0] == window] * torch.tensor([0, 1, 1, 1])
        parts.append(model.loss(together[window : window + 1, :, :length, :length], own))
    whole = model.loss(model.scores(some, places, lengths), spans)
    assert_close(whole.total, sum(part.total for part in parts))
    assert whole.count == sum(part.count for part in parts) == 4 * len(TYPES)


def loss_by_hand(scores: torch.Tensor, spans: list[tuple[int, int, int, int]]) -> float:
    """Su et al. 2022, eq. 7: for each window and type log(1 + sum e^s of the others) + log(1 + sum e^-s of entities)."""
    total = 0.0
    for window, of_window in enumerate(scores.tolist()):
        for kind, table in enumerate(of_window):
            others, entities = 1.0, 1.0
            for first, line in enumerate(table):
                for last, score in enumerate(line):
                    if (window, kind, first, last) in spans:
                        entities += math.exp(-score)
                    elif score > -math.inf:
                        others += math.exp(score)
            total += math.log(others) + math.log(entities)
    return total


NESTED = [
    ("的一是不了在人有", [("PER", 0, 6), ("LOC", 1, 3), ("ORG", 1, 3), ("PER", 4, 6)]),
    ("我他这", [("ORG", 0, 3), ("LOC", 2, 3), ("PER", 2, 3)]),
    ("中大来上", []),
]


def test_loss_by_hand(model, tiny_model):
    """Entities within each other, and two types for one span."""
    samples = samples_of(tiny_model("bert"), NESTED)
    batch = collate_spans(samples, np.arange(3))
    loss = model(batch)
    with torch.no_grad():
        scores = model.scores(batch.tokens, batch.places, batch.lengths)
    rows = {len(text): entities for text, entities in NESTED}  # all lengths differ
    spans = [
        (window, TYPES.index(kind), start, end - 1)
        for window, length in enumerate(batch.lengths)
        for kind, start, end in rows[length]
    ]
    assert loss.count == 9
    assert loss.total.item() == pytest.approx(loss_by_hand(scores.double(), spans), rel=1e-5)
    assert loss.mean.item() == pytest.approx(loss.total.item() / 9)


def test_a_right_answer_costs_little_and_a_wrong_one_much(model):
    scores = torch.full((1, 3, 4, 4), -20.0).masked_fill(torch.ones(4, 4).tril(-1).bool(), -torch.inf)
    spans = torch.tensor([[0, 0, 0, 2], [0, 0, 1, 1], [0, 1, 1, 1]])
    right = scores.clone()
    right[tuple(spans.t())] = 20.0
    assert model.loss(right, spans).total.item() == pytest.approx(0, abs=1e-6)
    assert model.loss(scores, spans).total.item() == pytest.approx(20 + math.log(2) + 20, rel=1e-5)
    assert model.loss(right, spans[:0]).total.item() == pytest.approx(20 + math.log(2) + 20, rel=1e-5)


def test_nothing_is_infinite_and_every_weight_has_a_gradient(family, tiny_model):
    directory = tiny_model(family)
    model = load_entity_head(directory, described())
    loss = model(collate_spans(samples_of(directory, NESTED), np.arange(3)))
    loss.mean.backward()
    assert loss.total.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_loss_adds_up_over_batches(model, tiny_model):
    samples = samples_of(tiny_model("bert"), [*NESTED, (SIGNS[:40], [("PER", 3, 7), ("LOC", 20, 22)])], 16, 6)
    whole = model(collate_spans(samples, np.arange(4)))
    parts = [model(collate_spans(samples, np.array(rows))) for rows in ([2], [3, 0], [1])]
    assert sum(part.count for part in parts) == whole.count
    assert_close(sum(part.total for part in parts), whole.total)


def test_nested_entities_are_learned_and_read(model, tiny_model):
    """Until the loss is near 0; then every span is found, two types of one place too."""
    samples = samples_of(tiny_model("bert"), NESTED)
    batch = collate_spans(samples, np.arange(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(batch).mean
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    reading = read_entities(model, samples, Compute(2, ALONE), with_confidence=True)
    assert [set(spans) for spans in reading.spans] == [set(entities) for _, entities in NESTED]
    assert all(len(set(spans)) == len(spans) for spans in reading.spans)
    assert all(0.5 < one <= 1 for confidences in reading.confidences for one in confidences)


# Long texts

WHOLE = 38  # units; windows of 14 that share 6 begin at 0, 8, 16 and 24


def in_windows(monkeypatch, model, score) -> None:
    """Let ``score(first unit of the window, type, first, last)`` (units of the text) be the scores of ``model``."""
    numbers = {}

    def scores(tokens, places, lengths):
        width, begin, rows = max(lengths), 0, []
        for length in lengths:
            first_unit = numbers[int(tokens.input_ids[places[begin]])]
            table = torch.full((len(TYPES), width, width), -torch.inf)
            for kind in range(len(TYPES)):
                for first in range(length):
                    for last in range(first, length):
                        table[kind, first, last] = score(first_unit, kind, first_unit + first, first_unit + last)
            begin += length
            rows.append(table)
        return torch.stack(rows)

    monkeypatch.setattr(model, "scores", scores)
    return numbers


def context(begin: int, first: int, last: int) -> float:
    """Of a span in the window of 14 that begins there: units on its shorter side; the text's ends are no lack."""
    if first < begin or last >= begin + 14:
        return -1
    left = math.inf if begin == 0 else first - begin
    right = math.inf if begin + 14 == WHOLE else begin + 13 - last
    return min(left, right)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_each_span_is_decided_by_the_window_with_most_context(model, tiny_model, monkeypatch, batch_size):
    """All windows answer yes, each with a score of its own, so the confidence tells which one was heard."""
    directory = tiny_model("bert")
    samples = samples_of(directory, [(SIGNS[:WHOLE], [])], 16, 6)
    begins = [0, 8, 16, 24]
    ids = load_tokenizer(directory).convert_tokens_to_ids(list(SIGNS[:WHOLE]))
    numbers = in_windows(monkeypatch, model, lambda begin, kind, first, last: 0.1 + begin / 10 + kind / 100)
    numbers.update({ids[begin]: begin for begin in begins})
    reading = read_entities(model, samples, Compute(batch_size, ALONE), with_confidence=True)
    found = dict(zip(reading.spans[0], reading.confidences[0], strict=True))
    assert len(found) == len(reading.spans[0])
    expected = {
        (kind, first, last + 1)
        for kind in TYPES
        for first in range(WHOLE)
        for last in range(first, WHOLE)
        if any(context(begin, first, last) >= 0 for begin in begins)
    }
    assert found.keys() == expected
    for (kind, first, end), confidence in found.items():
        contexts = [context(begin, first, end - 1) for begin in begins]
        allowed = [
            1 / (1 + math.exp(-(0.1 + begin / 10 + TYPES.index(kind) / 100)))
            for begin, own in zip(begins, contexts, strict=True)
            if own == max(contexts)
        ]
        assert any(confidence == pytest.approx(one, abs=1e-6) for one in allowed), (kind, first, end)


def test_a_window_with_less_context_is_not_heard(model, tiny_model, monkeypatch):
    """Only windows that are not the best for a span say yes: nothing is found."""
    directory = tiny_model("bert")
    samples = samples_of(directory, [(SIGNS[:WHOLE], [])], 16, 6)
    begins = [0, 8, 16, 24]

    def score(begin, kind, first, last):
        return 1.0 if context(begin, first, last) < max(context(other, first, last) for other in begins) else -1.0

    numbers = in_windows(monkeypatch, model, score)
    ids = load_tokenizer(directory).convert_tokens_to_ids(list(SIGNS[:WHOLE]))
    numbers.update({ids[begin]: begin for begin in begins})
    assert read_entities(model, samples, Compute(4, ALONE)).spans == [[]]


def test_an_entity_is_gold_in_every_window_that_holds_it_whole(tiny_model):
    samples = samples_of(tiny_model("bert"), [(SIGNS[:WHOLE], [("PER", 9, 13), ("LOC", 12, 17), ("ORG", 30, 38)])], 16, 6)
    batch = collate_spans(samples, np.arange(1))
    ids = batch.tokens.input_ids.split(batch.tokens.lengths)
    tokens = load_tokenizer(tiny_model("bert")).convert_tokens_to_ids(list(SIGNS[:WHOLE]))
    found = {
        (tokens.index(int(ids[window][1])), TYPES[kind], first, last) for window, kind, first, last in batch.spans.tolist()
    }
    expected = set()
    for begin in (0, 8, 16, 24):
        for kind, first, end in [("PER", 9, 13), ("LOC", 12, 17), ("ORG", 30, 38)]:
            if begin <= first and end <= begin + 14:
                expected.add((begin, kind, first - begin, end - 1 - begin))
    assert found == expected and len(expected) == 4


# Directories


def test_saved_and_loaded(family, tiny_model, tmp_path):
    directory = tiny_model(family)
    model = load_entity_head(directory, described()).eval()
    save_model(tmp_path / "saved", model, load_tokenizer(directory), described().to_json())
    again = load_trained_entity_head(tmp_path / "saved", Description.read(tmp_path / "saved"))
    with torch.no_grad():
        assert torch.equal(again.scores(*windows_of([4, 7])), model.scores(*windows_of([4, 7])))


def test_a_head_that_is_not_there_or_does_not_fit(model, tiny_model, messages, tmp_path):
    with pytest.raises(UserError, match="query_key.weight"):
        load_trained_entity_head(tiny_model("bert"), described())
    save_model(tmp_path / "saved", model, load_tokenizer(tiny_model("bert")), described().to_json())
    fewer = load_entity_head(tiny_model("bert"), described(types=TYPES[:2]), init_from_ckpt=tmp_path / "saved")
    assert any("type_scores.weight is [6, 128], expected [4, 128]" in line for line in messages)
    assert torch.equal(fewer.encoder.embeddings.word.weight, model.encoder.embeddings.word.weight)
    assert not torch.equal(fewer.query_key.weight, model.query_key.weight)  # the head is new as a whole
    warm = load_entity_head(tiny_model("bert"), described(), init_from_ckpt=tmp_path / "saved")
    for name, parameter in model.named_parameters():
        assert torch.equal(dict(warm.named_parameters())[name], parameter), name
