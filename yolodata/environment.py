"""On what a number was measured: the machine, and the versions of what takes part."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from yolodata import topology
from yolodata.machine import usable_cores
from yolodata.telemetry import nvml
from yolodata.version import __version__

_PACKAGES = ("ultralytics", "torch", "numpy", "opencv-python", "pillow", "safetensors")
# Ultralytics uses it when it is there, which changes what its loader does.
_OPTIONAL = ("albumentations", "opencv-python-headless", "nvidia-dali-cuda120",
             "nvidia-dali-cuda130", "nvidia-ml-py")  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, cores, NUMA nodes, memory (GiB), system, load; and `gpu`, if there is one."""
    found: dict[str, Any] = {
        "cpu": cpu(),
        "architecture": platform.machine(),
        "cores_usable": len(usable_cores()),
        "cores_total": os.cpu_count(),
        "numa_nodes": len(topology.nodes()) or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "os": f"{platform.system()} {platform.release()}",
        "load_before": round(psutil.getloadavg()[0], 2),
    }
    device = gpu()
    return found | ({"gpu": device} if device else {})


def gpu() -> dict[str, Any] | None:
    """The GPU that torch would use, or None.

    Returns:
        dict of name; memory_gib; capability, such as "9.0"; l2_mib (None where torch does not say);
        count of devices, of which the first is used; driver (None where NVML does not say); cuda,
        the version that torch was built for.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    found: Any = torch.cuda.get_device_properties(0)
    l2 = getattr(found, "L2_cache_size", None)
    return {
        "name": str(found.name),
        "memory_gib": round(found.total_memory / 2**30, 1),
        "capability": f"{found.major}.{found.minor}",
        "l2_mib": round(l2 / 2**20, 1) if l2 else None,
        "count": torch.cuda.device_count(),
        "driver": nvml.driver(),
        "cuda": torch.version.cuda,
    }


def versions() -> dict[str, str]:
    """Versions of what takes part, and `commit` of the package where a checkout has its files.

    An environment within a checkout of something else (`project/.venv`) has not. Our own version is
    the running code's: pip's metadata of an editable installation keep the version of that day.
    """
    found = {"python": platform.python_version(), "yolodata": __version__}
    for name in (*_PACKAGES, *_OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in _PACKAGES:
                found[name] = "not installed"
    folder = Path(__file__).parent
    checkout = any((parent / ".git").exists() for parent in folder.parents)
    ours = checkout and git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
    if ours and (commit := git(folder, "rev-parse", "--short=12", "HEAD")):
        changed = git(folder, "status", "--porcelain", "-uno")
        found["commit"] = f"{commit} with changes" if changed else commit
    return found


def cpu() -> str:
    """Model of the processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    for line in text.splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git(folder: Path, *arguments: str) -> str | None:
    """What git says about the checkout that a folder is in; None where it fails.

    It writes nothing there (`status` would refresh the index), and starts no watcher of files that
    the checkout's configuration names.
    """
    careful = ["--no-optional-locks", "-c", "core.fsmonitor=false"]
    try:
        done = subprocess.run(
            ["git", *careful, "-C", str(folder), *arguments],
            capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
