"""Exact search for the most similar vectors, in blocks, with vectors and texts of the corpus on disk."""

import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_BLOCK = 16_384  # vectors that are compared at a time
_ROUNDING = 1e-6  # by so much the cosines of equal vectors may differ


class VectorFile:
    """Vectors of length 1 and the texts they belong to, in temporary files that go with the object.

    Memory holds eight bytes a text (where it starts), whatever the number of dimensions.
    """

    def __init__(self, width: int):
        self.width = width
        self.directory = tempfile.TemporaryDirectory(prefix="bertorch-search-")  # below TMPDIR
        self._vectors = open(Path(self.directory.name) / "vectors", "w+b")
        self._texts = open(Path(self.directory.name) / "texts", "w+b")
        self._ends = array("q", [0])  # where each text ends in its file

    def __enter__(self) -> "VectorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._vectors.close()
        self._texts.close()
        self.directory.cleanup()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, texts: list[str], vectors: np.ndarray) -> None:
        """Append ``texts`` and their ``vectors`` ``[len(texts), width]``."""
        self._texts.seek(0, os.SEEK_END)
        self._vectors.seek(0, os.SEEK_END)
        for text in texts:
            self._ends.append(self._ends[-1] + self._texts.write(text.encode()))
        self._vectors.write(np.ascontiguousarray(unit(vectors), dtype=np.float32).tobytes())

    def text(self, place: int) -> str:
        """The text number ``place``, from 0."""
        self._texts.seek(self._ends[place])
        return self._texts.read(self._ends[place + 1] - self._ends[place]).decode()

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """``(first place, vectors [rows, width])``, one block after the other."""
        self._vectors.flush()
        self._vectors.seek(0)
        start = 0
        while data := self._vectors.read(_BLOCK * self.width * 4):
            block = np.frombuffer(data, dtype=np.float32).reshape(-1, self.width)
            yield start, block
            start += len(block)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Divided by their lengths, so that dot products are cosines."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def top_k(queries: np.ndarray, corpus: VectorFile, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar vectors of the corpus; of equal ones the earlier first.

    Args:
        queries: ``[queries, width]``.
        corpus: what is searched.
        k: as many as there are, where the corpus is smaller.

    Returns:
        Cosines, the highest first, float32 ``[queries, k]``, and places in the corpus, int64 ``[queries, k]``.
    """
    queries = unit(queries).astype(np.float32)
    k = min(k, len(corpus))
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    places = np.zeros((len(queries), k), dtype=np.int64)
    for start, block in corpus.blocks():
        similarity = queries @ block.T
        better = similarity > scores[:, -1:]  # a later one that is only as good stays out
        for row in np.flatnonzero(better.any(axis=1)):
            found = np.flatnonzero(better[row])
            merged = np.concatenate([scores[row], similarity[row, found]])
            order = np.argsort(-merged, kind="stable")[:k]
            scores[row] = merged[order]
            places[row] = np.concatenate([places[row], start + found])[order]
    return scores, places


def ranks_of_positives(queries: np.ndarray, positives: list[list[int]], corpus: VectorFile) -> np.ndarray:
    """The place of each query's best positive among all candidates, from 1.

    Candidates as good as it stand before it, so that a model that takes all texts for the same finds nothing.

    Args:
        queries: ``[queries, width]``.
        positives: the places of each query's positives in the corpus; its other positives are no rivals.
        corpus: the candidates.
    """
    queries = unit(queries).astype(np.float32)
    owners = np.repeat(np.arange(len(positives)), [len(of_query) for of_query in positives])
    places = np.concatenate([np.asarray(of_query, dtype=np.int64) for of_query in positives])
    best = np.full(len(queries), -np.inf, dtype=np.float32)
    for start, block in corpus.blocks():
        here = (places >= start) & (places < start + len(block))
        np.maximum.at(best, owners[here], (queries[owners[here]] * block[places[here] - start]).sum(axis=1))
    ranks = np.ones(len(queries), dtype=np.int64)
    for start, block in corpus.blocks():
        here = (places >= start) & (places < start + len(block))
        similarity = queries @ block.T
        similarity[owners[here], places[here] - start] = -np.inf
        ranks += (similarity >= best[:, None] - _ROUNDING).sum(axis=1)
    return ranks
