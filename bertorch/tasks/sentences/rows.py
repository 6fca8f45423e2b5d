"""Rows for sentence vectors: scored pairs, and queries with a positive and hard negatives."""

import math
from functools import partial
from pathlib import Path

from bertorch.data.files import OBJECT_FORMATS, BadRows, find_format, read_cells
from bertorch.data.rows import Row, read_rows
from bertorch.data.tokenizing import Samples, TextTokenizer, tokenize_cached
from bertorch.errors import UserError

QUERY_KEYS = ("query", "pos", "neg")


def read_scored_pairs(
    path: str | Path,
    columns: str | None = None,
    bad_rows: str = "error",
    score_needed: bool = True,
    kind: str | None = None,
    encoding: str | None = None,
    columns_flag: str = "--columns",
) -> list[tuple[int, tuple[str, ...], float]]:
    """``(line, two texts, score)`` of each row; reads like ``read_rows``, with a number as label, nan if missing.

    Raises:
        UserError: as ``read_rows``, or a score is not a finite number.
    """
    bad = BadRows(path, bad_rows)
    rows = read_rows(
        path, True, None, columns, bad_rows, score_needed, kind=kind, encoding=encoding, columns_flag=columns_flag
    )
    pairs = [(row.line, row.texts, math.nan if row.label is None else score_of(row, bad)) for row in rows]
    bad.close()
    pairs = [pair for pair, row in zip(pairs, rows, strict=True) if row.label is None or not math.isnan(pair[2])]
    if not pairs:
        raise UserError(f"{path}: no row with a score in it")
    return pairs


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def score_of(row: Row, bad: BadRows) -> float:
    """The row's label as a number; if it is not one, nan, and the row counts as bad."""
    if row.label is not None and _is_number(row.label):
        return float(row.label)
    bad.add(row.line, f"score {str(row.label)[:30]!r} is not a number", "write one such as 3 or 0.75")
    return math.nan


def scored_samples(
    path: str | Path,
    encoder: TextTokenizer,
    columns: str | None = None,
    bad_rows: str = "error",
    score_needed: bool = True,
    cache_dir: str | None = None,
    kind: str | None = None,
    encoding: str | None = None,
    columns_flag: str = "--columns",
) -> Samples:
    """``read_scored_pairs``, tokenized: two sequences per row."""
    read_as = ("scored pairs", Path(path).suffixes, columns, bad_rows, score_needed, kind, encoding)
    rows = partial(read_scored_pairs, path, columns, bad_rows, score_needed, kind, encoding, columns_flag)
    return tokenize_cached(path, rows, encoder, read_as, cache_dir, separate=True)


def read_positives(
    path: str | Path,
    num_hard_negatives: int = 0,
    columns: str | None = None,
    bad_rows: str = "error",
    positive_label: str | None = None,
    negative_needed: bool = False,
    kind: str | None = None,
    encoding: str | None = None,
    columns_flag: str = "--columns",
) -> list[Row]:
    """Read rows of a text, its positive and up to ``num_hard_negatives`` hard negatives.

    Tab-separated and csv files have two columns, and perhaps a third with a hard negative, which may be empty; with
    ``positive_label`` the third is a label, and only rows with this label are read. Json lines and parquet hold the same,
    or ``anchor``, ``positive`` and perhaps ``negative``, or ``query`` with lists ``pos`` and ``neg``: each positive makes a
    row. ``negative_needed``: rows without a hard negative are bad rows. ``kind``: as in ``read_rows``. ``encoding``: of the
    file; None detects it.

    Raises:
        UserError: as ``read_rows``; or hard negatives are missing, or labels stand in their place.
    """
    wanted = len(columns.split(",")) if columns else 2 + (positive_label is not None)
    kind = kind or find_format(path, encoding, wanted)
    first = _first_keys(path, kind, encoding) if columns is None and kind in OBJECT_FORMATS else set()
    if {"anchor", "positive"} <= first:  # as sentence-transformers names them
        columns = ",".join(["anchor", "positive", *(["negative"] if "negative" in first else [])])
    if first & {"query", "pos"}:
        if positive_label is not None:
            raise UserError(
                f"{path}: --positive_label is for a third column, but these rows name their positives; leave it out"
            )
        rows = _read_queries(path, kind, bad_rows, encoding)
    else:
        read = read_rows(
            path,
            True,
            None,
            columns,
            bad_rows,
            label_needed=positive_label is not None,
            kind=kind,
            encoding=encoding,
            columns_flag=columns_flag,
        )
        if positive_label is not None:
            rows = [Row(row.line, row.texts, None) for row in read if row.label == positive_label]
            if not rows:
                raise UserError(f"{path}: no row has the label {positive_label!r} of --positive_label")
        else:
            third = {row.label for row in read if row.label}
            if third and all(_is_number(text) for text in third):
                raise UserError(
                    f"{path}:{read[0].line}: the third column holds labels where hard negatives are expected; "
                    "leave it out (run_batchneg.py --positive_label 1 trains on the rows with label 1)"
                )
            rows = [Row(row.line, (*row.texts, row.label) if row.label else row.texts, None) for row in read]
    if num_hard_negatives and not any(len(row.texts) > 2 for row in rows):
        raise UserError(f"{path}: no hard negatives in it; put them in the third column, or in a list under key 'neg'")
    if negative_needed:
        bad = BadRows(path, bad_rows)
        for row in rows:
            if len(row.texts) == 2:
                bad.add(row.line, "no hard negative", "add one or remove the row")
        bad.close()
        rows = [row for row in rows if len(row.texts) > 2]
    return [Row(row.line, row.texts[: 2 + num_hard_negatives], None) for row in rows]


def _first_keys(path: str | Path, kind: str, encoding: str | None) -> set[str]:
    rows = read_cells(path, BadRows(path, "skip"), kind=kind, encoding=encoding)
    return set(next((cells for _, cells in rows), {}))


def _read_queries(path: str | Path, kind: str, bad_rows: str, encoding: str | None) -> list[Row]:
    bad = BadRows(path, bad_rows)
    rows = []
    for line, cells in read_cells(path, bad, kind=kind, encoding=encoding):
        query, positives, negatives = (_texts(cells.get(key) or []) for key in QUERY_KEYS)
        if not query or not positives or negatives is None or len(query) != 1 or not all([*query, *positives, *negatives]):
            bad.add(line, "not a query with its positives", '{"query": "...", "pos": ["..."], "neg": ["..."]} is expected')
            continue
        rows += [Row(line, (query[0], positive, *negatives), None) for positive in positives]
    bad.close()
    if not rows:
        raise UserError(f"{path}: no rows in it" + (" that can be used" if bad.count else "; the file is empty"))
    return rows


def _texts(value: object) -> list[str] | None:
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values] if all(isinstance(text, str) for text in values) else None
