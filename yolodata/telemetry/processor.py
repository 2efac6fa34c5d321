"""Processor time: of this process and its children, and of everybody."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")  # guests' time is in user's too


def family() -> list[psutil.Process]:
    """Returns this process and its children, theirs too."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def seconds(processes: Iterable[psutil.Process], *, with_ended: bool = False) -> list[float]:
    """Returns the processor seconds of each, in steps of 10 ms; 0 of one that has ended.

    Args:
        processes: whose.
        with_ended: children of each that have ended count as it.
    """
    found = []
    for process in processes:
        try:
            found.append(sum(process.cpu_times()[: 4 if with_ended else 2]))
        except psutil.Error:  # it has ended
            found.append(0.0)
    return found


def busy(cores: Iterable[int]) -> float:
    """Returns the seconds in which some cores were not idle, since the machine began."""
    every = psutil.cpu_times(percpu=True)
    return sum(
        sum(value for name, value in every[core]._asdict().items() if name not in _NOT_BUSY)
        for core in cores
        if core < len(every)
    )
