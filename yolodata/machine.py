"""What this process may use of its machine."""

from __future__ import annotations

import os


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on, sorted; all where that is not known."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def ranks_here(world_size: int = 1) -> int:
    """Ranks that share this machine, as torchrun says; without it, all there are."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or world_size


def usable_threads(world_size: int) -> int:
    """Native threads of one rank when the ranks of a machine share its cores."""
    return max(1, len(usable_cores()) // ranks_here(world_size))
