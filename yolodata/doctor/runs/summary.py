"""What the records of a run say in figures."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from yolodata.doctor.runs.records import Run, Steps
from yolodata.doctor.runs.rhythm import stalled
from yolodata.doctor.runs.waiting import PARTS

_NAMES = {
    "storage_ms": "storage",
    "decode_ms": "decode",
    "plan_ms": "augment",
    "render_ms": "augment",
    "copy_ms": "copy",
}
MOST = 2000
"""Steps of the timeline."""


def summary(run: Run) -> dict[str, Any]:
    """Returns what `Outcome.measured` has of a run; times are of rank 0, or the first there is."""
    steps, steady = run.leading, run.steady()
    age = time.time() - float(steps["time"][-1])
    mean = float(steps["step_ms"].mean())
    found: dict[str, Any] = {
        "ranks": len(run.steps),
        "steps": int(steps["step"][-1]),
        "steps_recorded": len(steps),
        "epochs_done": run.epochs_done,
        "running": age < max(60.0, 10e-3 * mean),
        "last_step_s_ago": round(age, 1),
        "step_ms": round(float(steady["step_ms"].mean()), 3),
        "step_ms_median": round(float(np.median(steady["step_ms"])), 3),
        "images_s": round(1e3 * float((steady["images"] / steady["step_ms"]).mean()), 1),
        "wait_share": round(float(steady.waits.sum() / steady["step_ms"].sum()), 4),
        "step_parts_ms": step_parts(steady),
        "epochs": [_epoch(steps, number) for number in np.unique(steps["epoch"])],
        "stalls": _stalls(steady),
        "restart_gaps_s": [round(float(gap), 1) for gap in steps.gaps if gap >= 30],
        "timeline": _timeline(steps),
    }
    busy = steady.mean("gpu_busy")
    if busy is not None:
        found["gpu_busy"] = round(busy, 3)
    if len(run.steps) > 1:
        found["by_rank"] = {str(rank): _rank(run, rank) for rank in run.steps}
    return found


def step_parts(steps: Steps) -> dict[str, float]:
    """Returns milliseconds of the parts of a step, which add up to it; what is 0 is left out."""
    parts: dict[str, float] = {}
    for column in PARTS:
        parts[_NAMES[column]] = parts.get(_NAMES[column], 0.0) + float(steps.each(column).mean())
    parts["other_waiting"] = max(0.0, float(steps.waits.mean()) - sum(parts.values()))
    rest = {
        "reduce": "all_reduce_ms",
        "slower_ranks": "straggler_ms",
        "callbacks": "callbacks_ms",
        "launch": "launch_ms",
    }
    parts |= {name: float(steps.each(column).mean()) for name, column in rest.items()}
    parts["model"] = max(0.0, float(steps["step_ms"].mean()) - sum(parts.values()))
    return {name: round(value, 3) for name, value in parts.items() if value >= 0.0005}


def _epoch(steps: Steps, number: float) -> dict[str, Any]:
    own = steps.where(steps["epoch"] == number)
    after = steps.where(steps["epoch"] == number + 1)
    found: dict[str, Any] = {
        "epoch": int(number),
        "steps": len(own),
        "step_ms": round(float(own["step_ms"].mean()), 3),
        "wait_ms": round(float(own.waits.mean()), 3),
        "storage_ms": round(float(own.each("storage_ms").mean()), 3),
        "training_s": round(1e-3 * float(own["step_ms"].sum()), 3),
    }
    if len(after) and after.known("validate_ms"):
        found["validation_s"] = round(1e-3 * float(after.each("validate_ms")[0]), 3)
        found["saving_s"] = round(1e-3 * float(after.each("save_ms")[0]), 3)
    return found


def _stalls(steps: Steps) -> list[dict[str, float]]:
    """The longest steps among those that stall, longest first."""
    odd = steps.where(stalled(steps))
    return [
        {
            "step": int(odd["step"][i]),
            "step_ms": round(float(odd["step_ms"][i]), 1),
            "wait_ms": round(float(odd.waits[i]), 1),
        }
        for i in np.argsort(-odd["step_ms"])[:20]
    ]


def _rank(run: Run, rank: int) -> dict[str, float | None]:
    steps = run.steady(rank)
    columns = ("step_ms", "wait_ms", "straggler_ms", "all_reduce_ms", "callbacks_ms", "gpu_busy")
    means = {column: steps.mean(column) for column in columns}
    return {name: None if mean is None else round(mean, 3) for name, mean in means.items()}


def _timeline(steps: Steps) -> dict[str, list[float]]:
    """The steps of the first epoch, or its first ones: when each ended, its time, its waits."""
    first = steps.where(steps["epoch"] == steps["epoch"][0])
    begun = float(first["time"][0]) - 1e-3 * float(first["step_ms"][0])
    return {
        "seconds": [round(float(value) - begun, 3) for value in first["time"][:MOST]],
        "step_ms": [round(float(value), 3) for value in first["step_ms"][:MOST]],
        "wait_ms": [round(float(value), 3) for value in first.waits[:MOST]],
    }
