"""Limits that control groups (versions 1 and 2) set for this process, as containers do.

A group is bound by its own limits and by those of all groups above it. In a container only those up
to its own are visible. Every function takes the root of the file system, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yolodata.mounts import mounts

ROOT = Path("/")
_NO_LIMIT = 1 << 60  # version 1 says "no limit" with a number near 2^63


@dataclass(frozen=True)
class Throttling:
    """How often the CPU quota stopped this group, since the group was made.

    Attributes:
        periods: in which something ran.
        throttled_periods: in which the quota was used up.
        throttled_s: seconds for which a core had to wait, added up over cores.
    """

    periods: int
    throttled_periods: int
    throttled_s: float

    def since(self, before: Throttling) -> Throttling:
        """What came since an earlier reading."""
        return Throttling(
            self.periods - before.periods,
            self.throttled_periods - before.throttled_periods,
            self.throttled_s - before.throttled_s,
        )


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the group may use, such as 1.5; None where there is no quota."""
    return min((quota for quota, _ in _quotas(root)), default=None)


def throttling(root: Path = ROOT) -> Throttling | None:
    """Reads the counters of the tightest quota; None where there is no quota.

    Read it before and after what is measured; `Throttling.since` is the difference.
    """
    _, folder = min(_quotas(root), default=(None, None))
    if folder is None:
        return None
    counts = _table(folder / "cpu.stat")
    if "nr_throttled" not in counts:
        return None
    # Microseconds in version 2, nanoseconds in version 1.
    waited = counts.get("throttled_usec", 0) / 1e6 + counts.get("throttled_time", 0) / 1e9
    return Throttling(counts.get("nr_periods", 0), counts["nr_throttled"], waited)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the group may use; None where there is no limit."""
    return min((limit for limit, _ in _memory(root)), default=None)


def memory_free(root: Path = ROOT) -> int | None:
    """Bytes of the limit that are left, counting page cache that can go; None without a limit."""
    return min((max(0, limit - used) for limit, used in _memory(root)), default=None)


def _quotas(root: Path) -> list[tuple[float, Path]]:
    """Quota in cores, and folder, of each group that has one."""
    found = []
    for folder in _folders("cpu", root):
        words = _words(folder / "cpu.max")  # version 2: "150000 100000", or "max 100000"
        if not words:
            words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0].isdigit() and int(words[1]):  # -1: none
            found.append((int(words[0]) / int(words[1]), folder))
    return found


def _memory(root: Path) -> Iterator[tuple[int, int]]:
    """Limit, and bytes in use that cannot be given back, of each group that has a limit."""
    for folder in _folders("memory", root):
        # Above memory.high the kernel slows the group down until hardly anything moves.
        names = ("memory.max", "memory.high", "memory.limit_in_bytes")
        limits = [int(w) for name in names for w in _words(folder / name) if w.isdigit()]
        limits = [limit for limit in limits if limit < _NO_LIMIT]
        if not limits:
            continue
        used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
        cached = _table(folder / "memory.stat")
        idle = cached.get("total_inactive_file", cached.get("inactive_file", 0))
        yield min(limits), (int(used[0]) if used else 0) - idle


def _folders(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the groups that bind this process, its own first."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for mount in mounts(root / "proc/self/mountinfo"):
            if controllers:  # version 1: a hierarchy a controller
                ours = mount.kind == "cgroup" and controller in mount.options
                ours = ours and controller in controllers.split(",")
            else:
                ours = mount.kind == "cgroup2"
            if not ours:
                continue
            top = root / mount.point.lstrip("/")
            # A container may see its own group as the top: then the path leads nowhere from there.
            inner = os.path.relpath(group, mount.root)
            folder = top if inner.startswith("..") else top / inner
            yield from _upward(folder if folder.is_dir() else top, top)


def _upward(folder: Path, top: Path) -> Iterator[Path]:
    yield folder
    while folder != top:
        folder = folder.parent
        yield folder


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _table(file: Path) -> dict[str, int]:
    """A file of lines "name number"."""
    words = _words(file)
    return {
        name: int(value)
        for name, value in zip(words[::2], words[1::2], strict=False)
        if value.isdigit()
    }
