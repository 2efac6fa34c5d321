"""How to stay on some cores, and whether a process is still busy there."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil

from yolodata.telemetry import processor


def pin(cores: tuple[int, ...]) -> bool:
    """Keep all threads of this process and its workers, and what they start later, on some cores.

    Threads that are kept on some of these already, as a loader's on NUMA nodes, stay there.

    Returns:
        False where the system has no such thing (macOS, Windows), or for no cores.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        return False
    for process in processor.family():
        with suppress(psutil.Error):  # it ended just now
            for thread in process.threads():
                with suppress(ProcessLookupError):
                    if not os.sched_getaffinity(thread.id) <= set(cores):
                        os.sched_setaffinity(thread.id, cores)
    return True


def pin_thread(core: int) -> None:
    """Keep the calling thread on a core, where the system has such a thing."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def settle(limit: float = 15.0) -> None:
    """Wait until this process and its workers do nothing, so that others can be measured.

    After `limit` seconds the wait is over, however busy they are.
    """
    members = processor.family()  # looked up once: it takes longer than what is waited for
    before, quiet = processor.seconds(members), 0
    end = time.monotonic() + limit
    while quiet < 3 and time.monotonic() < end:
        time.sleep(0.03)
        now = processor.seconds(members)
        quiet = quiet + 1 if now == before else 0
        before = now
