"""What a run costs beside its steps: validation, saving, restarts, and memory that grows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from yolodata.doctor.finding import Finding, Knob, gain_without
from yolodata.doctor.runs.records import ENOUGH, Floats, Run, Steps

SAVING, SAVING_SECONDS = 0.10, 5.0
"""Share of an epoch, and seconds of each, from which on saving is one to complain about."""

VALIDATION = 0.25
"""Share of an epoch from which on it is worth a word that validation can be rarer."""

GAP_SECONDS, GAPS = 30.0, 0.05
"""A restart leaves a gap of so many seconds; so much of a run's time is one to complain about."""

GROWTH, GROWTH_MIB = 0.10, 200.0
"""Memory grows if it becomes so much more, relative and absolute, after the first epoch."""

UNSAVED_SECONDS = 1800.0
"""Training that no checkpoint holds, of a run with checkpoints, from which on that is a risk."""


def found(run: Run) -> Iterator[Finding]:
    """Yields what the upkeep of a run costs."""
    yield from _between_epochs(run)
    yield from _restarts(run)
    yield from _unsaved(run)
    for rank, steps in run.steps.items():
        for column, what in (("private_mib", "Memory"), ("device_mib", "GPU memory")):
            yield from _growth(rank, steps, column, what)


def _between_epochs(run: Run) -> Iterator[Finding]:
    steps = run.leading
    epochs = np.unique(steps["epoch"])
    begins = np.flatnonzero(np.diff(steps["epoch"]) > 0) + 1
    if not len(begins) or not steps.known("validate_ms"):
        return
    # Epochs that begin and end in these rows, with what comes before the next one.
    whole = steps.where(steps["epoch"] < epochs[-1])
    sums = [whole["step_ms"][whole["epoch"] == epoch].sum() for epoch in epochs[:-1]]
    training = 1e-3 * float(np.median(sums))  # the first one compiles
    validating = 1e-3 * float(np.median(steps.each("validate_ms")[begins]))
    within = float(whole.each("save_ms").sum() - whole.each("save_ms")[_begins(whole)].sum())
    saving = 1e-3 * (float(np.median(steps.each("save_ms")[begins])) + within / len(begins))
    epoch = training + validating + saving
    step_ms = 1e3 * epoch / (len(whole) / len(begins))
    if saving >= SAVING * epoch and saving >= SAVING_SECONDS:
        yield _of_an_epoch(
            "saving", "slow", "Saving takes a large part of each epoch.",
            f"checkpoints, results, loggers and plots take {saving:.1f} of {epoch:.1f} s",
            Knob("Put the run folder on a local disk, and have it copied from there "
                 "(yolodata.upload).", {}),
            saving / epoch, step_ms,
        )  # fmt: skip
    if validating >= VALIDATION * epoch:
        yield _of_an_epoch(
            "validation", "opportunity", "Validation takes a large part of each epoch.",
            f"{validating:.1f} of {epoch:.1f} s; the prediction is for none but the last one",
            Knob("Validate at the end alone.", {"val": False}),
            validating / epoch, step_ms,
        )  # fmt: skip


def _begins(steps: Steps) -> np.ndarray:
    return np.flatnonzero(np.diff(steps["epoch"], prepend=-1) != 0)


def _of_an_epoch(
    cause: str, kind: str, title: str, evidence: str, knob: Knob, share: float, step_ms: float
) -> Finding:
    """A loss between epochs, spread over the steps of one."""
    return Finding(
        cause, kind, title, f"{evidence} ({share:.0%})", knob,  # type: ignore[arg-type]
        share * step_ms, step_ms, gain_without(share, 1.0),
    )  # fmt: skip


def _restarts(run: Run) -> Iterator[Finding]:
    steps = run.leading
    gaps = steps.gaps[steps.gaps >= GAP_SECONDS]
    length = float(steps["time"][-1] - steps["time"][0]) + 1e-3 * float(steps["step_ms"][0])
    if gaps.sum() < GAPS * length:
        return
    at = steps["step"][steps.gaps >= GAP_SECONDS].astype(int).tolist()
    yield Finding(
        "restarts", "risk", "The run stood still, or did again what was lost.",
        f"{len(gaps)} gaps of {gaps.sum() / 60:.1f} min in all ({gaps.sum() / length:.0%} of the "
        f"run), before steps {', '.join(map(str, at[:5]))}{' …' if len(at) > 5 else ''}; a gap is "
        "the time between two steps that is neither validation nor saving",
        Knob("Start it so that it goes on by itself, with checkpoints often enough.",
             {"resume": "auto"}),
    )  # fmt: skip


def _unsaved(run: Run) -> Iterator[Finding]:
    if not run.checkpoints:
        return
    minutes = (run.settings or {}).get("checkpoint_minutes")
    usual = 60 * minutes if isinstance(minutes, int | float) else 0.0
    unsaved = float(run.leading["time"][-1]) - run.checkpoints[-1]
    if unsaved < max(3 * usual, UNSAVED_SECONDS):
        return
    yield Finding(
        "checkpoints", "risk", "A long part of the training is in no checkpoint.",
        f"the last step is {unsaved / 60:.0f} min younger than the newest checkpoint",
        Knob("Write checkpoints within an epoch, and look why the last one was not written.",
             {"yolodata.checkpoint_minutes": 10.0}),
    )  # fmt: skip


def _growth(rank: int, steps: Steps, column: str, what: str) -> Iterator[Finding]:
    """Memory that keeps growing after the first epoch, all the time."""
    later = steps.where((steps["epoch"] > steps["epoch"][0]) & np.isfinite(steps[column]))
    if len(later) < 5 * ENOUGH:
        return
    fifths = [float(np.median(part)) for part in np.array_split(later[column], 5)]
    grown = fifths[-1] - fifths[0]
    if grown < max(GROWTH_MIB, GROWTH * fifths[0]) or not _rises(np.array(fifths)):
        return
    slope = float(np.polyfit(later["step"], later[column], 1)[0])
    yield Finding(
        "memory_growth", "risk", f"{what} of rank {rank} keeps growing.",
        f"from {fifths[0]:.0f} to {fifths[-1]:.0f} MiB after the first epoch, "
        f"{1000 * slope:.0f} MiB every 1000 steps, without an end",
        Knob("Look what callbacks or loggers keep of each step: tensors with their graphs, "
             "pictures, lists.", {}),
    )  # fmt: skip


def _rises(values: Floats) -> bool:
    """Whether each is more than the one before, by about as much: it does not level off."""
    steps = np.diff(values)
    return bool((steps > 0).all() and steps[-1] >= 0.3 * steps.mean())
