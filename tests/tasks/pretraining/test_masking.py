"""What is masked, how often, and with what; two segments in and out of order; what the draws depend on."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2, chisquare
from tokenizers import ByteLevelBPETokenizer

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.errors import UserError
from bertorch.tasks.pretraining.masking import MaskedBatch, Masking
from bertorch.tasks.pretraining.rows import Documents
from tests.tasks.pretraining.test_rows import TOKENS, save_vocabulary

CLS, SEP, MASK = (TOKENS.index(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
SPECIAL = {TOKENS.index(token) for token in TOKENS[:5]}
ROOM = 61  # of 64 tokens, beside those of a pair


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> TextTokenizer:
    return TextTokenizer(load_tokenizer(save_vocabulary(tmp_path_factory.mktemp("vocabulary"))), ROOM + 3)


def documents_of(*documents: list[list[int]], continues: list[int] | None = None) -> Documents:
    """Texts of these documents, each as the lengths of its sentences. No id is there twice, from 1000 on."""
    texts = [text for document in documents for text in document]
    sentences = [length for text in texts for length in text]
    return Documents(
        input_ids=np.arange(1000, 1000 + sum(sentences), dtype=np.int32),
        continues=np.array([] if continues is None else continues, dtype=bool),
        sentence_starts=np.cumsum([0, *sentences]),
        text_starts=np.cumsum([0, *map(len, texts)]),
        text_documents=np.repeat(np.arange(len(documents)), [len(document) for document in documents]).astype(np.int32),
        fingerprint="",
        unknown=0,
        divided=0,
    )


def original(documents: Documents, text: int) -> list[list[int]]:
    """The sentences of a text."""
    bounds = documents.sentence_starts[documents.text_starts[text] : documents.text_starts[text + 1] + 1]
    return [documents.input_ids[start:end].tolist() for start, end in pairwise(bounds)]


def restored(batch: MaskedBatch) -> list[list[int]]:
    """Each sequence of a batch, with what stood in the masked places."""
    ids = batch.tokens.input_ids.clone()
    ids[batch.places] = batch.targets
    return [part.tolist() for part in ids.split(batch.tokens.lengths)]


def alone(masking: Masking, documents: Documents, text: int, epoch: int | None = 0) -> MaskedBatch:
    return masking.collate(documents, np.array([text]), epoch)


def segments_of(batch: MaskedBatch) -> list[list[int]]:
    """Of a batch of one text; its special tokens and segment ids are those of BERT."""
    (ids,), types = restored(batch), batch.tokens.token_type_ids.tolist()
    ends = [place for place, token in enumerate(ids) if token == SEP]
    assert ids[0] == CLS and ends[-1] == len(ids) - 1 and len(ends) <= 2
    assert types == [0] * (ends[0] + 1) + [1] * (len(ids) - ends[0] - 1)
    segments = [ids[1 : ends[0]], *([ids[ends[0] + 1 : -1]] if len(ends) == 2 else [])]
    assert not SPECIAL & {token for segment in segments for token in segment}
    return segments


def contents(batch: MaskedBatch) -> tuple:
    parts = batch.tokens.input_ids, batch.tokens.token_type_ids, batch.places, batch.targets, batch.orders
    return (*(part.tolist() for part in parts), batch.tokens.lengths)


# How many, where, and by what


@pytest.mark.parametrize("how", [{}, {"longest_ngram": 3}, {"share": 0.4}, {"share": 0.0}, {"share": 1.0}])
def test_the_number_of_masked_tokens(encoder, how):
    lengths = range(1, ROOM + 1)
    documents = documents_of([[length] for length in lengths])
    masking = Masking(encoder, **how)
    for text, length in enumerate(lengths):
        batch = alone(masking, documents, text)
        assert len(batch.places) == len(batch.targets) == max(1, round(how.get("share", 0.15) * length))


@pytest.mark.parametrize("longest", [1, 3])
@pytest.mark.parametrize("most", [1, 4])
def test_the_most_masked_tokens(encoder, most, longest):
    documents = documents_of([[length] for length in range(1, ROOM + 1)])
    masking = Masking(encoder, share=0.4, longest_ngram=longest, most=most)
    expected = [min(most, max(1, round(0.4 * length))) for length in range(1, ROOM + 1)]
    assert [len(alone(masking, documents, text).places) for text in range(ROOM)] == expected
    assert max(expected) == most


def test_the_most_are_those_that_a_text_has(encoder):
    """The mean that weights the order of segments follows."""
    documents = documents_of([[length] for length in range(1, ROOM + 1)])
    masking = Masking(encoder, share=0.4, most=2)
    found = [len(alone(masking, documents, text).places) + 0.0 for text in range(len(documents))]
    rounded = np.clip(np.rint(0.4 * documents.row_lengths), 1, 2)
    assert masking.expected(documents) == rounded.mean() and np.abs(np.array(found) - rounded).max() <= 1


@pytest.mark.parametrize("objectives", [("mlm",), ("mlm", "sop"), ("mlm", "nsp")])
def test_targets_are_tokens_of_the_texts(encoder, objectives):
    """Each place once, no special token among them; all other tokens stand as they were."""
    documents = documents_of([[3, 4], [5]], [[1, 9, 2], [1, 1]])
    masking = Masking(encoder, objectives, share=0.5)
    known = set(documents.input_ids.tolist())
    for epoch in range(30):
        batch = masking.collate(documents, np.arange(4), epoch)
        assert len(set(batch.places.tolist())) == len(batch.places) > 0
        assert set(batch.targets.tolist()) <= known
        for ids in restored(batch):
            assert ids.count(CLS) == 1 and ids[0] == CLS and ids[-1] == SEP
            assert set(ids) <= known | {CLS, SEP}
        assert batch.tokens.lengths == sorted(batch.tokens.lengths, reverse=True)
        for tensor in (batch.tokens.input_ids, batch.places, batch.targets, batch.orders):
            assert tensor.dtype == torch.int64


@pytest.mark.parametrize(("length", "masked"), [(9, 1), (20, 3)])
def test_places_are_uniform(encoder, length, masked):
    documents, masking = documents_of([[length]]), Masking(encoder, seed=1)
    counts = np.zeros(length)
    for epoch in range(3000):
        places = alone(masking, documents, 0, epoch).places - 1  # after [CLS]
        counts[places] += 1
    assert counts.sum() == 3000 * masked
    # Drawn without putting back, counts vary less than a multinomial's by (length - masked) / (length - 1).
    statistic = chisquare(counts).statistic * (length - 1) / (length - masked)
    assert chi2.sf(statistic, length - 1) > 1e-4


def test_four_fifths_become_the_mask_and_a_tenth_another_token(encoder):
    """Also the tokens of a text themselves are among those drawn, one in so many as the vocabulary has."""
    masking = Masking(encoder)
    known = len(TOKENS) - len(SPECIAL)
    token = TOKENS.index("天")
    found = masking.replace(np.full(40_000, token), np.random.default_rng(3))
    counts = [(found == MASK).sum(), (found == token).sum(), (~np.isin(found, [MASK, token])).sum()]
    expected = np.array([0.8, 0.1 + 0.1 / known, 0.1 - 0.1 / known]) * 40_000
    assert chisquare(counts, expected).pvalue > 1e-4


def test_random_tokens_are_uniform_over_those_that_are_not_special(encoder):
    masking = Masking(encoder)
    found = masking.replace(np.full(60_000, -1), np.random.default_rng(4))
    drawn = found[(found != -1) & (found != MASK)]
    counts = np.bincount(drawn, minlength=len(TOKENS))
    assert len(counts) == len(TOKENS) and not counts[sorted(SPECIAL)].any()
    assert chisquare(counts[len(SPECIAL) :]).pvalue > 1e-4


def test_what_stands_in_masked_places_of_a_batch(encoder):
    """The same three in a batch: the mask, the token itself, and others that no text of it has."""
    documents, masking = documents_of([[40]]), Masking(encoder, share=0.5)
    counts = np.zeros(3)
    for epoch in range(150):
        batch = alone(masking, documents, 0, epoch)
        found = batch.tokens.input_ids[batch.places]
        counts += [(found == MASK).sum(), (found == batch.targets).sum(), 0]
        others = found[(found != MASK) & (found != batch.targets)]
        assert set(others.tolist()) <= set(range(len(SPECIAL), len(TOKENS)))
        counts[2] += len(others)
    assert chisquare(counts, np.array([0.8, 0.1, 0.1]) * counts.sum()).pvalue > 1e-4


def test_a_tokenizer_without_a_mask(tmp_path):
    tokenizer = load_tokenizer(save_vocabulary(tmp_path))
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="mask token"):
        Masking(TextTokenizer(tokenizer, 64))


@pytest.mark.parametrize("objectives", [("mlm",), ("mlm", "sop")])
def test_the_expected_number_of_masked_tokens(encoder, objectives):
    documents = documents_of([[1], [3, 4], [10, 10, 10]], [[50, 11], [5]])
    masking = Masking(encoder, objectives)
    batch = masking.collate(documents, np.arange(5), 0)
    assert masking.expected(documents) == pytest.approx(len(batch.places) / 5)


# Two segments


HALVES = documents_of([[3, 4, 2], [5, 6]], [[1, 9, 2, 7], [8]], [[2, 2]])


def divisions(sentences: list[list[int]]) -> list[tuple[list[int], list[int]]]:
    """All ways to divide a text between two sentences."""
    return [(sum(sentences[:cut], []), sum(sentences[cut:], [])) for cut in range(1, len(sentences))]


def test_sentence_order(encoder):
    """Label 0: the text as it stands in its document; 1: its two halves, swapped."""
    masking = Masking(encoder, ("mlm", "sop"), seed=5)
    seen = {(text, order): set() for text in range(5) for order in (0, 1)}
    for text in range(5):
        sentences = original(HALVES, text)
        for epoch in range(100):
            batch = alone(masking, HALVES, text, epoch)
            segments, (order,) = segments_of(batch), batch.orders.tolist()
            if len(sentences) == 1:
                assert order == -1 and segments == sentences
                continue
            first, second = segments if order == 0 else segments[::-1]
            assert order in (0, 1) and (first, second) in divisions(sentences)
            seen[text, order].add(len(first))
    for (text, _), cuts in seen.items():  # every cut occurs, in both orders
        assert cuts == {len(first) for first, _ in divisions(original(HALVES, text))}


def test_next_sentence(encoder):
    """Label 0: as in the document; 1: the first half, and sentences of a text of another document, as many as fit."""
    documents = documents_of([[3, 4, 2], [30, 29]], [[20, 9, 2, 30], [8]], [[2, 2], [1]], [[60]])
    masking = Masking(encoder, ("mlm", "nsp"), seed=5)
    owner = {id: documents.text_documents[text] for text in range(7) for ids in original(documents, text) for id in ids}
    tails = [
        sum(original(documents, text)[start:], []) for text in range(7) for start in range(len(original(documents, text)))
    ]
    cut, documents_seen, starts_seen = 0, set(), set()
    for text in (0, 1, 2, 4):
        sentences = original(documents, text)
        for epoch in range(150):
            batch = alone(masking, documents, text, epoch)
            (first, second), (order,) = segments_of(batch), batch.orders.tolist()
            assert len(first) + len(second) <= ROOM
            if order == 0:
                assert (first, second) in divisions(sentences)
                continue
            assert order == 1 and first in [part for part, _ in divisions(sentences)]
            (other,) = {owner[token] for token in second}
            assert other != owner[first[0]]
            documents_seen.add((owner[first[0]], other))
            (tail,) = [tail for tail in tails if tail[0] == second[0]]
            assert second == tail[: ROOM - len(first)]
            cut += len(second) < len(tail)
            starts_seen.add(second[0])
    assert cut > 0 and starts_seen == {tail[0] for tail in tails}
    assert documents_seen == {(one, other) for one in range(3) for other in range(4) if one != other}
    for text in (3, 5, 6):
        batch = alone(masking, documents, text)
        assert batch.orders.tolist() == [-1] and segments_of(batch) == original(documents, text)


@pytest.mark.parametrize("objective", ["sop", "nsp"])
def test_every_second_text_is_out_of_order(encoder, objective):
    masking = Masking(encoder, ("mlm", objective), seed=2)
    orders = torch.cat([masking.collate(HALVES, np.array([0, 1, 2, 4]), epoch).orders for epoch in range(600)])
    assert set(orders.tolist()) == {0, 1}
    assert binomtest(int(orders.sum()), len(orders)).pvalue > 1e-4


def test_a_text_is_cut_anywhere_between_its_sentences(encoder):
    documents, masking = documents_of([[1] * 6]), Masking(encoder, ("mlm", "sop"))
    batches = [alone(masking, documents, 0, epoch) for epoch in range(1500)]
    cuts = [len(segments_of(batch)[batch.orders.item()]) for batch in batches]  # the half that came first
    assert chisquare(np.bincount(cuts, minlength=6)[1:]).pvalue > 1e-4


def test_without_an_objective_for_them_there_are_no_two_segments(encoder):
    masking = Masking(encoder)
    assert (masking.room, Masking(encoder, ("mlm", "sop")).room) == (ROOM + 1, ROOM)
    batch = masking.collate(HALVES, np.arange(5), 0)
    assert batch.orders.tolist() == [-1] * 5 and not batch.tokens.token_type_ids.any()
    for text in range(5):
        assert segments_of(alone(masking, HALVES, text)) == [sum(original(HALVES, text), [])]


@pytest.fixture(scope="module")
def one_segment(tmp_path_factory) -> TextTokenizer:
    """RoBERTa's kind of tokenizer: two separators between texts, and one segment id."""
    directory: Path = tmp_path_factory.mktemp("roberta")
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(["the cat sat on the mat"] * 3, vocab_size=300, special_tokens=special)
    tokenizer.save_model(str(directory))
    (directory / "config.json").write_text(json.dumps({"model_type": "roberta"}), encoding="utf-8")
    return TextTokenizer(load_tokenizer(directory), 64)


@pytest.mark.parametrize("objective", ["sop", "nsp"])
def test_models_of_one_segment(one_segment, objective):
    """The segments are laid out as that tokenizer lays out pairs, and all segment ids are 0."""
    masking = Masking(one_segment, ("mlm", objective), share=0.3)
    tokenizer = one_segment.pretrained
    assert masking.room == 60 and masking.mask_id == tokenizer.mask_token_id
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert [token for token in tokenizer("cat", "sat")["input_ids"] if token in (start, end)] == [start, end, end, end]
    for epoch in range(20):
        batch = alone(masking, HALVES, 0, epoch)
        (ids,) = restored(batch)
        middle = ids.index(end)
        first, second = ids[1:middle], ids[middle + 2 : -1]
        assert ids == [start, *first, end, end, *second, end]
        assert not batch.tokens.token_type_ids.any()
        assert batch.orders.item() != 0 or (first, second) in divisions(original(HALVES, 0))


def test_documents_that_cannot_give_what_is_needed(encoder):
    one, single = documents_of([[3, 4], [2]]), documents_of([[3], [4]], [[2]])
    for objective, documents, message in (("nsp", one, "one document"), ("sop", single, "two sentences")):
        with pytest.raises(UserError, match=message) as caught:
            Masking(encoder, ("mlm", objective)).check(documents, "corpus.txt")
        assert str(caught.value).startswith("corpus.txt: ")
    Masking(encoder, ("mlm", "sop")).check(one, "corpus.txt")
    Masking(encoder, ("mlm", "nsp")).check(HALVES, "corpus.txt")
    for documents in (one, single):
        Masking(encoder).check(documents, "corpus.txt")


# What the draws depend on


@pytest.mark.parametrize("how", [{}, {"objectives": ("mlm", "sop")}, {"objectives": ("mlm", "nsp"), "longest_ngram": 2}])
def test_draws_depend_on_seed_and_epoch(encoder, how):
    def draws(seed, epochs):
        return [contents(Masking(encoder, seed=seed, **how).collate(HALVES, np.arange(5), epoch)) for epoch in epochs]

    assert draws(3, [0, 1, None]) == draws(3, [0, 1, None])
    first, second, fixed = draws(3, [0, 1, None])
    other = draws(4, [0, None])
    assert len({repr(one) for one in (first, second, fixed, other[0])}) == 4
    assert other[1] == fixed  # development sets are masked the same way whatever the seed


@pytest.mark.parametrize("objective", [None, "sop", "nsp"])
@pytest.mark.parametrize("epoch", [0, 7, None])
def test_a_text_does_not_depend_on_its_companions(encoder, objective, epoch):
    """Nor on their order: texts are drawn alike on any number of processes."""
    masking = Masking(encoder, ("mlm", objective) if objective else ("mlm",), longest_ngram=2)
    expected = [alone(masking, HALVES, text, epoch) for text in range(5)]
    for texts in ([0, 1, 2, 3, 4], [3, 1], [4, 2, 0]):
        batch = masking.collate(HALVES, np.array(texts), epoch)
        in_order = sorted((expected[text] for text in texts), key=lambda one: -len(one.tokens.input_ids))
        starts = np.cumsum([0, *(len(one.tokens.input_ids) for one in in_order)])
        for name in ("input_ids", "token_type_ids", "position_ids"):
            assert torch.equal(getattr(batch.tokens, name), torch.cat([getattr(one.tokens, name) for one in in_order]))
        assert torch.equal(
            batch.places, torch.cat([one.places + start for one, start in zip(in_order, starts, strict=False)])
        )
        assert torch.equal(batch.targets, torch.cat([one.targets for one in in_order]))
        assert torch.equal(batch.orders, torch.cat([one.orders for one in in_order]))


# Words


WORDS = st.lists(st.integers(1, 6), min_size=1, max_size=30)


def marks(words: list[int]) -> np.ndarray:
    """``continues`` of words of these lengths."""
    return np.array([place > 0 for length in words for place in range(length)])


@given(words=WORDS, share=st.floats(0.01, 1), longest=st.integers(1, 4), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=300)
def test_words_are_chosen_whole(encoder, words, share, longest, seed):
    """As many tokens as are wanted, as far as words allow; more only where no word is as short as that."""
    masking = Masking(encoder, share=share, whole_words=True, longest_ngram=longest)
    places = masking.choose(marks(words), np.random.default_rng(seed)).tolist()
    bounds = np.cumsum([0, *words]).tolist()
    chosen = [number for number, start in enumerate(bounds[:-1]) if start in places]
    assert places == [place for number in chosen for place in range(bounds[number], bounds[number + 1])]
    wanted = max(1, round(share * sum(words)))
    if min(words) > wanted:
        assert [words[number] for number in chosen] == [min(words)]
        return
    left = wanted - len(places)
    assert left >= 0
    assert all(length > left for number, length in enumerate(words) if number not in chosen)


def test_all_words_are_chosen_equally_often(encoder):
    """Of words as long as one another; a text has some two of them masked."""
    masking = Masking(encoder, whole_words=True)
    continues, counts = marks([3] * 14), np.zeros(14)
    rng = np.random.default_rng(6)
    for _ in range(2000):
        counts[masking.choose(continues, rng)[::3] // 3] += 1
    assert counts.sum() == 2000 * 2  # six tokens of 42
    assert chi2.sf(chisquare(counts).statistic * 13 / 12, 13) > 1e-4


def test_runs_of_words(encoder):
    """Runs of n words have a probability of 1 / n beside one another; where one is too long its first word is taken.

    Three tokens of so many that runs do not touch: 3 follows from a first draw of 3; 2 and 1 from 2, or from 1 and then 2;
    the rest are single words.
    """
    one, two, three = (6 / 11, 3 / 11, 2 / 11)
    assert one + two + three == pytest.approx(1) and one / two == pytest.approx(2) and one / three == pytest.approx(3)
    masking = Masking(encoder, share=3 / 3000, longest_ngram=3)
    rng, continues, counts = np.random.default_rng(7), np.zeros(3000, dtype=bool), {(3,): 0, (1, 2): 0, (1, 1, 1): 0}
    for _ in range(2000):
        places = masking.choose(continues, rng)
        runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        counts[tuple(sorted(map(len, runs)))] += 1
    expected = np.array([three, two + one * two, one * (one + three)]) * 2000
    assert chisquare(list(counts.values()), expected).pvalue > 1e-4


@pytest.mark.parametrize("objectives", [("mlm",), ("mlm", "sop"), ("mlm", "nsp")])
@pytest.mark.parametrize("longest", [1, 3])
def test_masked_words_of_a_batch_are_whole(encoder, objectives, longest):
    """A word ends with its segment, and the documents are left as they are."""
    words = [1, 2, 3, 1, 4, 2, 2, 3, 3, 1, 2, 4, 2]
    continues = marks(words)
    continues[[0, 10, 23]] = True  # where sentences start: the rest of a word that was cut
    documents = documents_of([[10, 5]], [[8, 7]], continues=continues)
    documents.continues.flags.writeable = False
    masking = Masking(encoder, objectives, whole_words=True, longest_ngram=longest, share=0.4)
    for epoch in range(60):
        for text in (0, 1):
            batch = alone(masking, documents, text, epoch)
            segments, (ids,) = segments_of(batch), restored(batch)
            targets = set(batch.targets.tolist())
            assert batch.targets.tolist() == [ids[place] for place in batch.places]
            for segment in segments:
                starts = [place for place, token in enumerate(segment) if not place or not continues[token - 1000]]
                for start, end in pairwise([*starts, len(segment)]):
                    assert len(targets & set(segment[start:end])) in (0, end - start)


def test_a_text_that_is_the_rest_of_a_word(encoder):
    documents = documents_of([[1], [4]], continues=[1, 1, 1, 1, 1])
    masking = Masking(encoder, whole_words=True)
    assert alone(masking, documents, 0).targets.tolist() == [1000]
    assert alone(masking, documents, 1).targets.tolist() == [1001, 1002, 1003, 1004]


def test_words_do_not_matter_unless_they_are_asked_for(encoder):
    documents = documents_of([[20]], continues=[0] + [1] * 19)
    counts = [len(alone(Masking(encoder, whole_words=whole), documents, 0).places) for whole in (False, True)]
    assert counts == [3, 20]
