"""Compare runs in a table: the flags that differ, and the figures."""

from collections.abc import Callable, Sequence
from typing import Any

from bertorch.errors import UserError
from bertorch.reporting.page import Html, table
from bertorch.reporting.runs import RunFiles, differing_flags, figures_of

_LESS_IS_BETTER = ("loss", "perplexity", "memory")

Rows = list[dict[str, Any]]


def comparison(runs: Sequence[RunFiles], flags: bool = True) -> tuple[list[str], Rows]:
    """Columns and rows of the table; unknown values are None.

    ``best METRIC`` and ``best step`` belong to the best evaluation by the run's ``--metric``; ``eval …`` are the figures of
    the last evaluation, ``test …`` those of the test set.
    """
    shown = differing_flags(runs) if flags else []
    rows = [_row(run, shown) for run in runs]
    order = ("run", "--", "best ", "eval ", "test ", "")
    names = dict.fromkeys(name for row in rows for name in row)
    columns = sorted(names, key=lambda name: next(place for place, start in enumerate(order) if name.startswith(start)))
    return columns, rows


def _row(run: RunFiles, flags: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, **{f"--{name}": run.flags.get(name) for name in flags}}
    if run.best:
        row |= {f"best {run.metric}": run.best[run.metric], "best step": run.best["global_step"]}
    for kind, line in (("eval", run.last), ("test", run.test)):
        row |= {f"{kind} {name}": value for name, value in figures_of(line).items()}
    return row | {"steps": run.steps, "steps/s": run.steps_per_second, "peak MB": run.peak_memory_mb}


def comparison_table(runs: Sequence[RunFiles]) -> Html:
    columns, rows = comparison(runs, flags=False)
    return table(columns, ([row.get(column) for column in columns] for row in rows))


def sorted_by(columns: Sequence[str], rows: Rows, metric: str) -> Rows:
    """Sort the rows by ``metric``, the best first, rows without it last.

    Args:
        columns, rows: the table.
        metric: a column, or the name of a figure, taken from the best evaluation, else the last one, else the test.

    Raises:
        UserError: no run has this metric.
    """
    names = [metric, *(f"{kind} {metric}" for kind in ("best", "eval", "test"))]
    column = next((name for name in names if name in columns), None)
    if column is None:
        raise UserError(f"--sort {metric}: no run has this metric; known are {', '.join(columns[1:])}")
    sign = 1 if any(word in column for word in _LESS_IS_BETTER) or column == "peak MB" else -1

    def key(row: dict[str, Any]) -> tuple[bool, Any]:
        value = row.get(column)
        known = isinstance(value, int | float) and value == value
        return not known, sign * value if known else 0

    return sorted(rows, key=key)


def as_text(columns: Sequence[str], rows: Rows) -> str:
    """Aligned columns for a terminal; numbers are aligned right."""
    written = _written(columns, rows, _short)
    widths = [max(_width(line[place]) for line in written) for place in range(len(columns))]
    right = [all(not isinstance(row.get(name), str | list) for row in rows) for name in columns]

    def padded(text: str, width: int, at_right: bool) -> str:
        blank = " " * (width - _width(text))
        return blank + text if at_right else text + blank

    return "\n".join("  ".join(map(padded, line, widths, right)).rstrip() for line in written)


def _width(text: str) -> int:
    """Width on a terminal, where a Chinese character takes two columns."""
    return sum(1 + (sign >= "\u2e80") for sign in text)


def as_tsv(columns: Sequence[str], rows: Rows) -> str:
    """Tab-separated, for programs: full precision; tabs and line ends within a value become spaces."""
    return "\n".join("\t".join(" ".join(cell.split()) for cell in line) for line in _written(columns, rows, _whole))


def as_markdown(columns: Sequence[str], rows: Rows) -> str:
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in _written(columns, rows, _short)]
    lines.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


FORMATS: dict[str, Callable[[Sequence[str], Rows], str]] = {"text": as_text, "tsv": as_tsv, "markdown": as_markdown}


def _written(columns: Sequence[str], rows: Rows, write: Callable[[Any], str]) -> list[list[str]]:
    """The header and the rows as text: flags as they were given, figures formatted by ``write``."""

    def cell(name: str, value: Any) -> str:
        return "-" if value is None and write is _short else (_whole if name.startswith("--") else write)(value)

    return [list(columns), *([cell(name, row.get(name)) for name in columns] for row in rows)]


def _whole(value: Any) -> str:
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: Any) -> str:
    if not isinstance(value, float) or 0 < abs(value) < 0.001:
        return _whole(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"
