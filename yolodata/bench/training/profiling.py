"""Where the time of training steps goes, by torch's profiler. Runs in a child process."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

Event = dict[str, Any]

_STEP = "yolodata.step"
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_CONVOLUTIONS = ("aten::conv2d", "aten::convolution")
_TOP = 15


class Profiler:
    """A context in which steps are recorded, each from its `step()` to the next.

    Args:
        device: where the steps compute.
    """

    def __init__(self, device: torch.device) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile: Any = profile(activities=activities)
        self._step: Any = None

    def __enter__(self) -> Self:
        self._profile.__enter__()
        return self

    def step(self) -> None:
        """Begin a step; the one before ends."""
        from torch.profiler import record_function

        self._end_step()
        self._step = record_function(_STEP)
        self._step.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._end_step()
        self._profile.__exit__(*error)

    def _end_step(self) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None

    def found(self) -> dict[str, Any]:
        """See `summary`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(file))
            return summary(json.loads(file.read_text(errors="replace"))["traceEvents"])


def summary(events: Sequence[Event]) -> dict[str, Any]:
    """What a trace of steps says, in Chrome's format (times in microseconds).

    Returns:
        dict of steps; step_ms; gpu_idle: share of the time in which the device had nothing to do
        (None where no device took part); launches: kernels and copies a step; kernels and cpu_ops:
        those that take longest, as [name, number a step, milliseconds a step], CPU operators
        without what they call; before_first_convolution: of the last step, what was enqueued up to
        it by the thread that trains, as [operator, kernel, microseconds], itself included.
    """
    events = [event for event in events if event.get("ph") == "X"]
    steps = [e for e in _of(events, ("user_annotation",)) if e["name"] == _STEP]
    if not steps:
        raise ValueError(f"the trace has no step: it has {len(events)} events")
    steps.sort(key=lambda e: float(e["ts"]))
    start, end = float(steps[0]["ts"]), _end(steps[-1])
    device = [e for e in _of(events, _ON_DEVICE) if start <= e["ts"] <= end]
    ops = [e for e in _of(events, ("cpu_op",)) if start <= e["ts"] <= end]
    count = len(steps)
    idle = 1.0 - _covered(device, start, end) / (end - start) if device else None
    return {
        "steps": count,
        "step_ms": (end - start) / count / 1e3,
        "gpu_idle": idle,
        "launches": len(device) / count,
        "kernels": _top(((e["name"], float(e["dur"])) for e in device), count),
        "cpu_ops": _top(_own_times(ops), count),
        "before_first_convolution": _up_to_convolution(events, steps[-1]),
    }


def _of(events: Iterable[Event], categories: Sequence[str]) -> list[Event]:
    return [event for event in events if event.get("cat") in categories]


def _end(event: Event) -> float:
    return float(event["ts"]) + float(event["dur"])


def _covered(events: Iterable[Event], start: float, end: float) -> float:
    """Microseconds from `start` to `end` in which at least one event lasts."""
    total, until = 0.0, start
    for event in sorted(events, key=lambda e: float(e["ts"])):
        last = min(_end(event), end)
        total += max(0.0, last - max(float(event["ts"]), until))
        until = max(until, last)
    return total


def _own_times(ops: Iterable[Event]) -> Iterable[tuple[str, float]]:
    """Names and microseconds of operators, without those that they call."""
    by_thread: dict[Any, list[Event]] = defaultdict(list)
    for op in ops:
        by_thread[op.get("pid"), op.get("tid")].append(op)
    for these in by_thread.values():
        these.sort(key=lambda e: (float(e["ts"]), -float(e["dur"])))
        own = [float(op["dur"]) for op in these]
        open_: list[int] = []
        for i, op in enumerate(these):
            while open_ and _end(these[open_[-1]]) <= float(op["ts"]):
                open_.pop()
            if open_:
                own[open_[-1]] -= float(op["dur"])
            open_.append(i)
        yield from ((op["name"], seconds) for op, seconds in zip(these, own, strict=True))


def _top(times: Iterable[tuple[str, float]], steps: int) -> list[list[Any]]:
    counts: Counter[str] = Counter()
    total: dict[str, float] = defaultdict(float)
    for name, microseconds in times:
        counts[name] += 1
        total[name] += microseconds
    longest = sorted(total, key=lambda name: -total[name])[:_TOP]
    return [[name, counts[name] / steps, total[name] / steps / 1e3] for name in longest]


def _up_to_convolution(events: Sequence[Event], step: Event) -> list[list[Any]]:
    mine = [e for e in events if e.get("tid") == step.get("tid") and e["ts"] >= step["ts"]]
    ops = _of(mine, ("cpu_op",))
    first = min(
        (op for op in ops if op["name"] in _CONVOLUTIONS), key=lambda e: e["ts"], default=None
    )
    if first is None:
        return []
    enqueued = {e["args"]["correlation"]: e for e in _of(events, _ON_DEVICE)}
    found = []
    for launch in sorted(_of(mine, _LAUNCHES), key=lambda e: float(e["ts"])):
        kernel = enqueued.get(launch.get("args", {}).get("correlation"))
        if kernel is None or launch["ts"] > _end(first):
            continue
        callers = [op for op in ops if op["ts"] <= launch["ts"] <= _end(op)]
        caller = max(callers, key=lambda e: e["ts"])["name"] if callers else ""
        found.append([caller, kernel["name"], float(kernel["dur"])])
    return found
