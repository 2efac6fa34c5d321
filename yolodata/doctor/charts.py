"""Plots of the report, as SVG: no library, no script, colours by the style of the page.

Each function returns one `<svg>` element, or "" where there is too little to draw. Texts are
escaped. The classes `c0` to `c9` are colours of series; `ink`, `faint` and `line` are of text, of
what is less important, and of axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from yolodata.doctor.report import spelled

WIDTH = 720
_LEFT, _RIGHT = 56, 12
_POINTS = 360
"""Points of a line: more than that lie in the same pixel."""

PARTS = (
    "storage", "decode", "augment", "copy", "model", "reduce", "slower ranks", "callbacks",
    "launch",
)  # fmt: skip
"""Parts of a step that have a colour of their own, in its order; others share the last one."""


def escaped(text: object) -> str:
    """Returns text for HTML."""
    return escape(spelled(text))


def figure(value: float) -> str:
    """Returns a number with three digits, and commas where it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def stacked_bar(parts: Mapping[str, float], unit: str = "ms") -> str:
    """Returns one bar of the parts of a whole, with a legend.

    Args:
        parts: value by name; not negative.
        unit: of the values.
    """
    total = sum(parts.values())
    if total <= 0:
        return ""
    drawn, legend, at = [], [], 0.0
    for number, (name, value) in enumerate(parts.items()):
        colour = PARTS.index(name) if name in PARTS else len(PARTS)
        wide = value / total * WIDTH
        drawn.append(_rect(at, 0, wide, 44, f"c{colour}", f"{name}: {figure(value)} {unit}"))
        x, y = number % 3 * WIDTH / 3, 72 + number // 3 * 22
        legend.append(_rect(x, y - 10, 12, 12, f"c{colour}"))
        legend.append(_text(x + 18, y, f"{name}  {figure(value)} {unit}  {value / total:.0%}"))
        at += wide
    return _svg(72 + (len(parts) - 1) // 3 * 22 + 8, [*drawn, *legend], "parts of a step")


def dots(measured: Mapping[str, float], ceilings: Mapping[str, float], unit: str) -> str:
    """Returns values on a logarithmic axis, a row each, beside the ceilings that bound them.

    Args:
        measured: value by name; above 0.
        ceilings: the same, drawn hollow.
        unit: of the values.
    """
    rows = [(name, value, False) for name, value in measured.items() if value > 0]
    rows += [(name, value, True) for name, value in ceilings.items() if value > 0]
    if not rows:
        return ""
    names = 220
    low, high = _decades([value for _, value, _ in rows])
    bottom = 26 * len(rows) + 6

    def x(value: float) -> float:
        return names + (math.log10(value) - low) / (high - low) * (WIDTH - names - 70)

    drawn = []
    for power in range(low, high + 1):
        for factor in (1, 2, 5) if power < high else (1,):
            value = factor * 10.0**power
            drawn.append(_line(x(value), 0, x(value), bottom))
            if high - low < 2 or factor == 1:
                drawn.append(_text(x(value), bottom + 16, figure(value), "faint", "middle"))
    for number, (name, value, hollow) in enumerate(rows):
        y = 26 * number + 16
        drawn.append(_text(names - 10, y + 4, name, "faint" if hollow else "ink", "end"))
        kind = "hollow" if hollow else "c0"
        drawn.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="6" class="{kind}"/>')
        drawn.append(_text(x(value) + 11, y + 4, figure(value)))
    said = f"{unit}, logarithmic" + ("; hollow: a ceiling" if ceilings else "")
    drawn.append(_text(WIDTH, bottom + 34, said, "faint", "end"))
    return _svg(bottom + 40, drawn, f"{unit}, against ceilings")


def histogram(edges: Sequence[float], counts: Sequence[int], unit: str, below: float) -> str:
    """Returns a bar a bin, all of the same width.

    Args:
        edges: of the bins, one more than counts.
        counts: of the bins.
        unit: of the edges.
        below: bins that end here or before have the colour of a warning.
    """
    if len(edges) != len(counts) + 1 or not counts or max(counts) <= 0:
        return ""
    height, wide = 200, (WIDTH - _LEFT - _RIGHT) / len(counts)
    ticks = _ticks(0, max(counts))
    drawn = _y_axis(ticks, height)
    each = math.ceil(len(edges) / 14)
    for number, count in enumerate(counts):
        x, tall = _LEFT + number * wide, count / ticks[-1] * height
        colour = "c5" if edges[number + 1] <= below else "c0"
        said = f"{figure(edges[number])} to {figure(edges[number + 1])} {unit}: {count:,}"
        drawn.append(_rect(x + 1, 10 + height - tall, max(wide - 2, 0.5), tall, colour, said))
    for number, edge in enumerate(edges):
        if number % each == 0:
            at = _LEFT + number * wide
            anchor = "end" if number == len(counts) else "middle"
            drawn.append(_text(at, height + 26, figure(edge), "faint", anchor))
    drawn.append(_text(WIDTH - _RIGHT, height + 44, unit, "faint", "end"))
    return _svg(height + 50, drawn, f"histogram, {unit}")


def timeline(seconds: Sequence[float], step_ms: Sequence[float], wait_ms: Sequence[float]) -> str:
    """Returns the time of steps, and how much of each was waiting.

    Args:
        seconds: when each step ended.
        step_ms: of each step.
        wait_ms: of each step.
    """
    if len(seconds) < 2 or not len(seconds) == len(step_ms) == len(wait_ms):
        return ""
    height, length = 200, max(seconds[-1] - seconds[0], 1e-9)
    ticks = _ticks(0, max(max(step_ms), max(wait_ms), 1e-9))
    rows = list(zip(seconds, step_ms, wait_ms, strict=True))
    each = math.ceil(len(rows) / _POINTS)
    groups = [rows[start : start + each] for start in range(0, len(rows), each)]

    def x(second: float) -> float:
        return _LEFT + (second - seconds[0]) / length * (WIDTH - _LEFT - _RIGHT)

    def line(which: int) -> list[tuple[float, float]]:
        """The largest of each group: a pause of one step is what one looks for."""
        return [
            (x(group[0][0]), 10 + height - max(row[which] for row in group) / ticks[-1] * height)
            for group in groups
        ]

    drawn = _y_axis(ticks, height)
    waits = line(2)
    area = [(waits[0][0], 10.0 + height), *waits, (waits[-1][0], 10.0 + height)]
    drawn.append(f'<polygon points="{_points(area)}" class="c5" opacity="0.75"/>')
    drawn.append(f'<polyline points="{_points(line(1))}" class="stroke0"/>')
    for tick in _ticks(0, length):
        if tick <= length:
            at = x(seconds[0] + tick)
            drawn.append(_text(at, height + 26, figure(tick), "faint", "middle"))
    drawn += [_rect(_LEFT, height + 38, 12, 4, "c0"), _text(_LEFT + 18, height + 44, "step, ms")]
    drawn += [_rect(_LEFT + 100, height + 34, 12, 12, "c5")]
    drawn += [_text(_LEFT + 118, height + 44, "of it waiting for data, ms")]
    drawn.append(_text(WIDTH - _RIGHT, height + 44, "seconds", "faint", "end"))
    return _svg(height + 52, drawn, "time of steps")


def curve(
    points: Iterable[tuple[float, float]],
    x_unit: str,
    y_unit: str,
    bound: Iterable[tuple[float, float]] = (),
) -> str:
    """Returns values over sizes on a logarithmic axis.

    Args:
        points: size (above 0) and value, in any order.
        x_unit, y_unit: of them.
        bound: the same of what would be possible, drawn hollow.
    """
    points = sorted((x, y) for x, y in points if x > 0)
    if len(points) < 2:
        return ""
    height = 180
    bound = sorted((x, y) for x, y in bound if points[0][0] <= x <= points[-1][0])
    ticks = _ticks(0, max(*(y for _, y in [*points, *bound]), 1e-9))
    low, high = math.log10(points[0][0]), math.log10(points[-1][0])
    span = max(high - low, 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        along = (math.log10(x) - low) / span * (WIDTH - _LEFT - _RIGHT - 30)
        return _LEFT + 15 + along, 10 + height - y / ticks[-1] * height

    drawn = _y_axis(ticks, height)
    places = [at(x, y) for x, y in points]
    drawn.append(f'<polyline points="{_points(places)}" class="stroke0"/>')
    for across, down in places:
        drawn.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" class="c0"/>')
    for x, y in bound:
        across, down = at(x, y)
        drawn.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" class="hollow"/>')
    each = math.ceil(len(points) / 9)
    for (x, _), (across, _) in list(zip(points, places, strict=True))[::each]:
        drawn.append(_text(across, height + 26, _bytes(x), "faint", "middle"))
    drawn.append(_text(_LEFT, height + 44, y_unit, "faint"))
    drawn.append(_text(WIDTH - _RIGHT, height + 44, x_unit, "faint", "end"))
    return _svg(height + 50, drawn, f"{y_unit} over {x_unit}")


def _svg(height: float, drawn: Iterable[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escaped(title)}">{"".join(drawn)}</svg>'
    )


def _rect(x: float, y: float, wide: float, high: float, colour: str, said: str = "") -> str:
    title = f"<title>{escaped(said)}</title>" if said else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.2f}" height="{high:.1f}"'
    return f'<rect {place} class="{colour}">{title}</rect>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="line"/>'


def _text(x: float, y: float, said: str, kind: str = "ink", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} class="{kind}" text-anchor="{anchor}">{escaped(said)}</text>'


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _y_axis(ticks: Sequence[float], height: float) -> list[str]:
    drawn = []
    for tick in ticks:
        y = 10 + height - tick / ticks[-1] * height
        drawn.append(_line(_LEFT, y, WIDTH - _RIGHT, y))
        drawn.append(_text(_LEFT - 8, y + 4, figure(tick), "faint", "end"))
    return drawn


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to the first that is no less than `high`; five or so."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * 0.999)
    return [low + n * step for n in range(math.ceil((high - low) / step * 0.999) + 1)]


def _decades(values: Iterable[float]) -> tuple[int, int]:
    values = list(values)
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
