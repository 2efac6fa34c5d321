"""What other settings would change in memory and in speed: each one is tried."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from yolodata.doctor.memory.devices import Device, OutOfMemory
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import ModelStep
from yolodata.errors import ConfigError

COMPILING = 90.0
"""Seconds that have to be left for compiling to be tried: it cannot be ended once it began."""

_ROUNDS = 5


@dataclass(frozen=True)
class Change:
    """What a setting does, beside the set-up as it is, in turns.

    Attributes:
        name: of what is changed: "amp", "channels_last", "compile", "batch", "accumulation".
        settings: by which it is changed.
        batch: pictures a step.
        peak_bytes: of tensors, static ones included, as torch counts them.
        ms: milliseconds of a step; the median.
        gain: times as many pictures a second as without the change; the median of rounds.
        least_gain: in the worst round.
        once_s: seconds that it takes before the first step.
    """

    name: str
    settings: dict[str, Any]
    batch: int
    peak_bytes: int
    ms: float
    gain: float
    least_gain: float
    once_s: float = 0.0


def candidates(step: ModelStep) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns (cause, settings) by text, of all that is otherwise than it is, on a GPU."""
    args = step.trainer.args
    precision = "bf16" if args.amp == "bf16" else "fp16" if step.trainer.amp else "fp32"
    amp = {"fp16": True, "bf16": "bf16", "fp32": False}
    found = {
        f"amp={value}": ("amp", {"amp": value}) for name, value in amp.items() if name != precision
    }
    other = not channels_last(step.trainer.model)
    found[f"channels_last={other}"] = ("channels_last", {"channels_last": other})
    found["compile=True"] = ("compile", {"compile": True})
    return found


def channels_last(model: torch.nn.Module) -> bool:
    """Whether weights of convolutions are in the memory order (N, H, W, C)."""
    return any(
        weight.dim() == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in model.parameters()
    )


def try_settings(
    name: str,
    settings: Mapping[str, Any],
    setup: Setup,
    step: ModelStep,
    device: Device,
    batch: Mapping[str, Any],
) -> Change:
    """Trains with other settings, in turns with the set-up as it is.

    Args:
        name: of the change.
        settings: what is other.
        setup: as it is.
        step: of the set-up as it is, on the device.
        device: that trains.
        batch: for both.

    Raises:
        ConfigError: the settings cannot be used.
        RuntimeError: they cannot be used here.
        OutOfMemory: they do not fit beside the set-up as it is.
    """
    held = device.static()
    begun = time.perf_counter()
    other = ModelStep(replace(setup, arguments={**setup.arguments, **settings}))
    other(batch)
    once = time.perf_counter() - begun
    other(batch)
    peak = device.passes(other, batch)
    static = device.static() - held
    change = in_turns(lambda: step(batch), lambda: other(batch), 1.0)
    images = int(batch["img"].shape[0])
    return Change(name, dict(settings), images, static + peak.tensors, *change, once_s=once)


def try_batch(
    name: str, step: ModelStep, device: Device, batch: Mapping[str, Any], other: Mapping[str, Any]
) -> Change:
    """Trains with another batch, in turns with the one of the set-up.

    Raises:
        OutOfMemory: it does not fit.
    """
    images = int(other["img"].shape[0])
    static = device.static()
    peak = device.passes(step, other)
    step(other)
    pictures = images / int(batch["img"].shape[0])
    change = in_turns(lambda: step(batch), lambda: step(other), pictures)
    return Change(name, {"batch": images}, images, static + peak.tensors, *change)


def in_turns(
    as_is: Callable[[], Any], changed: Callable[[], Any], pictures: float
) -> tuple[float, float, float]:
    """Times two kinds of steps, one after the other.

    Args:
        as_is: makes a step as it is, and waits for its end.
        changed: makes one with the change.
        pictures: of the changed step, for each one of the other.

    Returns:
        milliseconds of a changed step (median), gain (median of rounds), least gain.
    """
    as_is(), changed()  # what is made once is not counted
    gains, times = [], []
    for _ in range(_ROUNDS):
        before, after = _seconds(as_is), _seconds(changed)
        gains.append(pictures * before / after)
        times.append(after)
    return 1e3 * statistics.median(times), statistics.median(gains), min(gains)


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


UNUSABLE = (ConfigError, OutOfMemory, RuntimeError)
"""What a change that cannot be tried raises."""
