"""Predict sentence vectors, and similarities or classes of pairs; search is in ``retrieval.py``."""

import argparse
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bertorch.data.files import BadRows, find_format, read_cells
from bertorch.data.rows import JSON_TEXT_KEYS, Row
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.tasks.classification.attribution import EXPLAINED_AT_ONCE, explain_rows, gaps_of, report_gaps
from bertorch.tasks.classification.explanations import NOT_EXPLAINED, explanation_lines, explanation_output
from bertorch.tasks.classification.scores import per_class_table
from bertorch.tasks.classification.targets import OneLabel
from bertorch.tasks.prediction import (
    given_cells,
    given_names,
    given_rows,
    given_values,
    header,
    json_line,
    label_lines,
    label_names,
    print_metrics,
    table_line,
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
from bertorch.tasks.streaming import ArrayOutput, Input, Output, answer_rows, open_input, writes
from bertorch.training.inference import Compute


def predict(args: argparse.Namespace, directory: Path, compute: Compute) -> None:
    """Write vectors of texts, cosines or classes of pairs, or the most similar lines of ``--corpus``."""
    predictor = Predictor.open(
        directory, compute, args.pooling_mode, args.normalize, args.init_from_ckpt, args.max_seq_length, args.truncation
    )
    if args.output_emb_size not in (None, predictor.width):
        raise UserError(f"--output_emb_size {args.output_emb_size}: this model's vectors have width {predictor.width}")
    source = open_input(args)
    kind = _kind_of_rows(args, source)
    of_texts = str(args.output_file).endswith(".npy")
    if of_texts and (kind != "texts" or args.corpus is not None):
        raise UserError(f"--output_file {args.output_file}: .npy is for the vectors of texts; use .tsv or .jsonl")
    if of_texts and (args.with_text or args.with_label):
        raise UserError(f"--output_file {args.output_file}: .npy holds vectors alone; use .jsonl for texts or labels too")
    if args.explain and (kind != "pairs" or args.corpus is not None):
        raise UserError(f"{NOT_EXPLAINED}the answers here are not classes of pairs")
    if args.evaluate and kind == "texts":
        raise UserError(
            "--evaluate needs scored pairs, text TAB text TAB score, or queries with their positives; with --columns "
            "say --is_text_pair too"
        )
    if args.evaluate and (kind == "queries" or (kind == "pairs" and not _has_labels(args, source))):
        evaluate_retrieval(args, predictor)
        return
    searched = args.corpus is not None
    rows = given_rows(args, source, kind == "pairs" and not searched, label_needed=args.evaluate and not searched)
    if searched:
        search(args, source, predictor, rows)
        return
    predictor = replace(predictor, compute=compute.alone)
    if kind == "pairs":
        _predict_pairs(args, source, compute, predictor, rows)
    else:
        _write_vectors(args, source, compute, predictor, rows)


def _kind_of_rows(args: argparse.Namespace, source: Input) -> str:
    """``pairs``, ``texts`` or ``queries`` (json lines with lists of positives); the flags or the first row decide."""
    if (args.corpus is not None and not args.evaluate) or source.kind == "text":
        return "texts"
    if args.is_text_pair or args.columns is not None:
        return "pairs" if args.is_text_pair else "texts"
    first = _first_row(args, source)
    if isinstance(first, dict):
        if all(key in first for key in QUERY_KEYS[:2]):
            return "queries"
        return "pairs" if any(all(key in first for key in keys) for keys in JSON_TEXT_KEYS[2]) else "texts"
    return "pairs" if len(first) > 1 else "texts"


def _has_labels(args: argparse.Namespace, source: Input) -> bool:
    if args.columns is not None:
        return len([name for name in args.columns.split(",") if name != "_"]) > 2
    first = _first_row(args, source)
    return "label" in first if isinstance(first, dict) else len(first) > 2


def _first_row(args: argparse.Namespace, source: Input) -> list[str] | dict[str, object]:
    stream, encoding = None, args.encoding
    if source.flows:
        stream, encoding = io.BytesIO(source.first.encode()), "utf-8"
        kind = source.kind or "tsv"
    else:
        kind = source.kind or find_format(source.path, args.encoding)
    for _, cells in read_cells(source.path, BadRows(source.path, "skip"), stream, kind, encoding=encoding):
        return cells
    raise UserError(f"{source.path}: no rows in it; the file is empty")


def _predict_pairs(
    args: argparse.Namespace, source: Input, compute: Compute, predictor: Predictor, rows: Iterable[Row]
) -> None:
    labels, has_classes, truth = predictor.description.labels, predictor.description.has_classes, None
    if args.evaluate:  # all labels say whether they are classes or scores
        rows = list(rows)
        given = [row.label for row in rows if row.texts]
        graded = not has_classes or (label_scores(given) is not None and not set(given) <= set(labels or ()))
        truth = _scores(args, rows) if graded else _label_ids(args, rows, labels)
        has_classes = not graded
    if args.explain and not has_classes:
        raise UserError(f"{NOT_EXPLAINED}the answers here are cosines")

    def answer(rows: Sequence[Row]) -> tuple[list[str], Any]:
        samples = predictor.pair_samples(rows)
        u, v = predictor.pair_vectors(samples) if len(samples) else np.empty((2, 0, predictor.width), np.float32)
        similarities = cosines(u, v)
        if not has_classes:
            return _cosine_lines(args, rows, similarities) if writes(args) else [], (similarities, None, [])
        logits = predictor.logits(u, v)
        if args.explain:
            model = predictor.pair

            def of_points(tokens: TokenBatch) -> Tensor:  # copies of the first text, then of the second
                return model.logits(*model.sentence(tokens).chunk(2))

            explained = explain_rows(model, of_points, rows, samples, logits, predictor.tokenizer, args.explain_steps)
            gaps = gaps_of(rows, explained)
            return explanation_lines(args, rows, labels, explained, 2), (similarities, logits, gaps)
        answers = OneLabel(labels).answers(logits) if len(samples) else ()
        return label_lines(args, rows, labels, answers, 2) if writes(args) else [], (similarities, logits, [])

    output, most = Output(args, header(args, ["similarity", *given_names(args, 2)])), None
    if args.explain:
        output, most = explanation_output(args, labels, 2), EXPLAINED_AT_ONCE
    elif has_classes:
        output = Output(args, header(args, label_names(args, labels, 2)))
    kept = answer_rows(args, source, compute, rows, answer, output, most)
    if not compute.processes.is_main:
        return
    if args.explain:
        gaps = [gap for _, _, gaps in kept for gap in gaps]
        report_gaps(gaps, predictor.tokenizer.max_seq_length, args.explain_steps)
    if not args.evaluate:
        return
    similarities = np.concatenate([one for one, _, _ in kept])
    if has_classes:
        logits, known = np.concatenate([one for _, one, _ in kept]), truth >= 0
        print_metrics(pair_class_metrics(logits[known], similarities[known], truth[known], labels))
        print(per_class_table(logits[known].argmax(axis=1), truth[known], labels))
    else:
        known = ~np.isnan(truth)
        print_metrics(similarity_metrics(similarities[known], truth[known]))


def _scores(args: argparse.Namespace, rows: list[Row]) -> np.ndarray:
    """Scores of the rows that have texts; nan for one that is not a number, which counts as a bad row."""
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


def _cosine_lines(args: argparse.Namespace, rows: Sequence[Row], cosines: np.ndarray) -> list[str]:
    answers, lines = iter(cosines), []
    for row in rows:
        cosine = next(answers) if row.texts else None
        if writes_json(args):
            shown = {"similarity": None if cosine is None else round(float(cosine), 6)}
            lines.append(json_line({**shown, **given_values(args, row, 2)}))
        else:
            lines.append(table_line(["" if cosine is None else f"{cosine:.6f}", *given_cells(args, row, 2)]))
    return lines


def _write_vectors(
    args: argparse.Namespace, source: Input, compute: Compute, predictor: Predictor, rows: Iterable[Row]
) -> None:
    """Write ``.npy``, with nan for an unusable row; or json lines, with null."""
    as_array = str(args.output_file).endswith(".npy")

    def answer(rows: Sequence[Row]) -> tuple[Any, None]:
        usable = np.array([bool(row.texts) for row in rows])
        vectors = np.full((len(rows), predictor.width), np.nan, dtype=np.float32)
        if usable.any():
            vectors[usable] = predictor.vectors(predictor.samples(row.texts[0] for row in rows if row.texts))
        if as_array:
            return vectors, None
        return [
            json_line({"vector": vector.tolist() if known else None, **given_values(args, row, 1)})
            for row, vector, known in zip(rows, vectors, usable, strict=True)
        ], None

    answer_rows(args, source, compute, rows, answer, ArrayOutput(args, predictor.width) if as_array else Output(args))
