"""Memory of the machine, within the limit of a container."""

from __future__ import annotations

from pathlib import Path

import psutil

from yolodata import cgroup
from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.machine.storage import Sample
from yolodata.doctor.setup import Setup
from yolodata.images.resize import resized_shape
from yolodata.machine import available_memory, ranks_here

_GIB = 2**30


def examine(setup: Setup, sample: Sample, queue: int, root: Path = cgroup.ROOT) -> Outcome:
    """Compares what is to be kept in memory with a container's limit.

    Args:
        setup: says whether images are cached.
        sample: of the images, for their sizes.
        queue: bytes of batches in shared memory, which count too.
        root: of the file system.
    """
    machine = psutil.virtual_memory()
    limit = cgroup.memory_limit(root)
    if limit is not None and limit >= machine.total:
        limit = None
    available = available_memory(root)
    cached = ram_cache_bytes(setup, sample)
    measured = {
        "memory_physical_bytes": int(machine.total),
        "memory_limit_bytes": int(machine.total) if limit is None else limit,
        "memory_limited": limit is not None,
        "memory_available_bytes": available,
        "ram_cache_bytes": cached or None,
    }
    found = None
    if limit is not None:
        found = finding(cached, queue, limit, available, int(machine.available))
    return Outcome(measured, [found] if found else [])


def ram_cache_bytes(setup: Setup, sample: Sample) -> int:
    """Bytes that Ultralytics' `cache=ram` takes of all ranks, for training images alone; else 0."""
    wanted = setup.examined_loader == "ultralytics" and setup.train.cache in (True, "ram")
    if not wanted or not sample.shapes:
        return 0
    shapes = [resized_shape(height, width, setup.imgsz) for height, width in sample.shapes]
    mean = sum(3 * height * width for height, width in shapes) / len(shapes)
    return round(mean * sample.images) * ranks_here()


def finding(
    cached: int, queue: int, limit: int, available: int, machine_available: int
) -> Finding | None:
    """The complaint, if there is one.

    Args:
        cached: bytes of images that Ultralytics is to keep.
        queue: bytes of batches in shared memory.
        limit: bytes that the control group may use.
        available: bytes that are left of it.
        machine_available: bytes that are left of the machine's memory; Ultralytics asks only for
            these, and wants twice what it needs, or else caches nothing.
    """
    if 2 * cached > machine_available:
        cached = 0
    if cached + queue <= available:
        return None
    what = f"images for cache=ram {cached / _GIB:.1f} GiB, " if cached else ""
    evidence = (
        f"The container may use {limit / _GIB:.1f} GiB, {available / _GIB:.1f} GiB are left. "
        f"Needed: {what}batches in shared memory {queue / _GIB:.2f} GiB; the model comes on top."
    )
    if cached:
        evidence += (
            f" Ultralytics looks at the machine's memory alone ({machine_available / _GIB:.1f} GiB "
            "available), and not at this limit."
        )
        knob = Knob("Leave out cache=ram, or raise the container's memory limit.", {"cache": False})
    else:
        knob = Knob("Raise the container's memory limit, or take fewer workers.", {})
    return Finding(
        cause="memory_limit",
        kind="breaks",
        title="The container's memory ends before all is in it, and the kernel kills the run.",
        evidence=evidence,
        knob=knob,
    )
