"""Steps that take longer than the others: single ones, and those of the first epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from yolodata.doctor.finding import NOTICED, Finding, Knob, gain_without
from yolodata.doctor.runs.records import ENOUGH, Run, Steps

LONG, LEAST_MS = 3.0, 50.0
"""A step stalls if it takes so many times the median, and so many milliseconds more than it."""

RARE = 0.05
"""Share of steps; if more of them are that long, it is how steps are, and no stall."""

SLOWER = 1.15
"""The first epoch is slow if its steps take so many times as long as later ones."""


def stalled(steps: Steps) -> npt.NDArray[np.bool_]:
    """Returns (N,) which steps stall."""
    median = float(np.median(steps["step_ms"]))
    found = steps["step_ms"] > max(LONG * median, median + LEAST_MS)
    return found if found.mean() <= RARE else np.zeros(len(steps), bool)


def without_stalls(steps: Steps) -> Steps:
    """Returns the other steps."""
    return steps.where(~stalled(steps))


def found(run: Run) -> Iterator[Finding]:
    """Yields what disturbs the rhythm."""
    yield from _stalls(run)
    yield from _first_epoch(run)


def _stalls(run: Run) -> Iterator[Finding]:
    steps = run.steady()
    long = stalled(steps)
    if len(steps) < ENOUGH or not long.any():
        return
    usual = steps.where(~long)
    extra = steps["step_ms"][long] - float(np.median(usual["step_ms"]))
    step_ms, lost = float(steps["step_ms"].mean()), float(extra.sum() / len(steps))
    if lost < NOTICED * step_ms:
        return
    odd = steps.where(long)
    parts = {
        "waiting for data": odd.waits - float(np.median(usual.waits)),
        "callbacks": odd.each("callbacks_ms"),
        "slower ranks": odd.each("straggler_ms"),
    }
    shares = {name: float(values.clip(0).sum() / extra.sum()) for name, values in parts.items()}
    most = max(shares, key=lambda name: shares[name])
    longest = np.argsort(-odd["step_ms"])[:5]
    named = ", ".join(
        f"{int(odd['step'][i])} ({odd['step_ms'][i]:.0f} ms)" for i in sorted(longest.tolist())
    )
    why, knob = "nothing that is recorded", Knob("Look at what else runs on this machine.", {})
    if shares[most] >= 0.5:
        why = f"{most} for {shares[most]:.0%}"
        knob = _KNOBS[most]
        if most == "waiting for data":
            prefetch = int((run.settings or {}).get("prefetch") or 4)
            knob = Knob("Have more batches prepared ahead.", {"yolodata.prefetch": 4 * prefetch})
    yield Finding(
        "jitter", "slow", "Single steps take much longer than the others.",
        f"{int(long.sum())} of {len(steps)} steps take {extra.mean():.0f} ms longer than the "
        f"median of {np.median(usual['step_ms']):.1f} ms, by {why}; the longest are {named}; the "
        "prediction is for none of them",
        knob, lost, step_ms, gain_without(lost, step_ms),
    )  # fmt: skip


_KNOBS = {
    "waiting for data": Knob("Have more batches prepared ahead.", {}),
    "callbacks": Knob("Move rare, long work out of on_train_batch_end.", {}),
    "slower ranks": Knob("Look at the other ranks at these steps; each has a file.", {}),
}


def _first_epoch(run: Run) -> Iterator[Finding]:
    steps = run.leading
    usual = ~steps.first
    first = steps.where(usual & (steps["epoch"] == steps["epoch"][0]))
    later = steps.where(usual & (steps["epoch"] > steps["epoch"][0]))
    if min(len(first), len(later)) < ENOUGH or steps["step"][0] != 1:
        return
    before, after = float(first["step_ms"].mean()), float(np.median(later["step_ms"]))
    after = max(after, float(later["step_ms"].mean()))
    waiting = float(first.waits.mean() - later.waits.mean())
    if before < SLOWER * after or waiting < 0.5 * (before - after):
        return
    lost = before - after
    storage = float(first.each("storage_ms").mean() - later.each("storage_ms").mean())
    stored = storage >= 0.5 * waiting
    evidence = (
        f"a step of the first epoch takes {before:.1f} ms, a later one {after:.1f} ms; "
        f"{waiting:.1f} ms more of it are waiting for data"
    )
    if stored:
        evidence += f", {storage:.1f} of these for storage: the shards were not in memory yet"
    yield Finding(
        "first_epoch", "slow", "The first epoch is slower than the others.", evidence,
        Knob("Read the shards once before training, as with `cat SHARDS/* > /dev/null`, if they "
             "fit into memory." if stored else
             "Look what differs in it: a cold cache, or a dataset that is still being packed.", {}),
        lost, before, before / after, first_epoch=True,
    )  # fmt: skip
