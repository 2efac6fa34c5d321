"""Steps that wait for data, and what they wait for.

Note [after the fact]. Nothing can be taken away from a run that is over; its steps say what they
would have been. A step that waited was as long as the loader took for a batch. With a part `f` of
the loader's work gone it would take (1 - f) as long, and the step either that or what is left of it
without waiting: min(wait, f * step) is lost to that part. So two parts may each cost all of the
waiting: to take away either is enough.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from yolodata.doctor.finding import NOTICED, Finding, Knob, gain_without
from yolodata.doctor.runs.records import Floats, Run, Steps
from yolodata.doctor.runs.rhythm import without_stalls

PARTS = ("storage_ms", "decode_ms", "plan_ms", "render_ms", "copy_ms")


def found(run: Run) -> Iterator[Finding]:
    """Yields what steps wait for, as a rule; single long steps are another matter."""
    steps = without_stalls(run.steady())
    step_ms = float(steps["step_ms"].mean())
    if steps.waits.mean() < NOTICED * step_ms:
        return
    shares = part_shares(steps)
    if shares is None:
        yield _unknown(run, steps)
        return
    lost = {part: float(lost_to(steps, share).mean()) for part, share in shares.items()}
    worst = max(lost, key=lambda part: (lost[part], shares[part]))
    for part in sorted(lost, key=lambda part: -shares[part]):
        if (lost[part] >= NOTICED * step_ms and shares[part] >= 0.1) or part == worst:
            yield _finding(run, part, shares[part], lost[part], steps)


def part_shares(steps: Steps) -> dict[str, float] | None:
    """Returns the share (0-1) of the waiting that each part of the loader's work has; or None."""
    sums = {part: float(steps.each(part).sum()) for part in PARTS if steps.known(part)}
    total = sum(sums.values())
    return {part: value / total for part, value in sums.items()} if total > 0 else None


def lost_to(steps: Steps, share: float) -> Floats:
    """Returns milliseconds (N,) that steps would be shorter without a share of the work."""
    return np.minimum(steps.waits, share * steps["step_ms"])


def _finding(run: Run, part: str, share: float, lost: float, steps: Steps) -> Finding:
    step_ms, wait = float(steps["step_ms"].mean()), float(steps.waits.mean())
    settings = run.settings or {}
    evidence = (
        f"steps wait {wait:.1f} of {step_ms:.1f} ms ({wait / step_ms:.0%}), over {len(steps)} "
        f"steps; {share:.0%} of the loader's work for them is "
    )
    gain = gain_without(lost, step_ms)
    if part == "storage_ms":
        return Finding(
            "storage", "slow", "Training waits for the storage that the shards are on.",
            evidence + "standing still for bytes that are not in memory" + _read_from_disk(steps),
            Knob("Copy the shards to a faster disk, or give the machine memory to keep them in.",
                 {}),
            lost, step_ms, gain,
        )  # fmt: skip
    if part == "decode_ms":
        return Finding(
            "decode", "slow", "Training waits for the decoding of images.",
            evidence + f"decoding (codec={settings.get('codec', 'unknown')})",
            Knob("Pack raw pixels, which need no decoding and about five times the disk.",
                 {"yolodata.codec": "raw"}),
            lost, step_ms, gain,
        )  # fmt: skip
    if part == "copy_ms":
        return Finding(
            "host_to_device", "slow", "The GPU waits for pictures on their way to it.",
            evidence + "copying to the device",
            Knob("Keep the images on the device, if they fit.", {"yolodata.cache": "device"}),
            lost, step_ms, gain,
        )  # fmt: skip
    what = "rendering pictures" if part == "render_ms" else "planning pictures and their labels"
    half = float(lost_to(steps, share / 2).mean())
    threads = settings.get("threads")
    return Finding(
        "cores", "slow", "Training waits for the processor cores that make its pictures.",
        evidence + f"{what}; the prediction is for twice the cores",
        Knob("Give this run more cores, and the loader as many threads"
             + (f" (it has yolodata.threads={threads})." if threads else "."), {}),
        half, step_ms, gain_without(half, step_ms),
    )  # fmt: skip


def _read_from_disk(steps: Steps) -> str:
    read = steps["read_mib"][np.isfinite(steps["read_mib"])]
    seconds = float(steps["time"][-1] - steps["time"][0])
    if len(read) < 2 or seconds <= 0 or read[-1] <= read[0]:
        return ""
    return f"; the process read {(read[-1] - read[0]) / seconds:.1f} MiB/s from disks"


def _unknown(run: Run, steps: Steps) -> Finding:
    step_ms, wait = float(steps["step_ms"].mean()), float(steps.waits.mean())
    ours = run.settings is not None and steps.known("hit_share")
    knob = Knob(
        "Measure what the loader waits for: `yolodata doctor` with the data of this run.", {}
    )
    if not ours:
        knob = Knob("Feed it by yolodata: `yolodata train`, with the arguments of this run.", {})
    return Finding(
        "loader", "slow", "Training waits for its loader.",
        f"steps wait {wait:.1f} of {step_ms:.1f} ms ({wait / step_ms:.0%}), over {len(steps)} "
        "steps; this loader does not tell what it does meanwhile, and the prediction is for one "
        "that never lets a step wait",
        knob, wait, step_ms, gain_without(wait, step_ms),
    )  # fmt: skip
