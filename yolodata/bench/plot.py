"""Bars: pictures a second of every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolodata.bench import report
from yolodata.errors import ConfigError

_COLOURS = {"ultralytics": "#8a8f98", "yolodata": "#1f6feb", "fixed": "#d8dbe0"}


def save(path: Path, values: dict[str, Any]) -> None:
    """Draw a document of `results` as a bar chart; the suffix of `path` chooses the format.

    Raises:
        ConfigError: matplotlib is missing or does not know the format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib; run `pip install matplotlib`") from None
    groups = report.groups(values)
    figure = Figure(figsize=(9, 0.6 + 2.2 * len(groups)), layout="constrained")
    for at, (group, members) in enumerate(groups.items()):
        axes = figure.add_subplot(len(groups), 1, at + 1)
        done = [row for row in members if row["img_s"]["median"]]
        rows = [row for row in done if row["kind"] in _COLOURS][::-1]
        speeds = [row["img_s"] for row in rows]
        spread = [
            [s["median"] - s["min"] for s in speeds],
            [s["max"] - s["median"] for s in speeds],
        ]
        axes.barh([row["label"] for row in rows], [s["median"] for s in speeds], xerr=spread,
                  color=[_COLOURS[row["kind"]] for row in rows], ecolor="#24292f")  # fmt: skip
        for y, row in enumerate(rows):
            axes.annotate(_caption(row, values), (row["img_s"]["max"], y), xytext=(6, 0),
                          textcoords="offset points", va="center", fontsize=8)  # fmt: skip
        # The ceiling would make all other bars short: it is a number in the title instead.
        copying = [row["img_s"]["median"] for row in done if row["kind"] == "copy"]
        ceiling = f"; copying alone: {copying[0]:,.0f}" if copying else ""
        title = f"{report.where(group)}, pictures a second{ceiling}"
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(x=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    size, batch = values["settings"]["imgsz"], values["settings"]["batch"]
    title = f"Training batches of {batch}, {size} x {size}, {values['machine']['cpu']}"
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise ConfigError(f"--plot {path}: {error}") from None


def _caption(row: dict[str, Any], values: dict[str, Any]) -> str:
    speed = f"{row['img_s']['median']:,.0f}"
    short = {r["name"]: r["short"] for r in values["rows"]}
    for ratio in values["ratios"]:
        if ratio["ours"] == row["name"] and ratio["peer"] in row["peers"][:1]:
            return f"{speed}  ({ratio['median']:.1f} x {short[ratio['peer']]})"
    return speed
