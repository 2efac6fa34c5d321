"""What is read off the machine and this process when somebody asks for metrics."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc/self")


def of_process() -> dict[str, float]:
    """Returns the memory of this process, by key."""
    import psutil

    memory = psutil.Process().memory_info()
    shared = getattr(memory, "shared", 0)
    return {"resident_memory_bytes": memory.rss, "private_memory_bytes": memory.rss - shared}


def of_machine(run: Path) -> dict[str, float]:
    """Returns memory, /dev/shm and the file system of the run folder, by key."""
    import psutil

    memory = psutil.virtual_memory()
    found: dict[str, float] = {
        "host_memory_bytes": memory.total,
        "host_memory_available_bytes": memory.available,
    }
    for name, folder in (("shm", Path("/dev/shm")), ("disk", run)):
        try:
            room = os.statvfs(folder)
        except OSError:  # not there, or not ours to see
            continue
        found[f"{name}_size_bytes"] = room.f_blocks * room.f_frsize
        found[f"{name}_free_bytes"] = room.f_bavail * room.f_frsize
    return found


def disk_read() -> dict[str, float]:
    """Returns bytes that this process had read from disk since it began; empty if nobody tells."""
    try:
        lines = (PROC / "io").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = dict(line.split(": ", 1) for line in lines)
    return {"disk_read_bytes": float(found["read_bytes"])}


def network_received() -> dict[str, float]:
    """Returns bytes that came in by all interfaces but loopback; empty if nobody tells."""
    try:
        lines = (PROC / "net" / "dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return {}
    interfaces = (line.partition(":") for line in lines)
    received = [int(rest.split()[0]) for name, _, rest in interfaces if name.strip() != "lo"]
    return {"network_receive_bytes": float(sum(received))}
