"""What a step costs beside data and arithmetic: callbacks, and Python that launches kernels."""

from __future__ import annotations

from collections.abc import Iterator

from yolodata.doctor.finding import NOTICED, Finding, Knob, gain_without
from yolodata.doctor.runs.records import Run
from yolodata.doctor.runs.rhythm import without_stalls

LAUNCH = 0.15
"""Share of a step from which on idle time of the GPU is said to be Python's: NVML is coarse."""


def found(run: Run) -> Iterator[Finding]:
    """Yields what the loop itself costs."""
    steps = without_stalls(run.steady())
    step_ms = float(steps["step_ms"].mean())
    callbacks = steps.mean("callbacks_ms") or 0.0
    if callbacks >= NOTICED * step_ms:
        yield Finding(
            "callbacks", "slow", "Callbacks of each step take long.",
            f"callbacks, plots and the progress bar take {callbacks:.1f} of {step_ms:.1f} ms "
            f"({callbacks / step_ms:.0%}), over {len(steps)} steps",
            Knob("Do in on_train_epoch_end what need not be done after each batch.", {}),
            callbacks, step_ms, gain_without(callbacks, step_ms),
        )  # fmt: skip
    launch = steps.mean("launch_ms") or 0.0
    if launch >= LAUNCH * step_ms:
        busy = steps.mean("gpu_busy") or 0.0
        yield Finding(
            "launch", "slow", "The GPU waits for Python to launch its kernels.",
            f"the GPU is busy {busy:.0%} of the time; {launch:.1f} of {step_ms:.1f} ms "
            f"({launch / step_ms:.0%}) are idle without waiting for data or callbacks",
            Knob("Give each step more to do: a larger batch, or a compiled model.",
                 {"compile": True}),
            launch, step_ms,
        )  # fmt: skip
