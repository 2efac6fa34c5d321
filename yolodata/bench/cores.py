"""Which cores may be used, how to stay on them, and whether a process is still busy there."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def pin(cores: tuple[int, ...]) -> bool:
    """Keep all threads of this process and its workers, and what they start later, on some cores.

    Workers are those of the same session, as in `settle`.

    Returns:
        False where the system has no such thing (macOS, Windows), or for no cores.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, cores)
    threads: list[int] = []
    for member in _members() if _PROC.is_dir() else []:
        with contextlib.suppress(OSError):  # it ended just now
            threads += [int(task.name) for task in (member / "task").iterdir()]
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.sched_setaffinity(thread, cores)
    return True


def settle(limit: float = 15.0) -> bool:
    """Wait until this process and its workers do nothing, so that others can be measured.

    Workers are those of the same session, where this process began one (`os.setsid`). Where there
    is no /proc (macOS, Windows), this just waits for a second.

    Returns:
        False if they were still busy after `limit` seconds.
    """
    if not _PROC.is_dir():
        time.sleep(1.0)
        return True
    members = _members()  # looked up once: it takes longer than what is waited for
    before, quiet = _ticks(members), 0
    end = time.monotonic() + limit
    while time.monotonic() < end:
        time.sleep(0.03)
        now = _ticks(members)
        quiet = quiet + 1 if now == before else 0
        before = now
        if quiet >= 3:
            return True
    return False


def thread_seconds() -> dict[int, tuple[str, float]]:
    """Name and CPU seconds of each thread of this process; empty where there is no /proc."""
    tasks = _PROC / "self" / "task"
    found = {}
    for task in tasks.iterdir() if tasks.is_dir() else ():
        stat = _stat(task)
        if stat is not None:
            name, fields = stat
            ticks = int(fields[_USER]) + int(fields[_SYSTEM])
            found[int(task.name)] = (name, ticks / os.sysconf("SC_CLK_TCK"))
    return found


_PROC = Path("/proc")
# Fields of /proc/*/stat, counted from the one after the name.
_SESSION, _USER, _SYSTEM = 3, 11, 12


def _members() -> list[Path]:
    """Folders in /proc of this process and, if it leads a session, of all others in it."""
    me = os.getpid()
    if os.getsid(0) != me:
        return [_PROC / str(me)]
    found = []
    for folder in _PROC.iterdir():
        stat = _stat(folder) if folder.name.isdigit() else None
        if stat is not None and int(stat[1][_SESSION]) == me:
            found.append(folder)
    return found


def _ticks(members: list[Path]) -> int:
    """Clock ticks (10 ms) that processes have computed for."""
    stats = [stat[1] for stat in map(_stat, members) if stat is not None]
    return sum(int(fields[_USER]) + int(fields[_SYSTEM]) for fields in stats)


def _stat(folder: Path) -> tuple[str, list[str]] | None:
    """Name and further fields; None if the process or thread ended just now."""
    try:
        text = (folder / "stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, rest.split()
