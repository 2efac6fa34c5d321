"""The chart of `--plot`: pictures a second of every row, and how they compare with one peer.

Numbers stand right of the bars, not beside them. So nothing can overlap, however long a name or an
error bar is.
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
Panel = tuple[report.Group, list[Document], Document | None]
"""Group, rows that get a bar, and the row that they are compared with."""

# Colours of Okabe and Ito, which colour-blind readers can tell apart.
COLOURS = {"ultralytics": "#e69f00", "yolodata": "#0072b2", "fixed": "#bbbbbb",
           "peer": "#009e73"}  # fmt: skip
INK, MUTED, GRID, WARNING = "#1f2328", "#59636e", "#e3e7eb", "#b03a00"
DPI = 200  # shown at half of that, 800 pixels wide

_WIDTH, _LINE = 8.0, 0.17  # of the chart, and height of a line of text, in inches
_NAME, _NOTE = 32, 118  # letters a line of a name, of a note below
_SPEED, _RATIO = 45, 175  # points from the bars to the right edges of the columns of numbers


def save(path: Path, values: Document) -> None:
    """Draw a document of `results` as a bar chart; the suffix of `path` chooses the format.

    Raises:
        ConfigError: matplotlib is missing or does not know the format, or the file cannot be
            written.
    """
    check_format(path)
    drawn = io.BytesIO()
    draw(values).savefig(drawn, dpi=DPI, format=path.suffix[1:].lower())
    write_output(path, drawn.getbuffer(), "--plot")


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


def draw(values: Document) -> Figure:
    """A document of `results` as a bar chart, a panel for each group of rows."""
    panels = _panels(values)
    names = [[textwrap.fill(report.label(row), _NAME) for row in rows] for _, rows, _ in panels]
    heights = [len(each) * (0.12 + _LINE * (1 + max(name.count("\n") for name in each)))
               for each in names]  # fmt: skip
    height = sum(0.95 + each for each in heights)
    done = "trained" if values["benchmark"] == "train" else "made"
    figure = page(f"Training pictures {done} a second", height,
                  [*_warnings(values), *_notes(values)])  # fmt: skip
    widest: dict[str, float] = {}
    for (device, *_), rows, _ in panels:
        widest[device] = max(widest.get(device, 0), *(row["img_s"]["max"] or 0 for row in rows))
    grid = figure.add_gridspec(len(panels) or 1, height_ratios=heights or None)
    for at, (each, panel) in enumerate(zip(names, panels, strict=True)):
        axes = figure.add_subplot(grid[at])
        _draw_panel(axes, each, values, panel)
        axes.set_xlim(0, 1.04 * widest[panel[0][0]] or 1)
    return figure


def page(title: str, height: float, notes: list[str]) -> Figure:
    """A figure with a title above and notes below `height` inches for axes, which make room."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    below = "\n".join(textwrap.fill(note, _NOTE) for note in notes)
    size = _WIDTH, 0.7 + height + _LINE * (1 + below.count("\n"))
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(size, facecolor="white", layout=layout)
    figure.suptitle(title, x=0.02, ha="left", size=13, weight="bold", color=INK)
    figure.supxlabel(below, x=0.02, ha="left", size=8, color=MUTED, linespacing=1.4,
                     parse_math=False)  # fmt: skip
    return figure


def _panels(values: Document) -> list[Panel]:
    panels = []
    for group, members in report.groups(values).items():
        rows = [row for row in members if _family(row) in COLOURS]
        if rows:
            panels.append((group, rows, report.base(rows)))
    return panels


def _family(row: Document) -> str:
    return str(row["kind"]).partition("-")[0]


def _draw_panel(axes: Axes, names: list[str], values: Document, panel: Panel) -> None:
    """Names, bars and numbers of one group of rows, and what they are."""
    group, rows, base = panel

    def write(at: float, right: float, text: str, **style: Any) -> None:
        axes.annotate(text, (1, at), (right, 0), ("axes fraction", "data"), "offset points",
                      ha="right", **{"va": "center", "size": 9, "color": INK, **style})  # fmt: skip

    for at, row in enumerate(rows):
        low, middle, high = (row["img_s"][name] for name in ("min", "median", "max"))
        if middle is None:
            write(at, _SPEED, "failed", color=WARNING)
            continue
        axes.barh(at, middle, 0.6, color=COLOURS[_family(row)], ecolor=INK, capsize=2.5,
                  xerr=[[middle - low], [high - middle]])  # fmt: skip
        write(at, _SPEED, f"{middle:,.0f}", weight="bold")
        if row is base:
            write(at, _RATIO, "1")
        elif base:
            ratio = report.ratio(row, base)
            marked = report.marked(values, ratio)
            write(at, _RATIO, marked, color=WARNING if report.doubt(ratio) else INK)
    heading = report.where(group)
    axes.set_title(heading[0].upper() + heading[1:], loc="left", size=10.5, weight="bold",
                   color=INK)  # fmt: skip
    small: dict[str, Any] = {"size": 8, "color": MUTED}
    write(-0.6, _SPEED, "img/s", va="bottom", **small)
    if base:
        against = f"times as fast as\n{textwrap.shorten(base['label'], 30)}"
        write(-0.6, _RATIO, against, va="bottom", **small)
    # The ceiling would make all bars short: it is a number instead.
    ceiling = [f"; copying alone: {row['img_s']['median']:,.0f}"
               for row in report.groups(values)[group]
               if row["kind"] == "copy" and row["img_s"]["median"]]  # fmt: skip
    axes.set_xlabel("pictures a second (img/s)" + "".join(ceiling), **small)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), names, size=9, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, labelcolor=MUTED, color=GRID)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(MUTED)


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
    how, machine = report.how(values), report.about_machine(values)[:-1]
    if not shown:
        return [how, "No loader was measured.", *machine]
    rounds = max(len(row["img_s"]["samples"]) for row, _ in shown)
    bars = f"Bar: median of {rounds} rounds. Line: slowest to fastest round."
    bars = "Bar: the only round." if rounds == 1 else bars
    if any(base for _, base in shown):
        bars += " Ratios: round by round, median (min to max)."
    others = [f"{label}: {text}." for label, text in report.differences(values).items()]
    return [how, bars, *others, *machine, versions(values)]


def versions(values: Document) -> str:
    """The versions that matter to speed most."""
    names = ("yolodata", "ultralytics", "torch", "commit")
    found = values["versions"]
    return ", ".join(f"{name} {found[name]}" for name in names if name in found)
