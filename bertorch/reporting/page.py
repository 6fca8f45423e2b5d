"""Single-file HTML pages: elements made in Python, escaped unless they are HTML already, and the report's style."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

# No scripts, nothing loaded: if a text ever slips through unescaped, it does no harm.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LIGHT = (
    "--page:#f9f9f7;--card:#fff;--ink:#1a1a19;--soft:#5f5e58;--line:#e3e2dc;--tint:42,120,214;--bad:#c0392b;--good:#0b7a3e;"
    "--s0:#2a78d6;--s1:#d9541e;--s2:#1a8f66;--s3:#b07d00;--s4:#4a3aa7;--s5:#d0347f;--s6:#0f8fa8;--s7:#7a7a72"
)
_DARK = (
    "--page:#131312;--card:#1e1e1c;--ink:#f1f0ea;--soft:#aeada5;--line:#383733;--tint:57,135,229;--bad:#ff8a7a;--good:#5fd694;"
    "--s0:#5a9ff0;--s1:#f08a5a;--s2:#3fc295;--s3:#dba632;--s4:#a79cf5;--s5:#f078b0;--s6:#45c0d8;--s7:#a8a79e"
)
_LONG = 20  # tables of up to this many rows are shown whole
_CHOSEN = 10  # rows of a longer table to show in each order
SERIES = 8  # colours of series; the ninth starts again with a dashed line
_COLOURS = f":root{{color-scheme:light dark;{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI","PingFang SC",
"Microsoft YaHei","Noto Sans CJK SC",sans-serif;overflow-wrap:anywhere}
main{max-width:960px;margin:0 auto;padding:20px 16px 48px}
h1{font-size:22px;line-height:1.25;margin:0 0 4px}
h2{font-size:18px;margin:32px 0 8px}
h3{font-size:15px;margin:20px 0 6px}
p{margin:6px 0}
.soft{color:var(--soft);font-size:13px}
.bad{color:var(--bad)}.good{color:var(--good)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:14px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:9px 12px}
.card b{display:block;font-size:20px;line-height:1.3;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:12.5px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:12px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 10px 6px;min-width:0}
figcaption{font-size:13.5px;font-weight:600;padding:0 2px 4px}
figcaption span{font-weight:400;color:var(--soft)}
svg{display:block;width:100%;height:auto;max-width:640px}
svg text{font:11.5px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--line);stroke-width:1}.kept{stroke:var(--soft);stroke-dasharray:3 3}
.curve{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}.dashed{stroke-dasharray:6 4}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px;margin:8px 0}
table{border-collapse:collapse;font-size:13.5px;width:100%;overflow-wrap:break-word}
th,td{padding:5px 10px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{font-weight:600;color:var(--soft);overflow-wrap:normal;vertical-align:bottom}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.n,.flag{white-space:nowrap}
td:not(.n){min-width:4.5em}
td.text{min-width:140px;overflow-wrap:anywhere}
td.cell{background:rgba(var(--tint),var(--share,0))}
.bar{background:linear-gradient(to right,rgba(var(--tint),.28) var(--width,0),transparent 0)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin:6px 0;font-size:13px}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}
mark{background:rgba(var(--tint),.24);color:inherit;border-radius:3px;padding:0 2px}
pre{margin:8px 0;padding:8px 12px;background:var(--card);border:1px solid var(--line);border-radius:8px;
font:12.5px/1.5 ui-monospace,monospace;white-space:pre-wrap}
details{margin:8px 0}summary{cursor:pointer;color:var(--soft)}
"""
_SERIES = "".join(
    f".s{place}{{stroke:var(--s{place})}}.f{place}{{fill:var(--s{place})}}.b{place}{{background:var(--s{place})}}\n"
    for place in range(SERIES)
)


class Html(str):
    """Text that is HTML already; any other ``str`` is escaped before it goes into a page."""

    __slots__ = ()


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """Make an element. Children that are not ``Html`` are escaped, and so are attributes; None leaves either out.

    ``class_`` becomes the attribute ``class``, ``text_anchor`` becomes ``text-anchor``.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = join(children)
    return Html(f"<{name}{written}>{inner}</{name}>")


def join(children: Iterable[Any]) -> Html:
    return Html(
        "".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children if child is not None)
    )


def note(*children: Any) -> Html:
    """A quiet line: what is missing, or how to read what follows."""
    return tag("p", *children, class_="soft")


def number(value: Any) -> str:
    """Format a number for people: four digits, thousands separated; a dash for None; anything else unchanged."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if value != value or abs(value) == float("inf"):
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and value == round(value)):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], texts: Sequence[int] = ()) -> Html:
    """A table that scrolls if it is too wide; numbers are aligned right.

    Args:
        head: column headers.
        rows: cells: a ``td`` made by ``tag`` is kept, a number is formatted by ``number``, anything else is text.
        texts: indices of columns with long texts, which get more room.
    """
    rows = [list(row) for row in rows]
    numeric = {
        place
        for place in range(len(head))
        if any(_at_right(row[place]) for row in rows) and all(_at_right(row[place]) or row[place] is None for row in rows)
    }

    def cell(place: int, value: Any) -> Html:
        if isinstance(value, Html) and value.startswith("<td"):
            return value
        if place in numeric or _is_number(value):
            return tag("td", number(value), class_="n")
        return tag("td", "–" if value is None else value, class_="text" if place in texts else None)

    heads = (tag("th", name, class_="n" if place in numeric else None) for place, name in enumerate(head))
    body = (tag("tr", *(cell(place, value) for place, value in enumerate(row))) for row in rows)
    return tag("div", tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body)), class_="scroll")


def _at_right(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, Html) and value.startswith('<td class="n'))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shaded(value: Any, share: float) -> Html:
    """A table cell with a background as strong as ``share``, 0 to 1."""
    return tag("td", number(value), class_="n cell", style=f"--share:{0.6 * min(max(share, 0), 1):.3f}")


def barred(value: Any, share: float) -> Html:
    """A table cell with a bar behind its number; the bar fills ``share`` of the width, 0 to 1."""
    return tag("td", number(value), class_="n bar", style=f"--width:{100 * min(max(share, 0), 1):.1f}%")


def folded(summary: str, *children: Any) -> Html:
    return tag("details", tag("summary", summary), *children)


def chosen_rows(
    head: Sequence[Any], rows: Sequence[Sequence[Any]], orders: dict[str, Sequence[Any]], last: Sequence[Any] | None = None
) -> list[Html]:
    """Make a table; of a long one, show the first rows in several orders, and fold the whole table away.

    Args:
        head: column headers.
        rows: as in ``table``.
        orders: what the first rows of an order are called -> a sort key for each row, lowest first.
        last: a row at the bottom of each table: the mean or sum.
    """
    below = [last] if last is not None else []
    if len(rows) <= _LONG:
        return [table(head, [*rows, *below])]
    parts: list[Html] = []
    for name, values in orders.items():
        order = sorted(range(len(rows)), key=lambda row, values=values: values[row])[:_CHOSEN]
        parts += [note(f"The {len(order)} {name} of {len(rows)}:"), table(head, [*(rows[row] for row in order), *below])]
    return [*parts, folded(f"all {len(rows)}", table(head, [*rows, *below]))]


def swatch(place: int, name: str) -> Html:
    """The colour and name of a series, for a legend."""
    return tag("span", tag("i", class_=f"swatch b{place % SERIES}"), name)


def legend(names: Sequence[str]) -> Html:
    return tag("div", *(swatch(place, name) for place, name in enumerate(names)), class_="legend")


def page(title: str, *children: Any) -> str:
    """The complete HTML file."""
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            tag("title", title),
            tag("style", Html(_COLOURS + _STYLE + _SERIES)),
        ]
    )
    body = tag("html", tag("head", head), tag("body", tag("main", *children)), lang="en")
    return f"<!doctype html>\n{body}\n"
