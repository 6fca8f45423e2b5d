"""Search against brute force, ties included, over many blocks; texts come back as they were; no file stays behind."""

import math
import tempfile
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertorch.tasks.sentences import search
from bertorch.tasks.sentences.search import VectorFile, ranks_of_positives, top_k, unit

# Vectors of lengths 0, 1, 2 and 4, whose cosines floats hold exactly: what ties by mathematics, ties in the computer.
SIGNS = st.sampled_from([-1, 1])
ONE = st.builds(lambda place, sign: [sign * (place == index) for index in range(4)], st.integers(0, 3), SIGNS)
FOUR = st.lists(SIGNS, min_size=4, max_size=4)
VECTORS = st.builds(
    lambda vector, length: [length * x for x in vector], ONE | FOUR | st.just([0, 0, 0, 0]), st.sampled_from([1, 2])
)


def cosine(u, v):
    lengths = math.sqrt(sum(x * x for x in u)) * math.sqrt(sum(x * x for x in v))
    return sum(x * y for x, y in zip(u, v, strict=True)) / lengths if lengths else 0.0


def filled(vectors, portions=()):
    """A file of the vectors, added portion by portion, each with its place as its text."""
    file, vectors = VectorFile(len(vectors[0])), np.array(vectors, dtype=float)
    for start, end in pairwise([*np.cumsum([0, *portions]), max(len(vectors), sum(portions))]):
        part = vectors[start:end]
        file.add([str(place) for place in range(len(file), len(file) + len(part))], part)
    return file


def in_blocks_of(size):
    return mock.patch.object(search, "_BLOCK", size)


@given(st.data())
def test_top_k(data):
    corpus = data.draw(st.lists(VECTORS, min_size=1, max_size=25))
    queries = data.draw(st.lists(VECTORS, min_size=1, max_size=4))
    k, block = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 9))
    portions = data.draw(st.lists(st.integers(0, 9), max_size=3))
    with in_blocks_of(block), filled(corpus, portions) as file:
        assert len(file) == len(corpus)
        scores, places = top_k(np.array(queries, dtype=np.float32), file, k)
    expected = [sorted((-cosine(query, vector), place) for place, vector in enumerate(corpus))[:k] for query in queries]
    assert places.tolist() == [[place for _, place in row] for row in expected]
    assert scores.tolist() == [[-score for score, _ in row] for row in expected]


@given(st.data())
def test_ranks_of_positives(data):
    """One more than the candidates that are at least as similar as the best positive; other positives are no candidates."""
    corpus = data.draw(st.lists(VECTORS, min_size=1, max_size=25))
    queries = data.draw(st.lists(VECTORS, min_size=1, max_size=5))
    place = st.integers(0, len(corpus) - 1)
    positives = [data.draw(st.lists(place, min_size=1, max_size=4, unique=True)) for _ in queries]
    with in_blocks_of(data.draw(st.integers(1, 9))), filled(corpus) as file:
        ranks = ranks_of_positives(np.array(queries, dtype=np.float32), positives, file)
    expected = []
    for query, own in zip(queries, positives, strict=True):
        best = max(cosine(query, corpus[place]) for place in own)
        rivals = [vector for place, vector in enumerate(corpus) if place not in own]
        expected.append(1 + sum(cosine(query, vector) >= best for vector in rivals))
    assert ranks.tolist() == expected


def test_vectors_of_any_length_and_direction():
    """Real numbers, longer than a block, with more dimensions than a query has neighbours."""
    random = np.random.default_rng(0)
    vectors, queries = random.normal(size=(200, 30)) * random.uniform(0.1, 9, (200, 1)), random.normal(size=(7, 30))
    similarity = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ).T
    positives = [random.choice(200, size=1 + index % 3, replace=False).tolist() for index in range(7)]
    with in_blocks_of(16), filled(vectors) as file:
        scores, places = top_k(queries.astype(np.float32), file, 20)
        ranks = ranks_of_positives(queries.astype(np.float32), positives, file)
    expected = np.argsort(-similarity, axis=1)[:, :20]
    assert places.tolist() == expected.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(similarity, expected, axis=1), rtol=0, atol=1e-6)
    assert (scores.dtype, places.dtype) == (np.float32, np.int64)
    for row, own, rank in zip(similarity, positives, ranks, strict=True):
        others = np.delete(row, own)
        assert rank == 1 + (others > row[own].max()).sum()


def test_an_empty_corpus():
    with VectorFile(3) as file:
        scores, places = top_k(np.ones((2, 3), dtype=np.float32), file, 5)
    assert scores.shape == places.shape == (2, 0)


@given(st.lists(st.text(max_size=8), max_size=12), st.integers(1, 5))
def test_texts_come_back_as_they_were(texts, portion):
    texts = ["", "a\u2028b", "一\n二\r\n三\t\0", "\ufeff", "😀", *texts]
    with VectorFile(2) as file:
        for start in range(0, len(texts), portion):
            part = texts[start : start + portion]
            file.add(part, np.ones((len(part), 2)))
        assert len(file) == len(texts)
        assert [file.text(place) for place in reversed(range(len(texts)))] == texts[::-1]


@pytest.mark.parametrize("width", [24, 768])
def test_of_equal_vectors_the_earlier_is_better(width):
    """Wherever they stand in their blocks, however many queries there are: cosines depend on the two vectors alone."""
    generator = np.random.default_rng(0)
    vectors, queries = (unit(generator.normal(size=(rows, width))) for rows in (11, 9))
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")
    expected = (expected[:, :, None] + 11 * np.arange(30)).reshape(9, -1)[:, :100]
    answers = []
    for size, portion in ((1, 9), (7, 2), (64, 1), (128, 9), (1000, 9), (1000, 1)):
        with in_blocks_of(size), filled(np.tile(vectors, (30, 1))) as file:
            found = [top_k(queries[start : start + portion], file, 100) for start in range(0, 9, portion)]
        scores, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
        assert places.tolist() == expected.tolist(), (size, portion)
        answers.append(scores)
    assert all((scores == answers[0]).all() for scores in answers)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 9), max_size=3))
def test_a_text_may_have_the_vector_of_an_earlier_one(which, portions):
    """Of this call or of one before; all its bits."""
    vectors = np.random.default_rng(0).normal(size=(6, 5))
    same_as = np.array([which.index(one) for one in which])
    with VectorFile(5) as file:
        for start, end in pairwise([*np.cumsum([0, *portions]).clip(max=len(which)), len(which)]):
            new = [one for place, one in enumerate(which[start:end], start) if same_as[place] == place]
            file.add([str(place) for place in range(start, end)], vectors[new], same_as[start:end])
        assert [file.text(place) for place in range(len(which))] == [str(place) for place in range(len(which))]
        found = np.concatenate([block for _, block in file.blocks()])
    np.testing.assert_allclose(found, vectors[which] / np.linalg.norm(vectors[which], axis=1, keepdims=True), atol=1e-7)
    assert (found == found[same_as]).all()


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_files_are_gone_afterwards(scratch):
    with filled([[1, 0], [0, 1]]) as file:
        top_k(np.ones((1, 2), dtype=np.float32), file, 1)
        assert [Path(file.directory.name)] == list(scratch.iterdir())
    assert list(scratch.iterdir()) == []


def test_the_files_are_gone_after_an_accident(scratch):
    with pytest.raises(ZeroDivisionError), filled([[1, 0], [0, 1]]):
        assert list(scratch.iterdir())
        raise ZeroDivisionError
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("width", [24, 768])
def test_a_double_of_the_positive_stands_before_it(width):
    """Though products of matrices round the cosines of equal vectors differently."""
    generator = np.random.default_rng(0)
    vectors, queries = (unit(generator.normal(size=(rows, width))) for rows in (50, 200))
    positives = generator.integers(0, 50, size=200)
    with VectorFile(width) as corpus:
        corpus.add([str(place) for place in range(100)], np.concatenate([vectors, vectors]))
        ranks = ranks_of_positives(queries, [[int(place)] for place in positives], corpus)
    cosines = queries @ vectors.T
    nearer = (cosines > cosines[np.arange(200), positives][:, None]).sum(axis=1)  # each of them stands there twice
    assert ranks.tolist() == (2 * nearer + 2).tolist()


def test_texts_may_be_read_between_additions():
    with VectorFile(2) as corpus:
        corpus.add(["一", "二"], np.eye(2))
        assert corpus.text(0) == "一"
        list(corpus.blocks())
        corpus.add(["三"], np.ones((1, 2)))
        assert [corpus.text(place) for place in range(3)] == ["一", "二", "三"]
        assert [block.tolist() for _, block in corpus.blocks()][0][:2] == [[1, 0], [0, 1]] and len(corpus) == 3
