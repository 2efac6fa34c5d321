"""What training costs, as a table for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from yolodata.cost.estimate import Estimate
from yolodata.cost.prices import Prices

_HEAD = ("GPU", "img/s", "h/epoch", "h/run", "on demand/epoch", "/run", "spot/epoch", "/run")


def table(found: Sequence[Estimate], prices: Prices, lacking: Sequence[str], width: int) -> str:
    """Returns the table and its notes.

    Args:
        found: the rows, in their order.
        prices: that they were made with.
        lacking: GPUs with a price that nobody measured.
        width: characters of a line of notes.
    """
    source = f" ({prices.source})" if prices.source else ""
    lines = textwrap.wrap(f"Prices in {prices.currency} of {prices.date}{source}", width)
    rows = [_HEAD, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines.append("")
    for row in rows:
        first, *others = (
            cell.rjust(size) if place else cell.ljust(size)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    for one in found:
        lines.append("")
        lines.append(f"{_name(one)}, {one.measurement.images_s:,.0f} img/s:")
        for note in _notes(one):
            lines += textwrap.wrap(note, width, initial_indent="  - ", subsequent_indent="    ")
    if lacking:
        said = (
            f"Nobody measured {', '.join(lacking)}: there is no row. Measure there, or claim a "
            "speed: --also 'GPU=RATIO'."
        )
        lines += ["", *textwrap.wrap(said, width)]
    return "\n".join(lines)


def _notes(one: Estimate) -> Iterator[str]:
    yield from one.notes
    lost = one.interrupted
    if lost is None:
        return
    pauses = one.measurement.pauses
    if pauses is not None:
        yield (
            f"a checkpoint stops training for {pauses.waits:.2g} s and is on disk "
            f"{pauses.write:.2g} s later; a restart takes {pauses.restart:.3g} s"
        )
    setting = f"yolodata.checkpoint_minutes={lost.checkpoint_minutes:.3g}"
    where = " (the ends of epochs suffice)" if not lost.checkpoint_minutes else ""
    if math.isinf(lost.between_hours):
        return
    yield (
        f"spot, interrupted every {lost.between_hours:.3g} h: cheapest with {setting}{where}; "
        f"{lost.paid - 1:.2%} more is paid than without interruptions, and {lost.passed - 1:.2%} "
        "more time passes"
    )


def _cells(one: Estimate) -> tuple[str, ...]:
    run = one.epochs or 0
    cells = [_name(one), f"{one.measurement.images_s:,.0f}", f"{one.epoch_hours:.3g}"]
    cells.append(f"{one.epoch_hours * run:.3g}" if run else "")
    for money in (one.on_demand, one.spot):
        cells.append("" if money is None else _money(money))
        cells.append(_money(money * run) if money is not None and run else "")
    return tuple(cells)


def _money(value: float) -> str:
    digits = 2 if value >= 0.1 or value <= 0 else 1 - math.floor(math.log10(value))
    return f"{value:,.{digits}f}"


def _name(one: Estimate) -> str:
    gpus = f"{one.measurement.gpus} x " if one.measurement.gpus > 1 else ""
    return f"{gpus}{one.measurement.gpu}{' (claim)' if one.measurement.claim else ''}"
