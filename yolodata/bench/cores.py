"""Which cores may be used, how to stay on them, and whether a process is still busy there."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def usable() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def pin(cores: tuple[int, ...]) -> bool:
    """Keep all threads of this process, and what they start later, on some cores.

    Returns:
        False where the system has no such thing (macOS, Windows), or for no cores.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        return False
    tasks = Path("/proc/self/task")
    threads = [int(t.name) for t in tasks.iterdir()] if tasks.is_dir() else []
    os.sched_setaffinity(0, cores)
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.sched_setaffinity(thread, cores)
    return True


def settle(limit: float = 15.0) -> bool:
    """Wait until this process and its children do nothing, so that others can be measured.

    Returns:
        False if they were still busy after `limit` seconds.
    """
    try:
        import psutil
    except ImportError:
        time.sleep(1.0)
        return True
    me = psutil.Process()
    end = time.monotonic() + limit
    quiet = 0
    before = _cpu_seconds(me)
    while time.monotonic() < end:
        time.sleep(0.03)
        now = _cpu_seconds(me)
        quiet = quiet + 1 if now - before < 0.006 else 0
        before = now
        if quiet >= 2:
            return True
    return False


def _cpu_seconds(process: object) -> float:
    import psutil

    assert isinstance(process, psutil.Process)
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = member.cpu_times()
            total += times.user + times.system
    return total
