"""What this process may use of its machine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from yolodata import cgroup


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on, sorted; all where that is not known."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def allowed_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process could give itself, sorted.

    These are more than the usable ones where somebody only chose fewer (taskset, a launcher), and
    fewer than the machine's where a control group (cpuset) forbids the others.
    """
    if not hasattr(os, "sched_setaffinity"):
        return usable_cores()
    found = usable_cores()

    def widen() -> None:
        nonlocal found
        # The kernel leaves out what is forbidden, and refuses where nothing remains.
        try:
            os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
        except OSError:
            return
        found = usable_cores()

    # Affinity belongs to a thread, and that of this one ends with it.
    thread = threading.Thread(target=widen, name="allowed-cores")
    thread.start()
    thread.join()
    return found


def available_memory(root: Path = cgroup.ROOT) -> int:
    """Bytes of memory that can still be used: of the machine's, within a control group's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limited = cgroup.memory_free(root)
    return free if limited is None else min(free, limited)


def ranks_here(world_size: int = 1) -> int:
    """Ranks that share this machine, as torchrun says; without it, all there are."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or world_size


def usable_threads(world_size: int) -> int:
    """Native threads of one rank when the ranks of a machine share its cores."""
    return max(1, len(usable_cores()) // ranks_here(world_size))
