"""Exact search for the most similar vectors, in blocks; the corpus's vectors and texts are on disk."""

import hashlib
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

_BLOCK = 8_192  # vectors to compare at a time
_GRID = 2.0**25  # vector components are whole multiples of its inverse
_ROUNDING = 1e-6  # cosines of texts that are the same to a model may differ by this much


class VectorFile:
    """Vectors of length 1 and their texts, in temporary files that are deleted with the object.

    Memory use: eight bytes per text (where it ends), whatever the width, and about 150 for each distinct key of
    ``first_places``.
    """

    def __init__(self, width: int):
        self.width = width
        self.directory = tempfile.TemporaryDirectory(prefix="bertorch-search-")  # below TMPDIR
        self._vectors = open(Path(self.directory.name) / "vectors", "w+b")
        self._texts = open(Path(self.directory.name) / "texts", "w+b")
        self._ends = array("q", [0])  # where each text ends in its file
        self._first: dict[bytes, int] = {}  # digest of a key -> the first place that has it

    def __enter__(self) -> "VectorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._vectors.close()
        self._texts.close()
        self.directory.cleanup()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def first_places(self, keys: Iterable[np.ndarray]) -> np.ndarray:
        """The first place with each key, int64 ``[len(keys)]``; ``keys`` belong to the texts that are added next."""
        digests = (hashlib.blake2b(key.tobytes(), digest_size=16).digest() for key in keys)
        return np.array([self._first.setdefault(digest, place) for place, digest in enumerate(digests, len(self))])

    def add(self, texts: list[str], vectors: np.ndarray, same_as: np.ndarray | None = None) -> None:
        """Append ``texts`` and their ``vectors``.

        Args:
            texts: one per place, from ``len(self)``.
            vectors: ``[len(texts), width]``; if ``same_as`` is given, one for each new text.
            same_as: the first place with each text's vector, int64 ``[len(texts)]``; a new text's own place.
        """
        start = len(self)
        vectors = unit(vectors)
        if same_as is not None:
            rows = np.empty((len(texts), self.width), dtype=np.float32)
            rows[same_as == np.arange(start, start + len(texts))] = vectors
            for row, place in enumerate(same_as):
                rows[row] = rows[place - start] if place >= start else self._vector(place)
            vectors = rows
        self._texts.seek(0, os.SEEK_END)
        self._vectors.seek(0, os.SEEK_END)
        for text in texts:
            self._ends.append(self._ends[-1] + self._texts.write(text.encode()))
        self._vectors.write(vectors.tobytes())

    def _vector(self, place: int) -> np.ndarray:
        self._vectors.seek(place * self.width * 4)
        return np.frombuffer(self._vectors.read(self.width * 4), dtype=np.float32)

    def text(self, place: int) -> str:
        """The text number ``place``, from 0."""
        self._texts.seek(self._ends[place])
        return self._texts.read(self._ends[place + 1] - self._ends[place]).decode()

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """``(first place, vectors [rows, width])``, block by block."""
        self._vectors.flush()
        self._vectors.seek(0)
        start = 0
        while data := self._vectors.read(_BLOCK * self.width * 4):
            block = np.frombuffer(data, dtype=np.float32).reshape(-1, self.width)
            yield start, block
            start += len(block)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divide vectors by their lengths, so that dot products are cosines; float32, in multiples of 2^-25.

    A product of two components is a whole multiple of 2^-50, and no sum of them is much above 1, so float64 holds each
    without rounding. A cosine is therefore the same for any order of addition, any block size and any number of threads,
    and equal vectors get equal cosines.
    """
    vectors = np.ascontiguousarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), np.float32)
    return np.round(vectors * np.float32(_GRID)) / np.float32(_GRID)


def top_k(queries: np.ndarray, corpus: VectorFile, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar vectors of the corpus; of equal ones, the earlier first.

    Args:
        queries: ``[queries, width]``.
        corpus: what is searched.
        k: at most the size of the corpus.

    Returns:
        Cosines, the highest first, float32 ``[queries, k]``, and places in the corpus, int64 ``[queries, k]``.
    """
    queries = unit(queries).astype(np.float64)
    k = min(k, len(corpus))
    scores = np.full((len(queries), k), -np.inf)
    places = np.zeros((len(queries), k), dtype=np.int64)
    for start, block in corpus.blocks():
        similarity = queries @ block.T.astype(np.float64)
        better = similarity > scores[:, -1:]  # a later vector that is only as good is left out
        for row in np.flatnonzero(better.any(axis=1)):
            found = np.flatnonzero(better[row])
            merged = np.concatenate([scores[row], similarity[row, found]])
            order = np.argsort(-merged, kind="stable")[:k]
            scores[row] = merged[order]
            places[row] = np.concatenate([places[row], start + found])[order]
    return scores.astype(np.float32), places


def ranks_of_positives(queries: np.ndarray, positives: list[list[int]], corpus: VectorFile) -> np.ndarray:
    """The rank of each query's best positive among all candidates, from 1.

    Equally good candidates rank before it, so that a model to which all texts are the same finds nothing.

    Args:
        queries: ``[queries, width]``.
        positives: the places of each query's positives in the corpus; its other positives do not compete.
        corpus: the candidates.
    """
    queries = unit(queries).astype(np.float64)
    owners = np.repeat(np.arange(len(positives)), [len(of_query) for of_query in positives])
    places = np.concatenate([np.asarray(of_query, dtype=np.int64) for of_query in positives])
    best = np.full(len(queries), -np.inf)
    for start, block in corpus.blocks():
        here = (places >= start) & (places < start + len(block))
        np.maximum.at(best, owners[here], (queries[owners[here]] * block[places[here] - start]).sum(axis=1))
    ranks = np.ones(len(queries), dtype=np.int64)
    for start, block in corpus.blocks():
        here = (places >= start) & (places < start + len(block))
        similarity = queries @ block.T.astype(np.float64)
        similarity[owners[here], places[here] - start] = -np.inf
        ranks += (similarity >= best[:, None] - _ROUNDING).sum(axis=1)
    return ranks
