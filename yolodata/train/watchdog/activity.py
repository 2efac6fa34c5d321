"""Whether a process does anything: how a slow rank is told from one that hangs.

Note [what counts as work]. An idle rank is not quite still: each of gloo's threads, which look
around a hundred times a second, takes 0.3 % of a core, the watch as much; what else wakes up now
and then (telemetry, tqdm) 0.04 % at most. A thread that sent 10 MB/s through a socket took between
0.5 % (8 MB at a time, plain) and 9 % (8 kB at a time, TLS). So threads are looked at one by one,
without those that watch, or carry what ranks tell each other, and one works that takes 40 ms in
20 s, 0.2 %; the kernel, which counts in ticks of 10 ms, may be two of them off. Children
(compilers, uploaders) are looked at likewise. Who waits for a disk works too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

LEAST, WINDOW = 0.04, 20.0
"""Seconds of CPU that a thread or a child takes in so many seconds if it works."""

WATCHERS = ("yolodata-watch", "yolodata-store", "yolodata-telemetry")
CARRIERS = (b"gloo_", b"pt_nccl_")
"""Threads that do not count, by Python's names of them, and by how the system's begin."""

_TASKS = "/proc/self/task"

CHILDREN_AFTER = 2.0
"""Seconds that this process is still before its children are looked at, which costs more."""


class Work:
    """Sees whether this process works."""

    def __init__(self) -> None:
        self._begin(time.monotonic(), {})

    def _begin(self, now: float, threads: dict[int, float]) -> None:
        self._since, self._threads = now, threads
        self._children: dict[int, float] | None = None

    def seen(self) -> bool:
        """Whether it worked since this was last true. To be asked once a second or so."""
        now = time.monotonic()
        threads, at_disk = _threads()
        worked = at_disk or _enough(threads, self._threads)
        if not worked and now - self._since >= CHILDREN_AFTER:
            children = _children()
            worked = self._children is not None and _enough(children, self._children)
            self._children = self._children or children
        if worked or now - self._since >= WINDOW:
            self._begin(now, threads)
        return worked


def _enough(after: dict[int, float], before: dict[int, float]) -> bool:
    return any(after[one] - before.get(one, 0.0) > LEAST - 1e-6 for one in after)


def _threads() -> tuple[dict[int, float], bool]:
    """CPU seconds of each thread that counts, and whether one of them waits for a disk.

    Where the system does not tell one thread from another, all of them are one, idle ones too.
    """
    if not os.path.isdir(_TASKS):
        return {0: time.process_time()}, False
    tick = os.sysconf("SC_CLK_TCK")
    watchers = {thread.native_id for thread in threading.enumerate() if thread.name in WATCHERS}
    found, at_disk = {}, False
    for task in map(int, os.listdir(_TASKS)):
        with contextlib.suppress(OSError), open(f"{_TASKS}/{task}/stat", "rb") as file:
            name, _, rest = file.read().partition(b"(")[2].rpartition(b")")
            if task not in watchers and not name.startswith(CARRIERS):
                state, *fields = rest.split()
                found[task] = (int(fields[10]) + int(fields[11])) / tick  # user, system
                at_disk |= state == b"D"
    return found, at_disk


def _children() -> dict[int, float]:
    """CPU seconds of each descendant; those of children that are gone count as this process's."""
    import psutil

    me = psutil.Process()
    gone = me.cpu_times()
    found = {me.pid: gone.children_user + gone.children_system}
    with contextlib.suppress(psutil.Error):
        for child in me.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found[child.pid] = sum(child.cpu_times()[:4])
    return found
