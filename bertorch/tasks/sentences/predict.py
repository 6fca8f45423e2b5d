"""Predict sentence vectors, and similarities or classes of pairs; search is in ``retrieval.py``."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from bertorch.data.files import BadRows, as_stream, find_format, read_cells
from bertorch.data.rows import JSON_TEXT_KEYS, Row
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.tasks.classification.attribution import explain_rows
from bertorch.tasks.classification.explanations import NOT_EXPLAINED, explanation_lines
from bertorch.tasks.classification.scores import per_class_table
from bertorch.tasks.classification.targets import OneLabel
from bertorch.tasks.prediction import (
    input_format,
    json_line,
    label_lines,
    load_rows,
    print_metrics,
    standard_input,
    write_lines,
    writes_json,
)
from bertorch.tasks.sentences.predictor import Predictor
from bertorch.tasks.sentences.retrieval import evaluate_retrieval, search
from bertorch.tasks.sentences.rows import QUERY_KEYS, score_of
from bertorch.tasks.sentences.scores import (
    check_scores,
    cosines,
    label_scores,
    pair_class_metrics,
    similarity_metrics,
)
from bertorch.training.inference import Compute
from bertorch.writing import write_whole


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write vectors of texts, cosines or classes of pairs, or the most similar lines of ``--corpus``."""
    predictor = Predictor.open(
        directory, compute, args.pooling_mode, args.normalize, args.init_from_ckpt, args.max_seq_length, args.truncation
    )
    if args.output_emb_size not in (None, predictor.width):
        raise UserError(f"--output_emb_size {args.output_emb_size}: this model's vectors have width {predictor.width}")
    piped = b"" if args.input_file else standard_input()
    kind = _kind_of_rows(args, piped)
    if str(args.output_file).endswith(".npy") and (kind != "texts" or args.corpus is not None):
        raise UserError(f"--output_file {args.output_file}: .npy is for the vectors of texts; use .tsv or .jsonl")
    if args.explain and (kind != "pairs" or args.corpus is not None):
        raise UserError(f"{NOT_EXPLAINED}the answers here are not classes of pairs")
    if args.evaluate and kind == "texts":
        raise UserError(
            "--evaluate needs scored pairs, text TAB text TAB score, or queries with their positives; with --columns "
            "say --is_text_pair too"
        )
    if args.evaluate and (kind == "queries" or (kind == "pairs" and not _has_labels(args, piped))):
        evaluate_retrieval(args, predictor)
    elif args.corpus is not None:
        search(args, predictor, load_rows(args, False, None, False, piped))
    elif kind == "pairs":
        _predict_pairs(args, predictor, load_rows(args, True, None, args.evaluate, piped))
    else:
        _write_vectors(args, predictor, load_rows(args, False, None, False, piped))


def _kind_of_rows(args: argparse.Namespace, piped: bytes) -> str:
    """``pairs``, ``texts`` or ``queries`` (json lines with lists of positives); the flags or the first row decide."""
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
    kind = input_format(args) or find_format(path, args.encoding)
    for line, cells in read_cells(path, BadRows(path, "skip"), stream, kind, encoding=args.encoding):
        return line, cells
    raise UserError(f"{path}: no rows in it; the file is empty")


def _predict_pairs(args: argparse.Namespace, predictor: Predictor, rows: list[Row]) -> None:
    processes, labels = predictor.compute.processes, predictor.description.labels
    samples = predictor.pair_samples(rows)
    u, v = predictor.pair_vectors(samples)
    similarities = cosines(u, v)
    given = [row.label for row in rows if row.texts]
    graded = args.evaluate and label_scores(given) is not None and not set(given) <= set(labels or ())
    if not predictor.description.has_classes or graded:
        if args.explain:
            raise UserError(f"{NOT_EXPLAINED}the answers here are cosines")
        if processes.is_main:
            if args.evaluate:
                scores = _scores(args, rows)
                known = ~np.isnan(scores)
                print_metrics(similarity_metrics(similarities[known], scores[known]))
            write_lines(args, _cosine_lines(args, rows, similarities))
        return
    logits = predictor.logits(u, v)
    if args.explain:
        model = predictor.pair

        def of_points(tokens: TokenBatch) -> Tensor:  # copies of the first text, then of the second
            return model.logits(*model.sentence(tokens).chunk(2))

        steps = args.explain_steps
        explained = explain_rows(model, of_points, rows, samples, logits, predictor.tokenizer, steps, processes)
    if processes.is_main:
        if args.evaluate:
            truth = _label_ids(args, rows, labels)
            known = truth >= 0
            print_metrics(pair_class_metrics(logits[known], similarities[known], truth[known], labels))
            print(per_class_table(logits[known].argmax(axis=1), truth[known], labels))
        if args.explain:
            write_lines(args, explanation_lines(args, rows, labels, explained))
        else:
            write_lines(args, label_lines(args, rows, labels, OneLabel(labels).answers(logits)))


def _scores(args: argparse.Namespace, rows: list[Row]) -> np.ndarray:
    path = args.input_file or "<stdin>"
    bad = BadRows(path, args.bad_rows)
    scores = np.array([score_of(row, bad) for row in rows if row.texts])
    bad.close()
    check_scores(scores[~np.isnan(scores)], "spearman", path)
    return scores


def _label_ids(args: argparse.Namespace, rows: list[Row], labels: list[str]) -> np.ndarray:
    """Label ids; an unknown label gives -1 and counts as a bad row."""
    bad = BadRows(args.input_file or "<stdin>", args.bad_rows)
    ids = []
    for row in rows:
        if row.texts:
            ids.append(labels.index(row.label) if row.label in labels else -1)
            if ids[-1] < 0:
                bad.add(
                    row.line, f"label {str(row.label)[:30]!r} is not one of the model's", f"known are {', '.join(labels)}"
                )
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


def _write_vectors(args: argparse.Namespace, predictor: Predictor, rows: list[Row]) -> None:
    """Write ``.npy``, with nan for an unusable row; or json lines, with null."""
    usable = np.array([bool(row.texts) for row in rows])
    vectors = np.full((len(rows), predictor.width), np.nan, dtype=np.float32)
    vectors[usable] = predictor.vectors(predictor.samples(row.texts[0] for row in rows if row.texts))
    if not predictor.compute.processes.is_main:
        return
    if str(args.output_file).endswith(".npy"):
        write_whole(Path(args.output_file), lambda unfinished: _save_array(unfinished, vectors))
        return
    lines = ({"vector": vector.tolist() if known else None} for vector, known in zip(vectors, usable, strict=True))
    write_lines(args, map(json_line, lines))


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as handle:  # given a path, np.save would add an ending
        np.save(handle, array, allow_pickle=False)
