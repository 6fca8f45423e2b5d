"""The report of a run, or the comparison of several: a single HTML file that loads nothing."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from loguru import logger

from bertorch.errors import Interrupted
from bertorch.reporting.charts import curves
from bertorch.reporting.comparison import comparison_table
from bertorch.reporting.page import Html, barred, chosen_rows, folded, join, legend, note, number, page, percent, table, tag
from bertorch.reporting.runs import REPORT, RunFiles, differing_flags, figures_of, find_runs
from bertorch.tasks.table import TASKS, part
from bertorch.writing import write_whole

# The training figures to draw first, and their titles; other figures follow under their own names.
_TRAINING = {
    "loss": "loss",
    "accuracy": "accuracy",
    "learning_rate": "learning rate",
    "steps_per_second": "speed, steps a second",
    "peak_memory_mb": "peak memory, MB",
}
# The last part of a figure's name -> its lowest and highest possible value.
_BOUNDS = dict.fromkeys(("accuracy", "f1", "precision", "recall", "em", "average", "mrr"), (0.0, 1.0))
_BOUNDS |= dict.fromkeys(("spearman", "pearson", "matthews"), (-1.0, 1.0))


def write_report(directories: Sequence[str | Path], output_file: str | Path) -> int:
    """Write the report of the runs in these directories (see ``find_runs``); return the number of runs.

    Raises:
        UserError: a directory does not exist, or contains no run.
    """
    runs = find_runs(directories)
    text = run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    write_whole(Path(output_file), lambda unfinished: unfinished.write_text(text, encoding="utf-8", errors="replace"))
    return len(runs)


def report_finished(directories: Sequence[str | Path], directory: str | Path) -> None:
    """Write the report into ``directory`` at the end of a run. A failure only logs a warning: the run is already saved."""
    try:
        write_report(directories, Path(directory) / REPORT)
        logger.info(f"the report of the run is in {Path(directory) / REPORT}")
    except Interrupted:
        raise
    except Exception as error:  # whatever the error, the run is finished and saved
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        logger.warning(f"{directory}: no report was written ({reason}); try again with scripts/report.py {directory}")


def run_page(run: RunFiles) -> str:
    """The report of one run."""
    parts = [tag("h1", run.name), note(f"{run.path}", *_what(run)), _how(run), _cards(run)]
    parts += [note(line) for line in run.missing]
    if run.state and not run.state.get("finished", True):
        parts.append(note(f"Not finished: --resume continues from step {number(run.state.get('global_step'))}."))
    parts += [_section("Curves", lambda: _own_curves(run)), _section("Evaluation", lambda: _evaluations(run))]
    for name, content in run.evaluation.items():
        if name in TASKS:
            report = part(name, "report")
            make = partial(report.section, content, run.description.get("labels"))
            parts.append(_section(report.TITLE, make, _of_step(run)))
    parts += [_section("Data", lambda: _data(run.data)), _section("Flags", lambda: _flags(run))]
    return page(f"{run.name} – report", *parts)


def comparison_page(runs: Sequence[RunFiles]) -> str:
    """The report of several runs: figures, flags that differ, and curves in shared charts."""
    names = [run.name for run in runs]
    parts = [tag("h1", f"{len(runs)} runs"), note(", ".join(str(run.path) for run in runs)), legend(names)]
    parts += [note(f"{run.name}: {line}") for run in runs for line in run.missing]
    parts += [
        _section("Figures", lambda: comparison_table(runs)),
        _section("Runs", lambda: _runs(runs)),
        _section("Flags that differ", lambda: _flag_table(runs)),
        _section("Curves", lambda: _overlaid_curves(runs)),
    ]
    return page(f"{len(runs)} runs – report", *parts)


def _section(title: str, make: Callable[[], Html | None], remark: Html | None = None) -> Html | None:
    """A heading and its content; if the files are damaged, a note instead of the content."""
    try:
        content = make()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        content = note(f"Left out: the files of this run are not as they should be ({type(error).__name__}: {error}).")
    return content and join([tag("h2", title), remark, content])


def _what(run: RunFiles) -> list[str]:
    flags, task = run.flags, run.description.get("task")
    known = [task and f"task {task}", flags.get("pretrained_model_name_or_path"), _data_name(flags.get("train_data_file"))]
    return [f" · {text}" for text in known if text]


def _how(run: RunFiles) -> Html | None:
    """Start time, duration and command."""
    when = [f"started {run.started}"] if run.started else []
    when += [f"took {duration(run.seconds)}"] if run.seconds is not None else []
    # Lines may break before a flag, but not after its dashes.
    parts = re.split(r"(?<=\s)(--\w+)", run.command or "")
    command = tag("pre", *(tag("span", part, class_="flag") if place % 2 else part for place, part in enumerate(parts)))
    command = command if run.command else None
    return join([note(", ".join(when)) if when else None, command]) if when or command else None


def duration(seconds: float) -> str:
    """Format a duration: ``45 s``, ``3 min 20 s``, ``5 h 7 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _runs(runs: Sequence[RunFiles]) -> Html | None:
    """Start time, duration and command of each run."""
    if not any(run.started or run.command for run in runs):
        return None
    rows = [[run.name, run.started, None if run.seconds is None else duration(run.seconds), run.command] for run in runs]
    return table(["", "started", "took", "command"], rows, texts=(3,))


def _data_name(value: Any) -> str | None:
    return f"trained on {', '.join(map(str, value)) if isinstance(value, list) else value}" if value else None


def _of_step(run: RunFiles) -> Html | None:
    """A note that says which evaluation is shown, and which model is saved."""
    step, saved = run.evaluation.get("global_step"), run.description.get("global_step")
    if step is None:
        return None
    behind = "" if step == saved or saved is None else f"; the saved model is that of step {number(saved)}"
    return note(f"On the development set at step {number(step)}{behind}.")


def _cards(run: RunFiles) -> Html:
    best, figures = run.best, []
    if best:
        figures.append((best[run.metric], f"best {run.metric}, step {number(best['global_step'])}"))
    elif run.last:
        name, value = next(iter(figures_of(run.last).items()), (None, None))
        figures += [(value, f"last {name}")] if name else []
    for name, value in figures_of(run.test).items():
        if name == run.metric or (run.metric is None and len(figures) < 2):
            figures.append((value, f"test {name}"))
    if run.train:
        figures.append((run.train[-1].get("loss"), "training loss at the end"))
    figures += [
        (run.steps, "steps"),
        (run.steps_per_second, "steps a second (median)"),
        (run.peak_memory_mb, "peak memory, MB"),
    ]
    cards = (
        tag("div", tag("b", number(value)), tag("span", name), class_="card") for value, name in figures if value is not None
    )
    return tag("div", *cards, class_="cards")


def _points(lines: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    found = ((line["global_step"], line.get(name)) for line in lines)
    return [(step, value) for step, value in found if isinstance(value, int | float) and not isinstance(value, bool)]


def _names_of(lines: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in figures_of(line)))


def _in_order(trained: Sequence[str]) -> list[str]:
    return [name for name in _TRAINING if name in trained] + [name for name in trained if name not in _TRAINING]


def bounds_of(figure: str) -> tuple[float, float] | None:
    """The lowest and highest possible value of a figure with this name; None if it has no bounds."""
    return _BOUNDS.get(figure.split("@")[0].rpartition("_")[2])


def _own_curves(run: RunFiles) -> Html:
    """Training and evaluation curves of one run; figures of the same name share a chart."""
    drawn, both = [], False
    kept = run.description.get("global_step") if run.evaluations else None
    trained, evaluated = _names_of(run.train), _names_of(run.evaluations)
    for name in _in_order(trained):
        series = [("training", _points(run.train, name))]
        if name in evaluated:
            series.append(("evaluation", _points(run.evaluations, name)))
            both = True
        drawn.append(curves(_TRAINING.get(name, name), series, kept, bounds=bounds_of(name)))
    drawn += [
        curves(name, [("", []), ("evaluation", _points(run.evaluations, name))], kept, "evaluation", bounds_of(name))
        for name in evaluated
        if name not in trained
    ]
    if not any(drawn):
        return note("No figures were logged.")
    explained = [legend(["training", "evaluation"])] if both else []
    if kept is not None:
        explained.append(note(f"The dashed line marks step {number(kept)}, that of the saved model."))
    return join([*explained, tag("div", *drawn, class_="charts")])


def _overlaid_curves(runs: Sequence[RunFiles]) -> Html:
    drawn = []
    trained = list(dict.fromkeys(name for run in runs for name in _names_of(run.train)))
    evaluated = list(dict.fromkeys(name for run in runs for name in _names_of(run.evaluations)))
    for name in _in_order(trained):
        remark = "training" if name in evaluated else ""
        series = [(run.name, _points(run.train, name)) for run in runs]
        drawn.append(curves(_TRAINING.get(name, name), series, None, remark, bounds_of(name)))
    for name in evaluated:
        series = [(run.name, _points(run.evaluations, name)) for run in runs]
        drawn.append(curves(name, series, None, "evaluation", bounds_of(name)))
    if not any(drawn):
        return note("No figures were logged.")
    return join([legend([run.name for run in runs]), tag("div", *drawn, class_="charts")])


def _evaluations(run: RunFiles) -> Html | None:
    """A table of all figures: of the best evaluation, the last one, and the test."""
    columns = {}
    if run.best and run.best["global_step"] != run.last["global_step"]:
        columns[f"best {run.metric}, step {number(run.best['global_step'])}"] = figures_of(run.best)
    if run.last:
        columns[f"last, step {number(run.last['global_step'])}"] = figures_of(run.last)
    if run.test:
        columns["test set"] = figures_of(run.test)
    if not columns:
        return note("There was no evaluation.")
    names = dict.fromkeys(name for figures in columns.values() for name in figures)
    rows = ([name, *(figures.get(name) for figures in columns.values())] for name in names)
    return table(["", *columns], rows)


def _data(data: dict[str, Any]) -> Html | None:
    if not data:
        return None
    names = dict.fromkeys(name for content in data.values() for name in content["figures"])
    rows = ([_words(name), *(_share(name, content["figures"].get(name)) for content in data.values())] for name in names)
    parts = [table(["", *data], rows)]
    if "tokens_longest" in names:
        parts.append(note("Lengths are those of whole texts, before they are cut or read in windows."))
    counts = {name: content["counts"] for name, content in data.items() if content.get("counts")}
    if counts:
        kinds = dict.fromkeys(kind for numbers in counts.values() for kind in numbers)
        totals = {name: max(1, sum(numbers.values())) for name, numbers in counts.items()}
        rows = [
            [kind, *(barred(numbers.get(kind, 0), numbers.get(kind, 0) / totals[name]) for name, numbers in counts.items())]
            for kind in kinds
        ]
        first = next(iter(counts.values()))
        sizes = [first.get(kind, 0) for kind in kinds]
        parts += [
            tag("h3", "Counts"),
            *chosen_rows(["", *counts], rows, {"rarest": sizes, "most frequent": _falling(sizes)}),
        ]
    return join(parts)


def _falling(sizes: Sequence[int]) -> list[int]:
    return [-size for size in sizes]


def _words(name: str) -> str:
    """A readable name: ``tokens_p50`` -> ``tokens, median``."""
    quantity, _, last = name.rpartition("_")
    if last in ("mean", "longest"):
        return f"{quantity.replace('_', ' ')}, {last}"
    if last[:1] == "p" and last[1:].isdigit():
        return f"{quantity.replace('_', ' ')}, " + ("median" if last == "p50" else f"{last[1:]} % have at most")
    return f"{quantity.replace('_', ' ')}, share" if last == "share" else name.replace("_", " ")


def _share(name: str, value: Any) -> Any:
    return tag("td", percent(value), class_="n") if name.endswith("_share") and value is not None else value


def _flags(run: RunFiles) -> Html | None:
    if not run.flags:
        return note("Not known: neither a model nor a training state was saved.")
    rows = [[f"--{name}", _flag(value)] for name, value in sorted(run.flags.items())]
    versions = [[name, value] for name, value in run.description.get("versions", {}).items()]
    return join(
        [
            folded(
                "all flags and versions",
                table(["flag", "value"], rows, texts=(1,)),
                versions and table(["", "version"], versions),
            )
        ]
    )


def _flag_table(runs: Sequence[RunFiles]) -> Html:
    """One line per flag, or one line per run if there are more runs than flags."""
    flags = differing_flags(runs)
    if not flags:
        return note("None.")
    names = [run.name for run in runs]
    values = [[_flag(run.flags.get(flag)) for run in runs] for flag in flags]
    heads = [f"--{flag}" for flag in flags]
    if len(runs) > len(flags):
        names, heads, values = heads, names, list(zip(*values, strict=True))
    return table(["", *names], ([head, *line] for head, line in zip(heads, values, strict=True)))


def _flag(value: Any) -> str | None:
    """The value as written on the command line."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return None if value is None else str(value)
