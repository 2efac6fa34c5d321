"""Where the time goes: of a loader by cProfile and its threads, of training steps by torch."""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from yolodata.bench.cores import thread_seconds
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
    before, threads_before = subject.read(), thread_seconds()
    profiler = cProfile.Profile()
    pictures = 0
    start = now = time.perf_counter()
    profiler.enable()
    while now - start < seconds:
        pictures += len(next(subject.batches)["img"])
        now = time.perf_counter()
    profiler.disable()
    threads: dict[str, float] = defaultdict(float)
    for thread, (name, total) in thread_seconds().items():
        label = "consumer" if thread == os.getpid() else name
        threads[label] += total - threads_before.get(thread, ("", 0.0))[1]
    calls = []
    found: Any = pstats.Stats(profiler)
    for (file, line, name), (_, count, own, total, _) in found.stats.items():
        where = name if file == "~" else f"{Path(file).name}:{line} {name}"
        calls.append((where, int(count), float(own), float(total)))
    return {
        "pictures": pictures,
        "seconds": now - start,
        "stages_s": dict(subject.read().since(before).seconds),
        "threads_s": {name: spent for name, spent in threads.items() if name and spent > 0},
        "calls": sorted(calls, key=lambda call: -call[2])[:_TOP_CALLS],
    }


def of_steps(subject: Subject, steps: int, device: str) -> Generator[Batch, None, dict[str, Any]]:
    """Yield batches for some steps under torch's profiler; returns what `summary` says."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + (device == "cuda")]
    with profile(activities=activities) as profiler:
        for number in range(steps):
            with record_function(_STEP):  # to the moment in which the next batch is asked for
                yield next(subject.batches)
                if number == steps - 1:
                    subject.finish()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        return summary(json.loads(file.read_text(errors="replace"))["traceEvents"])


def summary(events: Sequence[Event]) -> dict[str, Any]:
    """What a trace of steps says, in Chrome's format (times in microseconds).

    Returns:
        dict of steps; step_ms; gpu_idle: share of the time in which the device had nothing to do
        (None where no device took part); launches: kernels and copies a step; kernels and cpu_ops:
        those that take longest, as [name, number a step, milliseconds a step], CPU operators
        without what they call; before_first_convolution: of the last step, what was enqueued up to
        it by the thread that trains, as [operator, kernel, microseconds], itself included.

    Raises:
        ValueError: the trace has no step.
    """
    events = sorted((e for e in events if e.get("ph") == "X"), key=lambda e: float(e["ts"]))
    steps = [e for e in _of(events, ("user_annotation",)) if e["name"] == _STEP]
    if not steps:
        raise ValueError(f"the trace has no step: it has {len(events)} events")
    start, end, count = float(steps[0]["ts"]), _end(steps[-1]), len(steps)
    inside = [e for e in events if start <= e["ts"] <= end]
    device = _of(inside, _ON_DEVICE)
    idle = 1.0 - _covered(device, start, end) / (end - start) if device else None
    return {
        "steps": count,
        "step_ms": (end - start) / count / 1e3,
        "gpu_idle": idle,
        "launches": len(device) / count,
        "kernels": _top(((e["name"], float(e["dur"])) for e in device), count),
        "cpu_ops": _top(_own_times(_of(inside, ("cpu_op",))), count),
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


def _own_times(ops: Iterable[Event]) -> Iterable[tuple[str, float]]:
    """Names and microseconds of operators, without those that they call."""
    by_thread: dict[Any, list[Event]] = defaultdict(list)
    for op in ops:
        by_thread[op.get("pid"), op.get("tid")].append(op)
    for these in by_thread.values():
        these.sort(key=lambda e: (float(e["ts"]), -float(e["dur"])))
        own = [float(op["dur"]) for op in these]
        callers: list[int] = []
        for i, op in enumerate(these):
            while callers and _end(these[callers[-1]]) <= float(op["ts"]):
                callers.pop()
            if callers:
                own[callers[-1]] -= float(op["dur"])
            callers.append(i)
        yield from ((op["name"], time) for op, time in zip(these, own, strict=True))


def _top(times: Iterable[tuple[str, float]], steps: int) -> list[list[Any]]:
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, microseconds in times:
        by_name[name].append(microseconds)
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:_TOP_EVENTS]
    return [[name, len(t) / steps, sum(t) / steps / 1e3] for name, t in longest]


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
