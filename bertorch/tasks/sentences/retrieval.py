"""Search of predict.py: the most similar lines of ``--corpus``, and recall of known positives."""

import argparse
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from bertorch.data.files import read_lines
from bertorch.data.rows import Row
from bertorch.errors import UserError
from bertorch.memory import give_back_memory
from bertorch.tasks.prediction import given_values, header, json_line, print_metrics, table_line, writes_json
from bertorch.tasks.sentences.predictor import Predictor
from bertorch.tasks.sentences.rows import read_positives
from bertorch.tasks.sentences.scores import retrieval_metrics
from bertorch.tasks.sentences.search import VectorFile, ranks_of_positives, top_k
from bertorch.tasks.streaming import Input, Output, answer_rows

_CORPUS_BLOCK = 16_384  # lines encoded at a time
_QUERY_BLOCK = 1_024


def _add(predictor: Predictor, corpus: VectorFile, texts: Iterable[str]) -> None:
    """Encode texts, block by block; of texts with the same tokens, only the first.

    Rounding depends on the batch, so encoding a text twice may give two different vectors.
    """
    texts = iter(texts)
    while block := list(islice(texts, _CORPUS_BLOCK)):
        samples = predictor.samples(block)
        same_as = corpus.first_places(np.split(samples.input_ids, samples.offsets[1:-1]))
        new = np.flatnonzero(same_as == len(corpus) + np.arange(len(block)))
        corpus.add(block, predictor.vectors(samples.take(new)) if len(new) else np.empty((0, corpus.width)), same_as)
        give_back_memory()


def _add_lines(
    predictor: Predictor, corpus: VectorFile, path: str, encoding: str | None, leave_out: Container[str] = ()
) -> array:
    """Encode the lines of a file; returns the line number of each text."""
    numbers = array("q")

    def texts() -> Iterator[str]:
        for number, line in read_lines(path, encoding=encoding):
            text = line.strip()
            if text and text not in leave_out:
                numbers.append(number)
                yield text

    _add(predictor, corpus, texts())
    return numbers


def search(args: argparse.Namespace, source: Input, predictor: Predictor, rows: Iterable[Row]) -> None:
    """Write the most similar lines of ``--corpus`` for each row, the nearest first.

    All processes encode the corpus together; each then searches for its own queries.
    """
    compute = predictor.compute
    with VectorFile(predictor.width) as corpus:
        numbers = _add_lines(predictor, corpus, args.corpus, args.encoding)
        if not numbers:
            raise UserError(f"{args.corpus}: no text in it; write one per line")
        alone = replace(predictor, compute=compute.alone)

        def answer(rows: Sequence[Row]) -> tuple[list[str], None]:
            return list(_hits(args, alone, rows, corpus, numbers)), None

        columns = ["query", "rank", "score", "line", "text", *["query_text"] * args.with_text]
        answer_rows(args, source, compute, rows, answer, Output(args, header(args, columns)), _QUERY_BLOCK, grow=False)


def _hits(
    args: argparse.Namespace, predictor: Predictor, rows: Sequence[Row], corpus: VectorFile, numbers: Sequence[int]
) -> Iterator[str]:
    """Lines of query line, rank, cosine, corpus line and text; in json lines, one object per query."""
    usable = [row for row in rows if row.texts]
    found = iter(())
    if usable:
        vectors = predictor.vectors(predictor.samples(row.texts[0] for row in usable))
        found = iter(zip(*top_k(vectors, corpus, args.top_k), strict=True))
    for row in rows:
        scores, places = next(found) if row.texts else ((), ())
        hits = [
            (round(float(score), 6), numbers[place], corpus.text(place)) for score, place in zip(scores, places, strict=True)
        ]
        if writes_json(args):
            hits = [{"score": score, "line": line, "text": text} for score, line, text in hits]
            yield json_line({"query": row.line, "hits": hits, **given_values(args, row, 1)})
        else:
            for rank, (score, line, text) in enumerate(hits, 1):
                cells = [str(row.line), str(rank), f"{score:.6f}", str(line), text]
                yield table_line([*cells, *list(row.texts) * args.with_text])


def evaluate_retrieval(args: argparse.Namespace, predictor: Predictor) -> None:
    """Recall and reciprocal rank of the positives among the positives of all queries and the lines of ``--corpus``."""
    if args.input_file is None:
        raise UserError("--evaluate on queries and positives needs --input_file")
    if args.output_file is not None:
        raise UserError("--output_file: --evaluate on queries and positives prints metrics and has no answers to write")
    positives: dict[str, list[str]] = {}
    for row in read_positives(
        args.input_file, 0, args.columns, args.bad_rows, kind=args.input_format, encoding=args.encoding
    ):
        positives.setdefault(row.texts[0], []).append(row.texts[1])
    places = {
        text: place for place, text in enumerate(dict.fromkeys(text for texts in positives.values() for text in texts))
    }
    with VectorFile(predictor.width) as corpus:
        _add(predictor, corpus, places)
        if args.corpus is not None:
            _add_lines(predictor, corpus, args.corpus, args.encoding, leave_out=places)
        queries = predictor.vectors(predictor.samples(positives))
        if predictor.compute.processes.is_main:
            wanted = [sorted({places[text] for text in texts}) for texts in positives.values()]
            ranks = [
                ranks_of_positives(queries[start : start + _QUERY_BLOCK], wanted[start : start + _QUERY_BLOCK], corpus)
                for start in range(0, len(queries), _QUERY_BLOCK)
            ]
            print(f"{len(positives)} queries, {len(corpus)} candidates")
            print_metrics(retrieval_metrics(np.concatenate(ranks)))
