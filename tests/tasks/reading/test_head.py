"""The reader is transformers' question answering model, family by family; yes and no, losses and answers by hand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.tasks.reading.answers import Candidate, Reading, load_reader, load_trained_reader, read_answers, score_readings
from bertorch.tasks.reading.description import Description
from bertorch.tasks.reading.rows import Question, ReadingBatch, ReadingTokenizer, collate_reading, window_questions
from bertorch.training.checkpoints import save_model
from bertorch.training.inference import Compute
from bertorch.training.process_group import Processes
from tests.closeness import assert_close
from tests.padding import given_to

HEAD = "ForQuestionAnswering"
HEADS = {"xlnet": "ForQuestionAnsweringSimple"}
LENGTHS = [9, 9, 4, 1]
SPAN = replace(Description.of_transformers(), max_seq_length=96)
ALL = replace(SPAN, answer_types="span+yes+no+none")
ALONE = Processes(0, 0, 1, torch.device("cpu"))


def draw(lengths: list[int] = LENGTHS, seed: int = 0) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, (sum(lengths),), generator=generator)
    return TokenBatch.from_lengths(ids, torch.randint(2, ids.shape, generator=generator), lengths)


@pytest.fixture
def both(family, tiny_model):
    """transformers' model and ours, of the same directory."""
    directory = tiny_model(family, HEADS.get(family, HEAD))
    return AutoModelForQuestionAnswering.from_pretrained(directory).eval(), load_trained_reader(directory, SPAN)


def assert_same_logits(ours, theirs, tokens):
    with torch.no_grad():
        expected = theirs(**given_to(theirs, tokens))
        found = ours.logits(tokens)
    for place, logits in enumerate((expected.start_logits, expected.end_logits)):
        real = torch.cat([logits[row, :length] for row, length in enumerate(tokens.lengths)])
        assert_close(found[:, place], real)
        assert real.std() > 0.01


def test_logits_of_transformers(both):
    theirs, ours = both
    assert not ours.training and ours.yes_no is None
    assert_same_logits(ours, theirs, draw())


def test_transformers_opens_what_is_saved(family, tiny_model, tmp_path):
    directory = tiny_model(family, HEADS.get(family, HEAD))
    ours = load_trained_reader(directory, SPAN)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.1)
    save_model(tmp_path, ours, load_tokenizer(directory), SPAN.to_json())
    theirs, info = AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert type(theirs).__name__ == type(AutoModelForQuestionAnswering.from_pretrained(directory)).__name__
    assert theirs.config.architectures == [type(theirs).__name__]
    assert_same_logits(load_trained_reader(tmp_path, SPAN), theirs.eval(), draw())
    saved, original = load_file(tmp_path / "model.safetensors"), load_file(directory / "model.safetensors")
    assert saved.keys() == original.keys()
    untrained = {name for name in original if name.endswith(("embed_positions.weight", "mask_emb"))}
    assert all(torch.equal(saved[name], original[name] * 1.1) for name in original if name not in untrained)


def test_loss_of_transformers(both):
    """Windows of one length: transformers takes its softmax over padding too."""
    theirs, ours = both
    tokens = draw([7] * 4)
    starts, ends = torch.tensor([0, 3, 6, 2]), torch.tensor([0, 5, 6, 2])
    expected = theirs(**given_to(theirs, tokens), start_positions=starts, end_positions=ends).loss
    loss = ours(ReadingBatch(tokens, starts, ends))
    assert loss.count == 4
    assert_close(loss.mean, expected)
    mine = torch.autograd.grad(loss.mean, ours.qa_outputs.weight)[0]
    (name,) = ours.encoder.config.family.reader.values()
    assert_close(mine, torch.autograd.grad(expected, getattr(theirs, name).weight)[0])


@pytest.mark.parametrize("description", [SPAN, ALL])
def test_every_weight_has_a_gradient(family, tiny_model, description):
    model = load_reader(tiny_model(family), description)
    model(ReadingBatch(draw(), torch.tensor([0, 3, 2, 0]), torch.tensor([0, 5, 3, 0]))).mean.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_yes_and_no_compete_with_the_places(tiny_model):
    """Two more classes of both softmaxes, whose scores are made of the first token's state."""
    model = load_reader(tiny_model("bert"), ALL).eval()
    with torch.no_grad():
        model.yes_no.bias.copy_(torch.tensor([0.3, -0.7]))
    tokens = draw()
    starts, ends = [9, 10, 1, 9], [9, 10, 3, 9]  # yes, no, a span, yes, of nine places at most
    states = model.encoder(tokens).split(LENGTHS)
    total = 0.0
    for state, length, start, end in zip(states, LENGTHS, starts, ends, strict=True):
        outputs, others = model.qa_outputs(state), model.yes_no(state[0])
        for column, target in ((0, start), (1, end)):
            scores = torch.cat([outputs[:, column], others])
            total = total - torch.log_softmax(scores, dim=0)[target if target < length else target - 9 + length] / 2
    loss = model(ReadingBatch(tokens, torch.tensor(starts), torch.tensor(ends)))
    assert_close(loss.total, total)
    assert loss.count == 4
    logits = model.logits(tokens)
    assert logits.shape == (sum(LENGTHS), 4)
    assert_close(logits[0, 2:], model.yes_no(states[0][0]))


@pytest.mark.parametrize("description", [SPAN, ALL])
def test_a_windows_loss_does_not_depend_on_its_companions(tiny_model, description):
    """Sums add up over parts of any size."""
    model = load_reader(tiny_model("bert"), description).eval()
    contexts = ["酒店服务员早餐干净", "酒店", "价格便宜", ""]
    answers = [("span", 2, 4), ("none", -1, -1), ("yes", -1, -1) if description is ALL else ("span", 0, 1), ("none", -1, -1)]
    asked = [
        Question(1, str(number), "房", context, [context[start:end] if kind == "span" else "x"], kind, start, end)
        for number, (context, (kind, start, end)) in enumerate(zip(contexts, answers, strict=True))
    ]
    samples = window_questions(asked, encoder_of(tiny_model("bert")))
    assert len(samples) == 4
    alone = [model(collate_reading(samples, np.array([row]))) for row in range(4)]
    for rows in ([0, 1, 2, 3], [2, 0], [3, 1, 2], [1, 0, 3]):
        loss = model(collate_reading(samples, np.array(rows)))
        assert loss.count == len(rows)
        assert_close(loss.total, sum(alone[row].total for row in rows))


def test_a_head_is_trained_or_there(tiny_model, tmp_path, messages):
    with pytest.raises(UserError, match="qa_outputs.weight"):
        load_trained_reader(tiny_model("bert"), SPAN)
    with pytest.raises(UserError, match="yes_no.weight"):
        load_trained_reader(tiny_model("bert", HEAD), ALL)
    warm = load_reader(tiny_model("bert"), ALL, tiny_model("bert", HEAD))  # spans known, yes and no new
    assert torch.equal(warm.qa_outputs.weight, load_trained_reader(tiny_model("bert", HEAD), SPAN).qa_outputs.weight)
    assert warm.yes_no.weight.std() > 0 and (warm.yes_no.bias == 0).all()
    save_model(tmp_path, warm, load_tokenizer(tiny_model("bert")), ALL.to_json())
    again = load_trained_reader(tmp_path, ALL)
    assert all(torch.equal(one, other) for one, other in zip(warm.parameters(), again.parameters(), strict=True))


# Answers


PASSAGES = [
    "酒店服务员早餐干净差，贵便宜喜欢推荐。" * 3,
    "where is the 酒店 x1？",
    "价格便宜",
    "  ",
    "酒\u2028店\n 很  贵 " * 8,
]
ASKED = [Question(1, str(number), "房", context, []) for number, context in enumerate(PASSAGES)]


def encoder_of(directory, max_seq_length=24, max_query_length=4, doc_stride=6) -> ReadingTokenizer:
    return ReadingTokenizer(TextTokenizer(load_tokenizer(directory), max_seq_length), max_query_length, doc_stride)


@pytest.fixture(scope="module")
def samples(tiny_model):
    return window_questions(ASKED, encoder_of(tiny_model("bert")))


@pytest.fixture(scope="module")
def reader(tiny_model):
    """A reader of all kinds, random in all weights."""
    model = load_reader(tiny_model("bert"), ALL, tiny_model("bert", HEAD)).eval()
    with torch.no_grad():
        model.yes_no.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return model


def read(model, samples, types="span+yes+no+none", n_best=20, longest=30, batch_size=3, asked=ASKED):
    description = replace(SPAN, answer_types=types, n_best_size=n_best, max_answer_length=longest)
    return read_answers(model, samples, asked, description, Compute(batch_size, ALONE))


def by_force(model, samples, number, longest):
    """Each window read for itself: scores of all pairs by their characters, and of none, yes and no in each window."""
    spans, none, others = {}, [], []
    for row in np.flatnonzero(samples.questions == number):
        part = slice(samples.offsets[row], samples.offsets[row + 1])
        ids, places = samples.input_ids[part], samples.token_offsets[part].tolist()
        types = np.arange(len(ids)) >= samples.second[row]
        tokens = TokenBatch.from_lengths(torch.from_numpy(ids).long(), torch.from_numpy(types).long(), [len(ids)])
        with torch.no_grad():
            logits = model.logits(tokens).double().numpy()
        none.append(logits[0, 0] + logits[0, 1])
        others.append(2 * logits[0, 2:])
        inside = [place for place, pair in enumerate(places) if pair[0] >= 0]
        for start, end in itertools.product(inside, inside):
            if start <= end < start + longest:
                key = places[start][0], places[end][1]
                spans[key] = max(spans.get(key, -math.inf), logits[start, 0] + logits[end, 1])
    return spans, none, others


@pytest.mark.parametrize(("n_best", "longest"), [(20, 30), (3, 2), (1, 1), (5, 100), (10_000, 100)])
def test_the_best_spans_are_those_of_all_pairs(reader, samples, n_best, longest):
    readings, loss = read(reader, samples, "span", n_best, longest)
    assert math.isnan(loss) and len(readings) == len(ASKED)
    assert (np.bincount(samples.questions) > 1).tolist() == [True, False, False, False, True]
    for number, (reading, question) in enumerate(zip(readings, ASKED, strict=True)):
        spans, _, _ = by_force(reader, samples, number, longest)
        expected = sorted(spans.items(), key=lambda item: -item[1])[:n_best]
        assert_close([candidate.score for candidate in reading.candidates], [score for _, score in expected])
        for candidate in reading.candidates:
            start, end = candidate.start, candidate.end
            assert_close(candidate.score, spans[start, end])
            assert 0 <= start < end <= len(question.context)
            assert (candidate.kind, candidate.text) == ("span", question.context[start:end])
        assert len({(candidate.start, candidate.end) for candidate in reading.candidates}) == len(reading.candidates)
        assert reading.null_score == -math.inf


def test_windows_are_joined(reader, samples):
    """Spans, yes and no by their highest score, none by its lowest; a blank passage has nothing to answer with."""
    readings, _ = read(reader, samples, n_best=10_000, longest=100)
    for number, reading in enumerate(readings):
        spans, none, others = by_force(reader, samples, number, 100)
        assert_close(reading.null_score, min(none))
        if not ASKED[number].context.strip():
            assert reading.candidates == []
            continue
        found = {candidate.kind: candidate for candidate in reading.candidates if candidate.kind != "span"}
        assert {kind: one.text for kind, one in found.items()} == {"yes": "YES", "no": "NO"}
        best = np.max(others, axis=0)
        assert_close([found["yes"].score, found["no"].score], best)
        assert len(reading.candidates) == len(spans) + 2
        scores = [candidate.score for candidate in reading.candidates]
        assert scores == sorted(scores, reverse=True)
        assert_close(reading.difference, min(none) - max([*best, *spans.values()]), of=max(map(abs, spans.values())))


def test_the_kinds_a_model_knows(reader, samples):
    for types in ("span", "span+none", "span+yes+no+none"):
        readings, _ = read(reader, samples, types, n_best=10_000)
        for question, reading in zip(ASKED, readings, strict=True):
            kinds = {candidate.kind for candidate in reading.candidates}
            assert kinds - {"span"} == ({"yes", "no"} if "yes" in types and question.context.strip() else set())
            assert math.isfinite(reading.null_score) == ("none" in types)
            assert (reading.answer(-math.inf).kind == "none") == ("none" in types or not kinds)
    empty = read(reader, samples, "span")[0][3]
    assert empty.candidates == [] and empty.answer(math.inf) == Candidate("none", "", -1, -1, -math.inf)
    assert empty.probabilities() == []


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_changes_nothing(reader, samples, batch_size):
    expected, _ = read(reader, samples)
    found, _ = read(reader, samples, batch_size=batch_size)
    for one, other in zip(expected, found, strict=True):
        assert_close(one.null_score, other.null_score)
        assert_close(*([candidate.score for candidate in reading.candidates] for reading in (one, other)))


def test_probabilities(reader, samples):
    for reading in read(reader, samples)[0]:
        listed = reading.probabilities()
        assert sum(share for _, share in listed) == pytest.approx(1)
        scores = torch.tensor([candidate.score for candidate, _ in listed], dtype=torch.float64)
        assert [share for _, share in listed] == pytest.approx(F.softmax(scores, dim=0).tolist())
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert sum(candidate.kind == "none" for candidate, _ in listed) == 1


def test_a_threshold_decides(reader, samples):
    reading = Reading([Candidate("span", "天", 0, 1, 2.0), Candidate("yes", "YES", -1, -1, 1.0)], 3.5)
    assert reading.difference == 1.5
    assert reading.answer(1.5).text == "天" and reading.answer(1.4) == Candidate("none", "", -1, -1, 3.5)


def test_the_mean_loss_over_windows(reader, tiny_model):
    asked = [
        Question(1, "1", "房", PASSAGES[0], ["早餐"], "span", 5, 7), Question(1, "2", "房", PASSAGES[1], [""], "none"),
        Question(1, "3", "房", PASSAGES[2], ["YES"], "yes"), Question(1, "4", "房", PASSAGES[0], ["NO"], "no"),
    ]  # fmt: skip
    samples = window_questions(asked, encoder_of(tiny_model("bert")))
    with torch.no_grad():
        expected = [reader(collate_reading(samples, np.array([row]))).total.item() for row in range(len(samples))]
    for batch_size in (1, 3, 64):
        _, loss = read(reader, samples, batch_size=batch_size, asked=asked)
        assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_questions_of_which_some_have_answers(reader, tiny_model):
    asked = [Question(1, "1", "房", "酒店", ["店"], "span", 1, 2), Question(1, "2", "房", "酒店", [])]
    readings, _ = read(reader, window_questions(asked, encoder_of(tiny_model("bert"))), asked=asked)
    assert len(readings) == 2


def test_yes_to_evaluate_a_model_that_knows_spans_alone(tiny_model):
    asked = [Question(1, "1", "房", "酒店", ["YES"], "yes"), Question(1, "2", "房", "酒店服务", ["服务"], "span", 2, 4)]
    model = load_trained_reader(tiny_model("bert", HEAD), SPAN)
    readings, _ = read(model, window_questions(asked, encoder_of(tiny_model("bert"))), "span", asked=asked)
    assert all(reading.answer(0.0).kind == "span" for reading in readings)


def test_scores_with_the_best_threshold_or_a_given_one():
    span = Candidate("span", "天气", 0, 2, 1.0)
    readings = [Reading([span], 0.0), Reading([span], 3.0), Reading([span], 4.0), Reading([], 0.0)]
    asked = [
        Question(1, str(number), "房", "天气", [answer], "span" if answer else "none")
        for number, answer in enumerate(("天气", "天气", "", ""))
    ]
    metrics, threshold = score_readings(readings, asked, "cmrc")
    assert metrics["f1"] == metrics["em"] == 1 and 2 <= threshold < 3  # the differences are -1, 2, 3 and infinite
    metrics, threshold = score_readings(readings, asked, "cmrc", 0.5)
    assert threshold == 0.5 and metrics["f1"] == 0.75 and metrics["has_answer_em"] == 0.5 and metrics["no_answer_em"] == 1
    always = [Reading([span], -math.inf)] * 4
    metrics, threshold = score_readings(always, asked, "cmrc")
    assert threshold == 0 and metrics["f1"] == 0.5
