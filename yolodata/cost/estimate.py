"""Hours and money: what was measured, times what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from yolodata.cost.interruptions import daly, slowdown
from yolodata.cost.measurements import Measurement
from yolodata.cost.prices import Price, Prices
from yolodata.errors import ConfigError

SHORTEST = 1.0
"""Seconds between checkpoints: below, steps themselves are longer."""


@dataclass(frozen=True)
class Interrupted:
    """What interruptions do to a run on spot machines.

    Attributes:
        between_hours: from one interruption to the next, on average.
        checkpoint_minutes: the setting that makes the run cheapest; 0 is at the ends of epochs.
        paid: hours that are paid by hours without interruptions and checkpoints.
        passed: hours that pass, with those without a machine, by the same.
    """

    between_hours: float
    checkpoint_minutes: float
    paid: float
    passed: float


@dataclass(frozen=True)
class Estimate:
    """What training costs on one type of GPU.

    Attributes:
        measurement: what was measured.
        price: of the GPU; None where the file has none.
        epoch_hours: of an epoch, without interruptions.
        epochs: of the run; None where nobody says.
        on_demand: money for an epoch; None without a price.
        spot: the same; with `interrupted`, if that is known.
        interrupted: what interruptions do; None where it cannot be told, see `notes`.
        notes: what has to be known beside the figures.
    """

    measurement: Measurement
    price: Price | None
    epoch_hours: float
    epochs: int | None
    on_demand: float | None
    spot: float | None
    interrupted: Interrupted | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the values for JSON."""
        one, epochs = self.measurement, self.epochs
        run = {
            name: None if epochs is None or value is None else value * epochs
            for name, value in (
                ("hours", self.epoch_hours), ("on_demand", self.on_demand), ("spot", self.spot),
            )
        }  # fmt: skip
        lost = self.interrupted
        return {
            "gpu": one.gpu, "gpus": one.gpus, "images_s": one.images_s, "source": one.source,
            "what": one.what, "covers": one.covers, "claim": one.claim, "epochs": epochs,
            "epoch": {"hours": self.epoch_hours, "on_demand": self.on_demand, "spot": self.spot},
            "run": run,
            "interruptions": None if lost is None else {
                "between_hours": None if math.isinf(lost.between_hours) else lost.between_hours,
                "paid": lost.paid, "passed": lost.passed,
                "yolodata.checkpoint_minutes": lost.checkpoint_minutes,
            },
            "pauses_s": None if one.pauses is None else vars(one.pauses),
            "notes": list(self.notes),
        }  # fmt: skip


def estimate(one: Measurement, prices: Prices, images: int | None, epochs: int | None) -> Estimate:
    """Returns what training costs on the GPU of a measurement.

    Args:
        one: the measurement.
        prices: the user's.
        images: of an epoch; None takes what the measurement says.
        epochs: of the run; the same.

    Raises:
        ConfigError: nobody says how many images an epoch has.
    """
    count = images or one.images
    if count is None:
        raise ConfigError(
            f"{one.source}: does not say how many images an epoch has; give --images, the images "
            "of your training split"
        )
    hours = count / one.images_s / 3600
    epochs = epochs or one.epochs
    notes = [f"measured by {one.source} ({one.what}): {one.covers}"]
    if one.claim:
        notes = [one.claim]
    if images and one.images and images != round(one.images):
        notes.append(f"scaled from epochs of {one.images:,.0f} images to {images:,}")
    if epochs is None:
        notes.append("nobody says how many epochs a run has; give --epochs")
    price = prices.of(one.gpu)
    if price is None:
        notes.append(f"no price of {one.gpu} in the file")
        return Estimate(one, None, hours, epochs, None, None, None, tuple(notes))
    on_demand = spot = lost = None
    if price.on_demand is not None:
        on_demand = hours * price.hour(price.on_demand, one.gpus)
    if price.spot is not None:
        lost, why = _interrupted(one, price, hours)
        notes += [why] if why else []
        spot = hours * price.hour(price.spot, one.gpus) * (1 if lost is None else lost.paid)
    return Estimate(one, price, hours, epochs, on_demand, spot, lost, tuple(notes))


def _interrupted(one: Measurement, price: Price, hours: float) -> tuple[Interrupted | None, str]:
    """What interruptions do to a run, or why that is not known."""
    if price.interruptions_per_hour is None:
        return None, "spot without interruptions: the prices have no interruptions_per_hour"
    if one.pauses is None:
        return None, f"spot without interruptions: {one.lacking}"
    rate = price.interruptions_per_hour * price.machines(one.gpus, one.gpus_a_machine) / 3600
    between = 1 / rate if rate else math.inf
    best = max(SHORTEST, one.pauses.write, daly(one.pauses.waits, between)) if rate else between
    epoch = hours * 3600
    at_ends = best >= epoch  # each has a checkpoint at its end in any case
    paid = slowdown(min(best, epoch), one.pauses, between)
    away = 60 * price.replacement_minutes * rate  # nothing is paid while there is no machine
    minutes = 0.0 if at_ends else best / 60
    said = f"checkpoints: {one.lacking}" if one.lacking else ""
    return Interrupted(between / 3600, minutes, paid, paid * (1 + away)), said


def claimed(text: str, base: Measurement) -> Measurement:
    """Returns the measurement of a GPU that nobody measured, as a user claims it.

    Args:
        text: NAME=RATIO, how many times as fast as the base.
        base: what was measured.

    Raises:
        ConfigError: the text is something else.
    """
    name, _, ratio = text.rpartition("=")
    try:
        times = float(ratio)
    except ValueError:
        times = 0.0
    if not name.strip() or not 0 < times < 1e6:
        raise ConfigError(
            f"--also must be GPU=RATIO, how many times as fast as {base.gpu}, such as "
            f"'NVIDIA L40S=0.4', got {text!r}"
        )
    said = f"your claim, not measured: {times:g} times as fast as {base.gpu} of {base.source}"
    return replace(
        base, gpu=name.strip(), images_s=base.images_s * times, pauses=None, claim=said,
        lacking="nobody measured its checkpoints and restarts",
    )  # fmt: skip


def unmeasured(found: Sequence[Estimate], prices: Prices) -> list[str]:
    """Returns the GPUs that have a price, and that nobody measured."""
    known = {one.price for one in found}
    return [price.gpu for price in prices.gpus if price not in known]
