"""Where the time goes: of a loader by cProfile and its threads, of training steps by torch."""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

from yolodata.bench.subject import Batch, Subject

Event = dict[str, Any]

_STEP = "yolodata.step"
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_CONVOLUTIONS = ("aten::conv2d", "aten::convolution")
_TOP_CALLS, _TOP_EVENTS = 12, 15


def of_loader(subject: Subject, seconds: float) -> dict[str, Any]:
    """Take batches for `seconds` under cProfile.

    Returns:
        dict of pictures; seconds (wall); stages_s (all threads together, by stage); threads_s (CPU
        seconds by thread name, Linux only); calls: the consumer's calls that took longest, as
        (function, calls, own seconds, seconds with what it called).
    """
    before, threads = subject.read(), Counter(_thread_seconds())
    profiler = cProfile.Profile()
    pictures = 0
    start = now = time.perf_counter()
    profiler.enable()
    while now - start < seconds:
        pictures += len(next(subject.batches)["img"])
        now = time.perf_counter()
    profiler.disable()
    calls = []
    found: Any = pstats.Stats(profiler)
    for (file, line, name), (_, count, own, total, _) in found.stats.items():
        where = name if file == "~" else f"{Path(file).name}:{line} {name}"
        calls.append((where, int(count), float(own), float(total)))
    return {
        "pictures": pictures,
        "seconds": now - start,
        "stages_s": dict(subject.read().since(before).seconds),
        "threads_s": dict(Counter(_thread_seconds()) - threads),
        "calls": sorted(calls, key=lambda call: -call[2])[:_TOP_CALLS],
    }


def _thread_seconds() -> dict[str, float]:
    """CPU seconds of the threads of this process by name; nothing but on Linux."""
    found: dict[str, float] = defaultdict(float)
    for thread in psutil.Process().threads():
        try:
            name = Path(f"/proc/self/task/{thread.id}/comm").read_text(encoding="utf-8").strip()
        except OSError:  # it ended just now
            continue
        name = "consumer" if thread.id == os.getpid() else name
        found[name] += thread.user_time + thread.system_time
    return found


def of_steps(subject: Subject, steps: int, device: str) -> Generator[Batch, None, dict[str, Any]]:
    """Yield batches for some steps under torch's profiler.

    Returns:
        dict of what `summary` says; and cpu_ops: operators without what they call, as its kernels.
    """
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + (device == "cuda")]
    with profile(activities=activities) as profiler:
        for number in range(steps):
            with record_function(_STEP):  # to the moment in which the next batch is asked for
                yield next(subject.batches)
                if number == steps - 1:
                    subject.finish()
    operators: list[Any] = [e for e in profiler.key_averages() if "::" in e.key]
    operators.sort(key=lambda e: -e.self_cpu_time_total)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        trace = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    return {
        **summary(trace["traceEvents"]),
        "cpu_ops": [[e.key, e.count / steps, e.self_cpu_time_total / steps / 1e3]
                    for e in operators[:_TOP_EVENTS]],
    }  # fmt: skip


def summary(events: Sequence[Event]) -> dict[str, Any]:
    """What a trace of steps says, in Chrome's format (times in microseconds).

    Returns:
        dict of steps; step_ms; gpu_idle: share of the time in which the device had nothing to do
        (None where no device took part); launches: kernels and copies a step; kernels: those that
        take longest, as [name, number a step, milliseconds a step]; before_first_convolution: of
        the last step, what was enqueued up to it by the thread that trains, as [operator, kernel,
        microseconds], itself included.

    Raises:
        ValueError: the trace has no step.
    """
    events = sorted((e for e in events if e.get("ph") == "X"), key=lambda e: float(e["ts"]))
    steps = [e for e in _of(events, ("user_annotation",)) if e["name"] == _STEP]
    if not steps:
        raise ValueError(f"the trace has no step: it has {len(events)} events")
    start, end, count = float(steps[0]["ts"]), _end(steps[-1]), len(steps)
    device = [e for e in _of(events, _ON_DEVICE) if start <= e["ts"] <= end]
    times: dict[str, list[float]] = defaultdict(list)
    for event in device:
        times[event["name"]].append(float(event["dur"]))
    longest = sorted(times.items(), key=lambda item: -sum(item[1]))[:_TOP_EVENTS]
    return {
        "steps": count,
        "step_ms": (end - start) / count / 1e3,
        "gpu_idle": 1.0 - _covered(device, start, end) / (end - start) if device else None,
        "launches": len(device) / count,
        "kernels": [[name, len(t) / count, sum(t) / count / 1e3] for name, t in longest],
        "before_first_convolution": _up_to_convolution(events, steps[-1]),
    }


def _of(events: Iterable[Event], categories: Sequence[str]) -> list[Event]:
    return [event for event in events if event.get("cat") in categories]


def _end(event: Event) -> float:
    return float(event["ts"]) + float(event["dur"])


def _covered(events: Iterable[Event], start: float, end: float) -> float:
    """Microseconds from `start` to `end` in which at least one of these sorted events lasts."""
    total, until = 0.0, start
    for event in events:
        total += max(0.0, min(_end(event), end) - max(float(event["ts"]), until))
        until = max(until, min(_end(event), end))
    return total


def _up_to_convolution(events: Sequence[Event], step: Event) -> list[list[Any]]:
    mine = [e for e in events if e.get("tid") == step.get("tid") and e["ts"] >= step["ts"]]
    ops = _of(mine, ("cpu_op",))
    first = next((op for op in ops if op["name"] in _CONVOLUTIONS), None)
    enqueued = {e["args"]["correlation"]: e for e in _of(events, _ON_DEVICE)}
    found = []
    for launch in _of(mine, _LAUNCHES):
        kernel = enqueued.get(launch.get("args", {}).get("correlation"))
        if first is None or kernel is None or launch["ts"] > _end(first):
            continue
        callers = [op["name"] for op in ops if op["ts"] <= launch["ts"] <= _end(op)]
        found.append([callers[-1] if callers else "", kernel["name"], float(kernel["dur"])])
    return found
