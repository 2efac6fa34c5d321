"""A control group that limits how much of the processor its processes take."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds, the kernel's default


@contextmanager
def quota_group(cores: float) -> Iterator[Path]:
    """Makes a group below the root, of control groups of version 1 or 2; of version 1, below ours.

    Args:
        cores: processor seconds a second.

    Raises:
        OSError: there are no control groups, or this process may not make one.
    """
    quota = round(cores * PERIOD)
    name = f"job-{uuid.uuid4().hex[:8]}"
    version_1 = (ROOT / "cpu" / "cpu.cfs_quota_us").exists()
    group = ROOT / "cpu" / _ours() / name if version_1 else ROOT / name
    group.mkdir()
    try:
        if version_1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD), encoding="utf-8")
            (group / "cpu.cfs_quota_us").write_text(str(quota), encoding="utf-8")
        else:
            (group / "cpu.max").write_text(f"{quota} {PERIOD}", encoding="utf-8")
        yield group
    finally:
        remove(group)


def _ours() -> str:
    """The group of this process, of version 1, as a path below the root of groups."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return group.lstrip("/")
    return ""


def remove(group: Path) -> None:
    """Removes a group once the last process of it has ended."""
    end = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
