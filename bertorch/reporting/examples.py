"""Examples in a report: the tokens of a row, and a table that folds away most rows."""

from collections.abc import Sequence
from typing import Any

from bertorch.data.tokenizing import Samples
from bertorch.reporting.page import Html, folded, table

_SHOWN = 15  # examples before the fold


def row_tokens(samples: Samples, row: int) -> list[int]:
    """The token ids of all sequences of a row."""
    start, end = samples.offsets[samples.row_starts[row]], samples.offsets[samples.row_starts[row + 1]]
    return samples.input_ids[start:end].tolist()


def examples_table(head: Sequence[str], rows: Sequence[Sequence[Any]], texts: Sequence[int]) -> list[Html]:
    """A table of the first rows; the others are folded away."""
    parts = [table(head, rows[:_SHOWN], texts)]
    if len(rows) > _SHOWN:
        parts.append(folded(f"{len(rows) - _SHOWN} more", table(head, rows[_SHOWN:], texts)))
    return parts
