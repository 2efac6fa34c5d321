"""The chart of `--plot`: pictures a second of every row, and how they compare with one peer.

Bars stand between two columns of text, the names and the numbers. So nothing can overlap, however
long a name or an error bar is. Everything is placed in inches.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.bench import report
from yolodata.errors import ConfigError
from yolodata.outputs import write_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = dict[str, Any]

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
COLOURS = {"ultralytics": "#e69f00", "yolodata": "#0072b2", "fixed": "#bbbbbb",
           "peer": "#009e73"}  # fmt: skip
INK, MUTED, GRID, WARNING = "#1f2328", "#59636e", "#e3e7eb", "#b03a00"
DPI = 200  # shown at half of that, 800 pixels wide

_WIDTH, _MARGIN = 8.0, 0.15
_BARS = (2.35, 5.25)  # where they begin and end
_SPEED, _RATIO = 6.0, _WIDTH - _MARGIN  # right edges of the columns of numbers
_LINE = 0.17  # height of a line of text
_NAME, _NOTE = 32, 118  # letters a line of a name, of a note below


def save(path: Path, values: Document, **metadata: str) -> None:
    """Draw a document of `results` as a bar chart; the suffix of `path` chooses the format.

    Args:
        path: of the picture.
        values: the document.
        metadata: texts to store in a PNG file.

    Raises:
        ConfigError: matplotlib is missing, or does not know the format.
    """
    check_format(path)
    from matplotlib.figure import Figure

    panels = _panels(values)
    notes = [line for note in _notes(values) for line in _wrapped(note, _NOTE)]
    warnings = [line for note in _warnings(values) for line in _wrapped(note, _NOTE)]
    head, foot = 0.75, 0.2 + _LINE * (len(notes) + len(warnings))
    height = head + sum(_height(rows) for _, rows, _ in panels) + foot
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    write = _Writer(figure, height)
    done = "trained" if values["benchmark"] == "train" else "made"
    write(_MARGIN, 0.3, f"Training pictures {done} a second", size=13, weight="bold")
    write(_MARGIN, 0.53, report.how(values), color=MUTED)
    top = head
    widest: dict[str, float] = {}
    for (device, *_), rows, _ in panels:
        speeds = [row["img_s"]["max"] or 0 for row in rows]
        widest[device] = max(widest.get(device, 0), *speeds)
    for group, rows, base in panels:
        _draw_panel(write, top, values, group, rows, base, widest[group[0]])
        top += _height(rows)
    for at, line in enumerate([*warnings, *notes]):
        colour = WARNING if at < len(warnings) else MUTED
        write(_MARGIN, top + 0.2 + at * _LINE, line, size=8, color=colour)
    write_figure(figure, path, metadata)


def check_format(path: Path) -> None:
    """Finds out before minutes of measuring whether a chart can be drawn.

    Raises:
        ConfigError: matplotlib is missing, or does not know the format.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise ConfigError("--plot needs matplotlib; run `pip install matplotlib`") from None
    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise ConfigError(f"--plot must end in .png, .svg or .pdf, got {path}")


def write_figure(figure: Figure, path: Path, metadata: dict[str, str]) -> None:
    """Write a figure; `metadata` and no name of a program go into PNG files.

    Raises:
        ConfigError: matplotlib does not know the format, or the file cannot be written.
    """
    kept = {"Software": None, **metadata} if path.suffix.lower() == ".png" else None
    drawn = io.BytesIO()
    try:
        figure.savefig(drawn, dpi=DPI, metadata=kept, format=path.suffix[1:].lower() or "png")
    except ValueError as error:
        raise ConfigError(f"--plot {path}: {error}") from None
    if kept is not None:
        drawn = _with_a_palette(drawn)
    write_output(path, drawn.getbuffer(), "--plot")


def _with_a_palette(png: io.BytesIO) -> io.BytesIO:
    """Makes a PNG file a third as large: few colours, and shades of them, are all that it shows."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    small, info = io.BytesIO(), PngInfo()
    with Image.open(png) as picture:
        for name, text in picture.info.items():
            if isinstance(text, str):
                info.add_text(name, text)
        few = picture.convert("RGB").quantize(256)
        few.save(small, "PNG", optimize=True, pnginfo=info, dpi=(DPI, DPI))
    return small


class _Writer:
    """Texts and axes at places in inches from the upper left corner."""

    def __init__(self, figure: Figure, height: float) -> None:
        self.figure, self.height = figure, height

    def __call__(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text that begins at x, or ends there with `ha="right"`; its lines are around y."""
        style = {"size": 9, "color": INK, "va": "center", **style}
        self.figure.text(x / _WIDTH, 1 - y / self.height, text, parse_math=False, **style)

    def axes(self, y: float, height: float) -> Axes:
        """Axes for bars, of `height` inches below y."""
        left, right = _BARS
        box = (left / _WIDTH, 1 - (y + height) / self.height, (right - left) / _WIDTH)
        return self.figure.add_axes((*box, height / self.height))


def _panels(values: Document) -> list[tuple[report.Group, list[Document], Document | None]]:
    """Group, rows that get a bar, and the row that they are compared with, of each panel."""
    panels = []
    for group, members in report.groups(values).items():
        rows = [row for row in members if _family(row) in COLOURS]
        if rows:
            panels.append((group, rows, report.base(rows)))
    return panels


def _family(row: Document) -> str:
    return str(row["kind"]).partition("-")[0]


def _lines(row: Document) -> int:
    return max(1, len(_wrapped(report.label(row), _NAME)))


def _row_height(row: Document) -> float:
    return 0.12 + _LINE * _lines(row)


def _height(rows: list[Document]) -> float:
    return 0.95 + sum(map(_row_height, rows))


def _draw_panel(
    write: _Writer,
    top: float,
    values: Document,
    group: report.Group,
    rows: list[Document],
    base: Document | None,
    widest: float,
) -> None:
    """Headings, names, bars and numbers of one group of rows."""
    # The ceiling would make all bars short: it is a number in the heading instead.
    ceiling = [row["img_s"]["median"] for row in report.groups(values)[group]
               if row["kind"] == "copy" and row["img_s"]["median"]]  # fmt: skip
    heading = report.where(group)
    write(_MARGIN, top + 0.34, heading[0].upper() + heading[1:], va="bottom", size=10.5,
          weight="bold")  # fmt: skip
    if ceiling:
        write(
            _BARS[0],
            top + 0.34,
            f"copying alone: {ceiling[0]:,.0f}",
            va="bottom",
            size=8,
            color=MUTED,
        )
    write(_SPEED, top + 0.34, "img/s", ha="right", va="bottom", size=8, color=MUTED)
    if base:
        against = "\n".join(["times as fast as", textwrap.shorten(base["label"], 30)])
        write(_RATIO, top + 0.34, against, ha="right", va="bottom", size=8, color=MUTED)
    heights = [_row_height(row) for row in rows]
    axes = write.axes(top + 0.4, sum(heights))
    y = 0.0
    for row, height in zip(rows, heights, strict=True):
        middle = y + height / 2
        at = top + 0.4 + middle
        name = "\n".join(_wrapped(report.label(row), _NAME))
        write(_BARS[0] - 0.1, at, name, ha="right", linespacing=1.15)
        speed = row["img_s"]
        if speed["median"] is None:
            write(_SPEED, at, "failed", ha="right", color=WARNING)
        else:
            error = [[speed["median"] - speed["min"]], [speed["max"] - speed["median"]]]
            axes.barh([middle], [speed["median"]], height=0.2, color=COLOURS[_family(row)],
                      xerr=error, error_kw={"ecolor": INK, "elinewidth": 1.1, "capsize": 2.5,
                                            "capthick": 1.1})  # fmt: skip
            write(_SPEED, at, f"{speed['median']:,.0f}", ha="right", weight="bold")
            _write_ratio(write, at, values, row, base)
        y += height
    axes.set(xlim=(0, 1.04 * widest or 1), ylim=(sum(heights), 0), yticks=[])
    axes.xaxis.set_major_locator(_ticks())
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="x", labelsize=8, labelcolor=MUTED, color=GRID)
    axes.set_xlabel("pictures a second (img/s)", size=8, color=MUTED, labelpad=2)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(MUTED)


def _ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])


def _write_ratio(
    write: _Writer, at: float, values: Document, row: Document, base: Document | None
) -> None:
    if base is None:
        return
    if row is base:
        write(_RATIO, at, "1", ha="right")
        return
    found = report.ratio(row, base)
    doubt = " ?" if report.doubt(found) else ""
    colour = WARNING if doubt else INK
    write(_RATIO, at, report.ratio_text(values, found) + doubt, ha="right", color=colour)


def _warnings(values: Document) -> list[str]:
    """What the question marks mean."""
    found = [
        report.doubted(values, row, base, report.ratio(row, base))
        for _, rows, base in _panels(values)
        for row in rows
        if base and row is not base and row["img_s"]["samples"]
    ]
    texts = [f"? {text}." for text in found if text]
    return [*texts[:-1], f"{texts[-1]} {report.DOUBT_HELPS}"] if texts else []


def _notes(values: Document) -> list[str]:
    """What bars and lines are; machine, date and versions."""
    shown = [(row, base) for _, rows, base in _panels(values) for row in rows]
    if not shown:
        return ["No loader was measured.", *report.about_machine(values)[:-1]]
    rounds = max(len(row["img_s"]["samples"]) for row, _ in shown)
    bars = (
        "Bar: the only round."
        if rounds == 1
        else (f"Bar: median of {rounds} rounds. Line: slowest to fastest round.")
    )
    if any(base for _, base in shown):
        bars += " Ratios: round by round, median (min to max)."
    versions = [f"{name} {values['versions'][name]}" for name in ("yolodata", "ultralytics",
                "torch", "commit") if name in values["versions"]]  # fmt: skip
    others = [f"{label}: {text}." for label, text in report.differences(values).items()]
    return [bars, *others, *report.about_machine(values)[:-1], ", ".join(versions)]


def _wrapped(text: str, letters: int) -> list[str]:
    return textwrap.wrap(text, letters)
