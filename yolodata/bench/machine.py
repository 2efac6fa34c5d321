"""On what a number was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from yolodata.machine import usable_cores
from yolodata.telemetry import nvml

_PACKAGES = ("yolodata", "ultralytics", "torch", "numpy", "opencv-python", "pillow", "safetensors")
# Ultralytics uses it when it is there, which changes what its loader does.
_OPTIONAL = (
    "albumentations",
    "opencv-python-headless",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "nvidia-ml-py",
)


def machine() -> dict[str, Any]:
    """Processor, cores, memory (GiB), system, and how busy it was."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "cores_usable": len(usable_cores()),
        "cores_total": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "os": f"{platform.system()} {platform.release()}",
    }
    if hasattr(os, "getloadavg"):
        found["load_before"] = round(os.getloadavg()[0], 2)
    return found


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes:
        name: as its maker calls it.
        memory_gib: its own memory.
        capability: of its multiprocessors, such as "9.0".
        l2_mib: its cache; None where torch does not say.
        count: how many devices there are; the first one is used.
        driver: version of the driver; None where neither NVML nor nvidia-smi says.
        cuda: version that torch was built for.
    """

    name: str
    memory_gib: float
    capability: str
    l2_mib: float | None
    count: int
    driver: str | None
    cuda: str | None


def gpu() -> Gpu | None:
    """The GPU that torch would use, or None."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    found: Any = torch.cuda.get_device_properties(0)
    l2 = getattr(found, "L2_cache_size", None)
    return Gpu(
        name=str(found.name),
        memory_gib=round(found.total_memory / 2**30, 1),
        capability=f"{found.major}.{found.minor}",
        l2_mib=round(l2 / 2**20, 1) if l2 else None,
        count=torch.cuda.device_count(),
        driver=nvml.driver() or _driver_of_smi(),
        cuda=torch.version.cuda,
    )


def versions() -> dict[str, str]:
    """Versions of what takes part, and the commit when run from a checkout."""
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *_OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name in _PACKAGES:
                found[name] = "not installed"
    commit = _commit(Path(__file__).parent)
    return {**found, "commit": commit} if commit else found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        name = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
        if name:
            return name
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _driver_of_smi() -> str | None:
    found = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return found.splitlines()[0].strip() if found else None


def _commit(folder: Path) -> str:
    if not any((parent / ".git").exists() for parent in folder.parents):
        return ""
    commit = _output(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"])
    changed = _output(["git", "-C", str(folder), "status", "--porcelain", "-uno"])
    return f"{commit} with changes" if commit and changed else commit


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
