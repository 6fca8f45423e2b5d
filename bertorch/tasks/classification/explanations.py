"""Write explanations of labels: coloured on a terminal, as an HTML page, json lines, or tab-separated."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from bertorch.data.rows import TEXT_ROLES, Row
from bertorch.errors import UserError
from bertorch.tasks.classification.attribution import Explanation, Span
from bertorch.tasks.prediction import header, json_line, writes_json
from bertorch.tasks.streaming import Output

NOT_EXPLAINED = "--explain is for labels of texts and of pairs, by run_classifier.py, or classes by run_sentencebert.py; "

# Blue speaks for the label, orange against it, weak to strong; colour-blind readers can tell them apart.
_FOR, _AGAINST = (153, 111, 75), (223, 216, 209)  # backgrounds of a terminal's 256 colours, all legible in black
_FAINT = 0.05  # spans below this share of the row's strongest are not coloured

_PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Explanations</title>
<style>
:root { color-scheme: light dark; --for: 40 120 230; --against: 240 130 20; --line: #8884 }
body { font: 1rem/1.8 system-ui, sans-serif; max-width: 45rem; margin: 0 auto; padding: 1rem }
section { border-top: 1px solid var(--line); padding: .75rem 0 }
h2 { font-size: 1rem; margin: 0 }
p { margin: .25rem 0; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.1rem }
small { display: block; line-height: 1.4; opacity: .75; overflow-wrap: anywhere }
.f, .a { border-radius: .2em }
.f { background: rgb(var(--for) / var(--s)) }
.a { background: rgb(var(--against) / var(--s)) }
.cut { opacity: .4 }
</style></head><body>
<small><span class="f" style="--s:.5">speaks for the label</span> · <span class="a" style="--s:.5">speaks against it</span> ·
<span class="cut">left out, too long</span></small>
"""


def check_explain(args: argparse.Namespace, task: str, directory: Path) -> None:
    """Raises UserError if the flags or the task of ``directory`` do not allow --explain."""
    if task not in ("classification", "sentence_vectors"):
        raise UserError(f"{NOT_EXPLAINED}{directory} is a model for {task}")
    if args.precision != "fp32":
        raise UserError(f"--explain computes in fp32; leave out --precision {args.precision}")
    if args.evaluate and args.output_file is None:
        raise UserError("--explain: with --evaluate the answers go to a file; add --output_file")
    if args.with_text or args.with_label:
        raise UserError("--explain shows the texts itself; leave out --with_text and --with_label")


def explanation_lines(
    args: argparse.Namespace, rows: Sequence[Row], labels: list[str], explanations: list[Explanation | None], texts: int
) -> list[str]:
    """The lines to write, in the format of the output; every row is kept.

    Args:
        args: the flags.
        rows: the input.
        labels: of the model.
        explanations: of ``rows``; None for an unusable row.
        texts: of a row.
    """
    pairs = zip(rows, explanations, strict=True)
    if writes_json(args):
        return [json_line(_as_json(args, row, labels, one)) for row, one in pairs]
    if _is_page(args):
        return [_section(args, row, labels, one) for row, one in pairs]
    if _is_coloured(args):
        return [_coloured(row, labels, one) for row, one in pairs]
    return ["\t".join(_cells(args, row, labels, one, texts)) + "\n" for row, one in pairs]


def explanation_output(args: argparse.Namespace, labels: list[str], texts: int) -> Output:
    """Where the lines go: a page has a head and an end, a table its header."""
    if _is_page(args):
        return Output(args, _PAGE, "</body></html>\n")
    names = ["label", "probability", *(labels if args.probabilities else [])]
    names += [name for role in TEXT_ROLES[texts] for name in (role, f"spans_of_{role}")]
    return Output(args, "" if _is_coloured(args) else header(args, names))


def _is_page(args: argparse.Namespace) -> bool:
    return args.output_format is None and str(args.output_file).lower().endswith(".html")


def _is_coloured(args: argparse.Namespace) -> bool:
    return args.output_format is None and args.output_file is None and sys.stdout.isatty()


def _as_json(args: argparse.Namespace, row: Row, labels: list[str], one: Explanation | None) -> dict:
    if one is None:
        return {"label": None}
    answer: dict = {"label": labels[one.label], "probability": round(float(one.probabilities[one.label]), 6)}
    if args.probabilities:
        answer["probabilities"] = {
            name: round(float(value), 6) for name, value in zip(labels, one.probabilities, strict=True)
        }
    answer |= {"logit": round(one.logit, 6), "baseline_logit": round(one.baseline_logit, 6), "gap": round(one.gap, 6)}
    answer["texts"] = [
        {
            "text": text,
            "left_out": left_out,
            "attributions": [[start, end, text[start:end], round(value, 6)] for start, end, value in spans],
        }
        for text, spans, left_out in zip(row.texts, one.spans, one.left_out, strict=True)
    ]
    return answer


def _cells(args: argparse.Namespace, row: Row, labels: list[str], one: Explanation | None, texts: int) -> list[str]:
    """The label and its probability, on request all; for each text, what was read of it and its strongest spans."""
    every = len(labels) if args.probabilities else 0
    if one is None:
        return [""] * (2 + every + 2 * texts)
    cells = [labels[one.label], f"{one.probabilities[one.label]:.6f}"]
    cells += [f"{value:.6f}" for value in one.probabilities[:every]]
    for number, text in enumerate(row.texts):
        pieces = _pieces(text, one.spans[number], one.left_out[number])
        cells.append("".join("[…]" if cut else piece for piece, _, cut in pieces))
        cells.append(" ".join(_strongest(one, number, text, args.top_k)))
    return cells


def _strongest(one: Explanation, number: int, text: str, count: int) -> list[str]:
    """``span:share``, the strongest first; shares are signed, and their absolute values add up to 1 over a row."""
    spans = sorted(one.spans[number], key=lambda span: -abs(span[2]))[:count]
    strength = one.strength or 1.0
    return [f"{_plain(text[start:end])}:{value / strength:+.2f}" for start, end, value in spans]


def _coloured(row: Row, labels: list[str], one: Explanation | None) -> str:
    if one is None:
        return "\n"
    parts = [f"\033[1m{labels[one.label]}\033[0m {one.probabilities[one.label]:.2f}"]
    for number, text in enumerate(row.texts):
        shown = ""
        for piece, value, strength, cut in _shades(one, number, text):
            if cut:
                shown += "\033[2m[…]\033[0m"
            elif strength < _FAINT:
                shown += piece
            else:
                colour = (_FOR if value > 0 else _AGAINST)[min(int(strength * 3), 2)]
                shown += f"\033[30;48;5;{colour}m{piece}\033[0m"
        parts.append(shown)
    return "  ".join(parts) + "\n"


def _section(args: argparse.Namespace, row: Row, labels: list[str], one: Explanation | None) -> str:
    if one is None:
        return f"<section><small>line {row.line}: no text that can be read</small></section>\n"
    parts = [f"<section><h2>{escape(_plain(labels[one.label]))} {one.probabilities[one.label]:.2f}</h2>"]
    for number, text in enumerate(row.texts):
        shown = ""
        for piece, value, strength, cut in _shades(one, number, text):
            if cut:
                shown += f'<span class="cut">{escape(piece)}</span>'
            elif strength < _FAINT:
                shown += escape(piece)
            else:
                side = "f" if value > 0 else "a"
                shown += f'<span class="{side}" style="--s:{0.6 * strength:.2f}" title="{value:+.4f}">{escape(piece)}</span>'
        strongest = ", ".join(_strongest(one, number, text, args.top_k))
        parts.append(f'<p dir="auto">{shown}</p><small dir="auto">{escape(strongest)}</small>')
    parts.append(f"<small>line {row.line} · logit {one.logit:.3f}, of the masked texts {one.baseline_logit:.3f}")
    parts.append(f" · gap {one.gap:.1%}</small></section>\n")
    return "".join(parts)


def _shades(one: Explanation, number: int, text: str) -> Iterator[tuple[str, float | None, float, bool]]:
    """``_pieces`` with a strength before ``left out``: from 0 to 1, which is the row's strongest span."""
    strongest = max((abs(value) for spans in one.spans for _, _, value in spans), default=0.0)
    for piece, value, cut in _pieces(text, one.spans[number], one.left_out[number]):
        yield piece, value, abs(value) / strongest if value and strongest else 0.0, cut


def _pieces(text: str, spans: list[Span], left_out: tuple[int, int] | None) -> Iterator[tuple[str, float | None, bool]]:
    """The whole text, piece by piece: ``(piece, attribution, left out)``; None for text outside spans, such as spaces."""
    marks = [(start, end, value, False) for start, end, value in spans]
    if left_out is not None:
        marks.append((*left_out, None, True))
    plain, done = _plain(text), 0
    for start, end, value, cut in sorted(marks, key=lambda mark: mark[:2]):
        start = max(start, done)
        if start < end:
            if done < start:
                yield plain[done:start], None, False
            yield plain[start:end], value, cut
            done = end
    if done < len(text):
        yield plain[done:], None, False


def _plain(text: str) -> str:
    """Replace characters that end a line or cell, or move a terminal's cursor, with spaces; the length stays."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
