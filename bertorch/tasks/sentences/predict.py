"""Sentence vectors, similarities of pairs, and search."""

import argparse
from array import array
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from scipy.special import softmax
from torch import Tensor

from bertorch.data.files import BadRows, as_stream, file_format, read_cells, read_lines
from bertorch.data.rows import JSON_TEXT_KEYS, Row
from bertorch.data.tokenizing import Samples, TextTokenizer, tokenize
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.memory import give_back_memory
from bertorch.tasks.classification.attribution import explain_rows
from bertorch.tasks.classification.explanations import NOT_EXPLAINED, explanation_lines
from bertorch.tasks.classification.scores import per_class_table
from bertorch.tasks.prediction import (
    input_format,
    json_line,
    label_lines,
    load_rows,
    print_metrics,
    standard_input,
    text_encoder,
    write_lines,
    writes_json,
)
from bertorch.tasks.sentences.directory import (
    MODULES,
    load_sentence_encoder,
    plain_sentence_encoder,
    transformer_directory,
)
from bertorch.tasks.sentences.encoder import SentenceEncoder
from bertorch.tasks.sentences.pair import trained_pair
from bertorch.tasks.sentences.rows import QUERY_KEYS, read_positives, score_of
from bertorch.tasks.sentences.scores import (
    check_scores,
    label_scores,
    pair_class_metrics,
    retrieval_metrics,
    similarity_metrics,
)
from bertorch.tasks.sentences.search import VectorFile, ranks_of_positives, top_k
from bertorch.training.checkpoints import write_whole
from bertorch.training.inference import compute, pair_cosines, pair_logits
from bertorch.training.process_group import Processes

_CORPUS_BLOCK = 16_384  # lines encoded at a time
_QUERY_BLOCK = 1_024


def predict_sentences(args: argparse.Namespace, directory: Path, description: dict[str, Any], processes: Processes) -> None:
    """Vectors of texts, cosines or classes of pairs, or the most similar lines of ``--corpus``."""
    sentence, length = _load(args, directory, description)
    if args.output_emb_size not in (None, sentence.output_size):
        raise UserError(f"--output_emb_size {args.output_emb_size}: this model's vectors have width {sentence.output_size}")
    sentence.to(processes.device)
    sentence.normalize = sentence.normalize or args.normalize
    encoder = text_encoder(args, transformer_directory(directory), description, length)
    task = _Task(args, sentence, encoder, processes)
    piped = b"" if args.input_file else standard_input()
    kind = _kind_of_rows(args, piped)
    if str(args.output_file).endswith(".npy") and (kind != "texts" or args.corpus is not None):
        raise UserError(f"--output_file {args.output_file}: .npy is for the vectors of texts; use .tsv or .jsonl")
    if args.explain and (kind != "pairs" or args.corpus is not None):
        raise UserError(f"{NOT_EXPLAINED}the answers here are no classes of pairs")
    if args.evaluate and kind == "texts":
        raise UserError(
            "--evaluate needs scored pairs, text TAB text TAB score, or queries with their positives; with --columns "
            "say --is_text_pair too"
        )
    if args.evaluate and (kind == "queries" or (kind == "pairs" and not _has_labels(args, piped))):
        _evaluate_retrieval(task)
    elif args.corpus is not None:
        _search(task, piped)
    elif kind == "pairs":
        _predict_pairs(task, piped, directory, description)
    else:
        _write_vectors(task, load_rows(args, False, None, False, piped))


class _Task:
    """The flags, the model and how it reads: what every answer here needs."""

    def __init__(self, args: argparse.Namespace, sentence: SentenceEncoder, encoder: TextTokenizer, processes: Processes):
        self.args, self.sentence, self.encoder, self.processes = args, sentence, encoder, processes

    def samples(self, texts: Iterable[str]) -> Samples:
        return tokenize(((line, (text,), -1) for line, text in enumerate(texts, 1)), self.encoder)

    def vectors(self, samples: Samples) -> np.ndarray:
        """``[rows, width]``, on every rank."""
        how = (self.args.batch_size, self.processes, self.args.precision)
        return compute(self.sentence, self.sentence, samples, *how)


def _load(args: argparse.Namespace, directory: Path, description: dict[str, Any]) -> tuple[SentenceEncoder, int | None]:
    in_parts = (directory / MODULES).is_file()
    if in_parts and args.pooling_mode is None and args.init_from_ckpt is None:
        return load_sentence_encoder(directory)
    mode = args.pooling_mode
    if mode is None and (in_parts or description):
        raise UserError("--init_from_ckpt gives an encoder; say how its vectors are made, with --pooling_mode mean for one")
    if mode is None:
        mode = "linear"
        logger.info(f"{args.init_from_ckpt or directory}: of the original bertorch; --pooling_mode linear, its default")
    return plain_sentence_encoder(directory, mode, args.init_from_ckpt), None


def _kind_of_rows(args: argparse.Namespace, piped: bytes) -> str:
    """``pairs``, ``texts`` or ``queries`` (json lines with lists of positives), by the flags or by the first row."""
    if args.corpus is not None and not args.evaluate:
        return "texts"
    if args.is_text_pair or args.columns is not None:
        return "pairs" if args.is_text_pair else "texts"
    _, first = _first_row(args, piped)
    if isinstance(first, dict):
        if all(key in first for key in QUERY_KEYS[:2]):
            return "queries"
        return "pairs" if any(all(key in first for key in keys) for keys in JSON_TEXT_KEYS[2]) else "texts"
    return "pairs" if len(first) > 1 else "texts"


def _has_labels(args: argparse.Namespace, piped: bytes) -> bool:
    if args.columns is not None:
        return len([name for name in args.columns.split(",") if name != "_"]) > 2
    _, first = _first_row(args, piped)
    return "label" in first if isinstance(first, dict) else len(first) > 2


def _first_row(args: argparse.Namespace, piped: bytes) -> tuple[int, list[str] | dict[str, object]]:
    path = args.input_file or "<stdin>"
    stream = None if args.input_file else as_stream(piped)
    kind = input_format(args) or file_format(path)
    for line, cells in read_cells(path, BadRows(path, "skip"), stream, kind):
        return line, cells
    raise UserError(f"{path}: no rows in it; the file is empty")


def _predict_pairs(task: _Task, piped: bytes, directory: Path, description: dict[str, Any]) -> None:
    args, processes = task.args, task.processes
    rows = load_rows(args, True, None, args.evaluate, piped)
    samples = tokenize(((row.line, row.texts, -1) for row in rows if row.texts), task.encoder, separate=True)
    given = [row.label for row in rows if row.texts]
    labels = description.get("labels") if description.get("objective") == "softmax" and args.pooling_mode is None else None
    how = (samples, args.batch_size, processes, args.precision)
    graded = args.evaluate and label_scores(given) is not None and not set(given) <= set(labels or ())
    if labels is None or graded:
        if args.explain:
            raise UserError(f"{NOT_EXPLAINED}the answers here are cosines")
        cosines = pair_cosines(task.sentence, *how)
        if processes.is_main:
            if args.evaluate:
                scores = _scores(args, rows)
                known = ~np.isnan(scores)
                print_metrics(similarity_metrics(cosines[known], scores[known]))
            write_lines(args, _cosine_lines(args, rows, cosines))
        return
    model = trained_pair(task.sentence, directory, len(labels), description["concat_multiply"]).to(processes.device)
    logits, cosines = pair_logits(model, *how)
    if args.explain:

        def of_points(tokens: TokenBatch) -> Tensor:  # copies of the first text, then as many of the second
            return model.logits(*model.sentence(tokens).chunk(2))

        explained = explain_rows(model, of_points, rows, samples, logits, task.encoder, args.explain_steps, processes)
    if processes.is_main:
        if args.evaluate:
            truth = _label_ids(args, rows, labels)
            known = truth >= 0
            print_metrics(pair_class_metrics(logits[known], cosines[known], truth[known], labels))
            print(per_class_table(logits[known].argmax(axis=1), truth[known], labels))
        if args.explain:
            write_lines(args, explanation_lines(args, rows, labels, explained))
        else:
            write_lines(args, label_lines(args, rows, labels, softmax(logits.astype(np.float64), axis=1)))


def _scores(args: argparse.Namespace, rows: list[Row]) -> np.ndarray:
    path = args.input_file or "<stdin>"
    bad = BadRows(path, args.bad_rows)
    scores = np.array([score_of(row, bad) for row in rows if row.texts])
    bad.close()
    check_scores(scores[~np.isnan(scores)], "spearman", path)
    return scores


def _label_ids(args: argparse.Namespace, rows: list[Row], labels: list[str]) -> np.ndarray:
    """-1, and a bad row, for a label that the model does not know."""
    bad = BadRows(args.input_file or "<stdin>", args.bad_rows)
    ids = []
    for row in rows:
        if row.texts:
            ids.append(labels.index(row.label) if row.label in labels else -1)
            if ids[-1] < 0:
                bad.add(row.line, f"label {str(row.label)[:30]!r} is none of the model's", f"known are {', '.join(labels)}")
    bad.close()
    return np.array(ids)


def _cosine_lines(args: argparse.Namespace, rows: list[Row], cosines: np.ndarray) -> Iterator[str]:
    answers = iter(cosines)
    for row in rows:
        cosine = next(answers) if row.texts else None
        if writes_json(args):
            yield json_line({"similarity": None if cosine is None else round(float(cosine), 6)})
        else:
            yield "\n" if cosine is None else f"{cosine:.6f}\n"


def _write_vectors(task: _Task, rows: list[Row]) -> None:
    """``.npy``, a row of nan for a row that could not be used; or json lines, null for such a row."""
    args = task.args
    usable = np.array([bool(row.texts) for row in rows])
    vectors = np.full((len(rows), task.sentence.output_size), np.nan, dtype=np.float32)
    vectors[usable] = task.vectors(task.samples(row.texts[0] for row in rows if row.texts))
    if not task.processes.is_main:
        return
    if str(args.output_file).endswith(".npy"):
        write_whole(Path(args.output_file), lambda unfinished: _save_array(unfinished, vectors))
        return
    lines = ({"vector": vector.tolist() if known else None} for vector, known in zip(vectors, usable, strict=True))
    write_lines(args, map(json_line, lines))


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as handle:  # np.save would add an ending to a bare path
        np.save(handle, array, allow_pickle=False)


def _add(task: _Task, corpus: VectorFile, texts: Iterable[str]) -> None:
    """Encode texts, block by block, and of those that are the same tokens to the model the first only.

    Rounding depends on the batch, so encoding a text twice may give two vectors.
    """
    texts = iter(texts)
    while block := list(islice(texts, _CORPUS_BLOCK)):
        samples = task.samples(block)
        same_as = corpus.first_places(np.split(samples.input_ids, samples.offsets[1:-1]))
        new = np.flatnonzero(same_as == len(corpus) + np.arange(len(block)))
        corpus.add(block, task.vectors(samples.take(new)) if len(new) else np.empty((0, corpus.width)), same_as)
        give_back_memory()


def _add_lines(task: _Task, corpus: VectorFile, path: str, leave_out: Container[str] = ()) -> array:
    """Encode the lines of a file; returns the line number of each text."""
    numbers = array("q")

    def texts() -> Iterator[str]:
        for number, line in read_lines(path):
            text = line.strip()
            if text and text not in leave_out:
                numbers.append(number)
                yield text

    _add(task, corpus, texts())
    return numbers


def _search(task: _Task, piped: bytes) -> None:
    rows = load_rows(task.args, False, None, False, piped)
    with VectorFile(task.sentence.output_size) as corpus:
        numbers = _add_lines(task, corpus, task.args.corpus)
        if not numbers:
            raise UserError(f"{task.args.corpus}: no text in it; write one a line")
        lines = _hits(task, rows, corpus, numbers)
        if task.processes.is_main:
            write_lines(task.args, lines)
        else:
            for _ in lines:  # encodes its share of the queries
                pass


def _hits(task: _Task, rows: list[Row], corpus: VectorFile, numbers: list[int]) -> Iterator[str]:
    """Query line, rank, cosine, corpus line and its text; for json lines an object a query."""
    rows = iter(rows)
    while block := list(islice(rows, _QUERY_BLOCK)):
        usable = [row for row in block if row.texts]
        found = iter(())
        if usable:
            vectors = task.vectors(task.samples(row.texts[0] for row in usable))
            if task.processes.is_main:
                found = iter(zip(*top_k(vectors, corpus, task.args.top_k), strict=True))
        for row in block:
            scores, places = next(found, ((), ())) if row.texts else ((), ())
            hits = [
                (round(float(score), 6), numbers[place], corpus.text(place))
                for score, place in zip(scores, places, strict=True)
            ]
            if writes_json(task.args):
                hits = [{"score": score, "line": line, "text": text} for score, line, text in hits]
                yield json_line({"query": row.line, "hits": hits})
            else:
                for rank, (score, line, text) in enumerate(hits, 1):
                    shown = text.replace("\t", " ")
                    yield f"{row.line}\t{rank}\t{score:.6f}\t{line}\t{shown}\n"


def _evaluate_retrieval(task: _Task) -> None:
    """Recall and reciprocal rank of the positives among the positives of all queries and the lines of ``--corpus``."""
    args = task.args
    if args.input_file is None:
        raise UserError("--evaluate on queries and positives needs --input_file")
    if args.output_file is not None:
        raise UserError("--output_file: --evaluate on queries and positives prints figures and has no answers to write")
    positives: dict[str, list[str]] = {}
    for row in read_positives(args.input_file, 0, args.columns, args.bad_rows, kind=args.input_format):
        positives.setdefault(row.texts[0], []).append(row.texts[1])
    places = {
        text: place for place, text in enumerate(dict.fromkeys(text for texts in positives.values() for text in texts))
    }
    with VectorFile(task.sentence.output_size) as corpus:
        _add(task, corpus, places)
        if args.corpus is not None:
            _add_lines(task, corpus, args.corpus, leave_out=places)
        queries = task.vectors(task.samples(positives))
        if task.processes.is_main:
            wanted = [sorted({places[text] for text in texts}) for texts in positives.values()]
            ranks = [
                ranks_of_positives(queries[start : start + _QUERY_BLOCK], wanted[start : start + _QUERY_BLOCK], corpus)
                for start in range(0, len(queries), _QUERY_BLOCK)
            ]
            print(f"{len(positives)} queries, {len(corpus)} candidates")
            print_metrics(retrieval_metrics(np.concatenate(ranks)))
