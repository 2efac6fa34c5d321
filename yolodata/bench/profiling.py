"""Where the time of one loader goes: the consumer's Python calls, and all threads' seconds."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolodata.bench.cores import thread_seconds
from yolodata.bench.subject import Subject


def profile(subject: Subject, batches: Iterator[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Take batches for `seconds` under cProfile.

    Returns:
        dict of pictures; seconds (wall); stages_s (all threads together, by stage); threads_s (CPU
        seconds by thread name, Linux only); calls: the consumer's calls that took longest, as
        (function, calls, own seconds, seconds with what it called).
    """
    for _ in range(subject.ahead):
        next(batches)
    before, threads_before = subject.read(), thread_seconds()
    profiler = cProfile.Profile()
    pictures = 0
    start = now = time.perf_counter()
    profiler.enable()
    while now - start < seconds:
        pictures += len(next(batches)["img"])
        now = time.perf_counter()
    profiler.disable()
    threads = thread_seconds()
    return {
        "pictures": pictures,
        "seconds": now - start,
        "stages_s": dict(subject.read().since(before).seconds),
        "threads_s": _by_name(threads, threads_before),
        "calls": _calls(profiler),
    }


def _calls(profiler: cProfile.Profile) -> list[tuple[str, int, float, float]]:
    stats = pstats.Stats(profiler, stream=io.StringIO())
    rows = []
    for (file, line, name), (_, calls, own, total, _) in stats.stats.items():  # type: ignore[attr-defined]
        where = name if file == "~" else f"{Path(file).name}:{line} {name}"
        rows.append((where, int(calls), float(own), float(total)))
    return sorted(rows, key=lambda row: -row[2])[:12]


def _by_name(
    now: dict[int, tuple[str, float]], before: dict[int, tuple[str, float]]
) -> dict[str, float]:
    total: dict[str, float] = {}
    for thread, (name, seconds) in now.items():
        label = "consumer" if thread == os.getpid() else name
        total[label] = total.get(label, 0.0) + seconds - before.get(thread, ("", 0.0))[1]
    return {name: seconds for name, seconds in total.items() if seconds > 0}
