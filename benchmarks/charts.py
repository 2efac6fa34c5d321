"""Draws the charts of README and docs from benchmarks/results/*.json.

    python benchmarks/charts.py                 draws those that are there again
    python benchmarks/charts.py FILE.json       draws FILE.png beside it
    python benchmarks/charts.py --check         fails if one was drawn from other numbers

A chart states the checksum of the JSON file beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from yolodata.bench import plot, report

RESULTS = Path(__file__).parent / "results"
_STYLES = {
    "ultralytics": ("Ultralytics", "#d55e00", "--"),
    "yolodata": ("yolodata", "#0072b2", "-"),
}
_FEW = 5  # with fewer seeds a band says little


def curves(values: dict[str, Any]) -> Figure:
    """What benchmarks/training.py wrote: mean and range of the seeds, a panel for each curve."""
    runs = {loader: [run for run in values["runs"] if run["loader"] == loader]
            for loader in _STYLES}  # fmt: skip
    seeds = [len(found) for found in runs.values()]
    settings = values["settings"]
    how = (
        f"{settings['model']} from scratch on {values['dataset']}, imgsz {settings['imgsz']}, "
        f"batch {settings['batch']}, {settings['epochs']} epochs"
    )
    few = "" if min(seeds) >= _FEW else f" Fewer than {_FEW} seeds say little."
    band = (
        f"Line: mean of {' and '.join(map(str, dict.fromkeys(seeds)))} seeds. Band: lowest to "
        f"highest.{few}"
    )
    dates = sorted({run["date"] for run in values["runs"]})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machine = report.about_machine({**values, "date": when})[:-1]
    notes = [how, band, *machine, plot.versions(values)]
    figure = plot.page("The same model, trained from both loaders", 5.0, notes)
    names = list(values["runs"][0]["curves"])
    for at, name in enumerate(names):
        axes = figure.add_subplot((len(names) + 1) // 2, 2, at + 1)
        for loader, (label, colour, line) in _STYLES.items():
            found = np.array([run["curves"][name] for run in runs[loader]])
            epochs = np.arange(1, found.shape[1] + 1)
            axes.fill_between(epochs, found.min(0), found.max(0), color=colour, alpha=0.18, lw=0)
            axes.plot(epochs, found.mean(0), line, color=colour, lw=1.8, label=label)
        axes.set_title(name, loc="left", size=10, weight="bold", color=plot.INK)
        axes.set_xlabel("epoch", size=8, color=plot.MUTED, labelpad=1)
        axes.set_xlim(1, max(2, found.shape[1]))
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.tick_params(labelsize=8, labelcolor=plot.MUTED, color=plot.GRID)
        axes.grid(color=plot.GRID)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(plot.GRID)
        if at == 0:
            axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


MAKERS: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "loader": plot.draw, "train": plot.draw, "training": curves,
}  # fmt: skip
"""How the results of each benchmark become a chart, by their `benchmark` entry."""


def source(results: Path) -> str:
    """What a chart says about the file of results that it was drawn from."""
    return f"{results.name} xxh3_64 {xxhash.xxh3_64_hexdigest(results.read_bytes())}"


def draw(results: Path) -> Path:
    """Draws the chart of a file of results beside it; returns its path.

    Raises:
        SystemExit: there is no chart of such results.
    """
    values: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    if values.get("benchmark") not in MAKERS:
        raise SystemExit(f"{results} is not of {', '.join(MAKERS)}, of which there are charts")
    chart = results.with_suffix(".png")
    drawn, texts = io.BytesIO(), PngInfo()
    MAKERS[values["benchmark"]](values).savefig(drawn, dpi=plot.DPI)
    texts.add_text("Source", source(results))
    with Image.open(drawn) as picture:  # few colours, and shades of them: a third of the size
        few = picture.convert("RGB").quantize(256)
        few.save(chart, optimize=True, pnginfo=texts, dpi=(plot.DPI, plot.DPI))
    return chart


def is_current(chart: Path) -> bool:
    """Whether a chart was drawn from what the file of results beside it holds now."""
    with Image.open(chart) as picture:
        return bool(picture.info.get("Source") == source(chart.with_suffix(".json")))


def main(argv: list[str] | None = None) -> int:
    """Carry out the command line; 1 if --check finds an old chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", nargs="*", type=Path, help="JSON files (default: all charted)")
    parser.add_argument("--check", action="store_true", help="draw nothing; fail if one is old")
    args = parser.parse_args(argv)
    files = args.results or [path.with_suffix(".json") for path in sorted(RESULTS.glob("*.png"))]
    if args.check:
        old = [path for path in files if not is_current(path.with_suffix(".png"))]
        for path in old:
            print(f"the chart of {path} is not up to date; run {__file__}", file=sys.stderr)
        return int(bool(old))
    for path in files:
        print(draw(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
