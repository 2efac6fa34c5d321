"""Which stage of a loader a wait is due to, and what of a GPU's idle time nothing else explains."""

from __future__ import annotations

from collections.abc import Mapping

from yolodata.telemetry.step_row import StepRow

_HOST = {
    "storage": "storage_ms",
    "decode": "decode_ms",
    "plan": "plan_ms",
    "collate": "plan_ms",
    "render": "render_ms",
    "transform": "render_ms",
}
_DEVICE = {"copy": "copy_ms", "kernel": "render_ms"}
"""Stage of a loader -> column. The host waits for the first, the device for the second."""


def attribute(row: StepRow, seconds: Mapping[str, float]) -> None:
    """Fills the columns of a row that say what its waits are due to.

    A wait is split in proportion to the time that the loader's threads spent on each stage while
    the step lasted: who waits, waits for all of them. A stage that the loader does not know stays
    None; "storage" is then part of the stage in which it happened.

    Args:
        row: with `wait_ms` and what is known of the device; it is changed.
        seconds: of each stage, that passed during the step; "device_wait" is how long the device
            had nothing to do until the batch was there.
    """
    stalled = seconds.get("device_wait")
    row.device_wait_ms = None if stalled is None else 1e3 * stalled
    _split(row, row.wait_ms, seconds, _HOST)
    if row.device_wait_ms is not None:
        _split(row, row.device_wait_ms, seconds, _DEVICE)


def _split(
    row: StepRow, wait_ms: float, seconds: Mapping[str, float], columns: Mapping[str, str]
) -> None:
    known = {stage: max(0.0, seconds[stage]) for stage in columns if stage in seconds}
    total = sum(known.values())
    if total == 0 and wait_ms > 0:
        return  # it waited for something that nobody counts
    for stage, spent in known.items():
        part = wait_ms * spent / total if total else 0.0
        before = getattr(row, columns[stage]) or 0.0
        setattr(row, columns[stage], before + part)


def launch_ms(row: StepRow) -> float | None:
    """Returns how long the GPU was idle in a step for no other reason that is known.

    It had nothing to do because Python had not launched it yet. This is what NVML's busy share
    leaves over, so it is as coarse as that is. None without a GPU.
    """
    if row.gpu_busy is None:
        return None
    waits = (row.wait_ms, row.device_wait_ms, row.callbacks_ms)
    idle = (1 - row.gpu_busy) * row.step_ms - sum(wait or 0.0 for wait in waits)
    return max(0.0, idle)
