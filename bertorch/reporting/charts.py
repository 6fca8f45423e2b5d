"""Charts as inline SVG: curves, histograms, calibration, points on a plane. They scale to the page width."""

import math
from collections.abc import Sequence

from bertorch.reporting.page import SERIES, Html, join, number, tag

WIDTH, HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 8, 26
_DIGIT = 7.5  # width of a digit on the axes, in the widest common font
_MOST_POINTS = 400  # per curve; in longer curves, neighbours are averaged
_DOTTED = 40  # curves of at most this many points show them

Point = tuple[float, float]


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """About ``most`` round numbers (steps of 1, 2 or 5 times a power of ten) that span ``low`` to ``high``."""
    if not high > low:
        low, high = _around(low)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _around(value: float) -> tuple[float, float]:
    """A range around a single value."""
    half = abs(value) / 2 or 0.5
    return value - half if value else value, value + half


def ticks_within(low: float, high: float, bounds: tuple[float, float] | None) -> list[float]:
    """``nice_ticks`` within ``bounds`` (round numbers, or None), unless the values themselves go beyond them."""
    if bounds is None or low < bounds[0] or high > bounds[1]:
        return nice_ticks(low, high)
    if not high > low:
        low, high = _around(low)
    return nice_ticks(max(low, bounds[0]), min(high, bounds[1]))


def averaged(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Reduce to at most ``most`` points, each the mean of a group of neighbours of equal size."""
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else []
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return means or list(points)


def _figure(title: str, remark: str, *drawn: Html, height: int = HEIGHT) -> Html:
    caption = tag("figcaption", title, tag("span", f" {remark}") if remark else None)
    picture = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=title)
    return tag("figure", caption, picture)


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_names: Sequence[str] | None = None):
    """``(x -> place, y -> place, drawn elements)``; the scales begin and end at their ticks."""
    left = max(_LEFT, 14 + _DIGIT * max(len(_tick(y)) for y in y_ticks))
    wide, high = WIDTH - left - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def across(x: float) -> float:
        return round(left + wide * (x - x_ticks[0]) / ((x_ticks[-1] - x_ticks[0]) or 1), 2)

    def down(y: float) -> float:
        return round(_TOP + high * (1 - (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1)), 2)

    drawn = []
    for y in y_ticks:
        drawn.append(tag("line", x1=left, x2=WIDTH - _RIGHT, y1=down(y), y2=down(y), class_="grid"))
        drawn.append(tag("text", _tick(y), x=left - 6, y=down(y) + 4, text_anchor="end"))
    for place, x in enumerate(x_ticks):
        name = _tick(x) if x_names is None else x_names[place]
        drawn.append(tag("text", name, x=across(x), y=HEIGHT - 8, text_anchor="middle"))
    return across, down, drawn


def _tick(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if sign == 'k' else size):.4g}{sign}"
    if 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:g}"


def curves(
    title: str,
    series: Sequence[tuple[str, Sequence[Point]]],
    kept: float | None = None,
    remark: str = "",
    bounds: tuple[float, float] | None = None,
) -> Html | None:
    """Draw curves over steps; None if no series has a point.

    Args:
        title: above the chart.
        series: name and points ``(step, value)`` of each; the position in the list sets the colour. Values that are not
            finite are left out.
        kept: the step of the saved model, marked by a line.
        remark: after the title.
        bounds: the lowest and the highest possible value.
    """
    known = [(name, [(x, y) for x, y in points if math.isfinite(y)]) for name, points in series]
    if any(len(points) > _MOST_POINTS for _, points in known):
        remark = f"{remark} (neighbouring points averaged)".strip()
    known = [(name, averaged(points)) for name, points in known]
    flat = [point for _, points in known for point in points]
    if not flat:
        return None
    x_high = max(x for x, _ in flat)
    x_ticks = [tick for tick in nice_ticks(0, x_high) if tick <= x_high] or [0.0]
    x_ticks = [*x_ticks, x_high] if x_ticks[-1] < x_high else x_ticks
    if len(x_ticks) > 2 and x_high - x_ticks[-2] < 0.12 * x_high:
        del x_ticks[-2]  # its label would touch the last one
    across, down, drawn = _axes(x_ticks, ticks_within(min(y for _, y in flat), max(y for _, y in flat), bounds))
    if kept is not None and 0 <= kept <= x_high:
        line = tag("line", x1=across(kept), x2=across(kept), y1=_TOP, y2=HEIGHT - _BOTTOM, class_="kept")
        drawn.append(tag("g", tag("title", f"the saved model: step {number(kept)}"), line))
    for place, (name, points) in enumerate(known):
        colour = f"s{place % SERIES}" + (" dashed" if place // SERIES % 2 else "")
        if len(points) > 1:
            path = " ".join(f"{across(x)},{down(y)}" for x, y in points)
            drawn.append(tag("polyline", tag("title", name), points=path, class_=f"curve {colour}"))
        if len(points) <= _DOTTED:
            drawn += [
                tag(
                    "circle", tag("title", f"{name}, step {number(x)}: {number(y)}"),
                    cx=across(x), cy=down(y), r=2.6, class_=f"f{place % SERIES}",
                )
                for x, y in points
            ]  # fmt: skip
    return _figure(title, remark, *drawn)


def histogram(title: str, edges: Sequence[float], counts: Sequence[int], remark: str = "", colour: int = 0) -> Html:
    """Draw bars over bins of equal width; ``edges`` has one more entry than ``counts``."""
    across, down, drawn = _axes([edges[0], (edges[0] + edges[-1]) / 2, edges[-1]], _count_ticks(max(counts)),
                                [f"{edge:.3g}" for edge in (edges[0], (edges[0] + edges[-1]) / 2, edges[-1])])  # fmt: skip
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            words = tag("title", f"{low:.3g} to {high:.3g}: {number(count)}")
            drawn.append(_bar(across(low), across(high), down(count), down(0), words, colour))
    return _figure(title, remark, *drawn)


def _count_ticks(highest: int) -> list[float]:
    return [tick for tick in nice_ticks(0, max(1, highest), 4) if tick == round(tick)]


def _bar(left: float, right: float, top: float, bottom: float, words: Html, colour: int) -> Html:
    width, height = round(max(right - left - 2, 1), 2), round(max(bottom - top, 1), 2)
    return tag(
        "rect", words, x=left + 1, y=round(bottom - height, 2), width=width, height=height, class_=f"f{colour % SERIES}"
    )


def reliability(title: str, bins: Sequence[dict], remark: str = "") -> Html:
    """Draw the accuracy of predictions against their confidence, and the diagonal where the two are equal.

    Args:
        title: above the chart.
        bins: of equal width from 0 to 1: ``count``, and the means ``confidence`` and ``accuracy`` (None in an empty bin).
        remark: after the title.
    """
    across, down, drawn = _axes([0, 0.2, 0.4, 0.6, 0.8, 1], [0, 0.25, 0.5, 0.75, 1])
    for place, one in enumerate(bins):
        if one["count"]:
            words = tag(
                "title", f"{number(one['count'])} rows, confidence {one['confidence']:.3f}, right {one['accuracy']:.3f}"
            )
            edges = across(place / len(bins)), across((place + 1) / len(bins))
            drawn.append(_bar(*edges, down(one["accuracy"]), down(0), words, 0))
    drawn.append(tag("line", x1=across(0), x2=across(1), y1=down(0), y2=down(1), class_="kept"))
    drawn += [
        tag("circle", cx=across(one["confidence"]), cy=down(one["accuracy"]), r=3, class_="f1")
        for one in bins
        if one["count"]
    ]
    return _figure(title, remark, *drawn)


def plane(title: str, pairs: Sequence[dict], names: Sequence[str], remark: str = "") -> Html:
    """Draw pairs of points on a plane, each pair joined by a line.

    Args:
        title: above the chart.
        pairs: each with two ``points`` ``(x, y)``, a ``group`` (the colour) and two ``texts``, shown on hovering.
        names: names of the groups.
        remark: after the title.
    """
    flat = [point for pair in pairs for point in pair["points"]]
    low_x, high_x = min(x for x, _ in flat), max(x for x, _ in flat)
    low_y, high_y = min(y for _, y in flat), max(y for _, y in flat)
    scale = min((WIDTH - 24) / ((high_x - low_x) or 1), 376 / ((high_y - low_y) or 1))  # the same for both axes
    height = round(max(scale * (high_y - low_y), 120) + 24)

    def place(point: Point) -> tuple[float, float]:
        x, y = scale * (point[0] - (low_x + high_x) / 2), scale * (point[1] - (low_y + high_y) / 2)
        return round(WIDTH / 2 + x, 1), round(height / 2 - y, 1)

    drawn = []
    for pair in pairs:
        colour, (one, other) = pair["group"] % SERIES, map(place, pair["points"])
        ends = {"x1": one[0], "y1": one[1], "x2": other[0], "y2": other[1]}
        dots = [
            tag("circle", tag("title", f"{names[pair['group']]}: {text}"), cx=x, cy=y, r=3.2, class_=f"f{colour}")
            for (x, y), text in zip((one, other), pair["texts"], strict=False)
        ]
        drawn += [tag("line", **ends, class_=f"s{colour}", stroke_opacity=0.4), join(dots)]
    return _figure(title, remark, *drawn, height=height)
