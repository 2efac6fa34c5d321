"""Whether /dev/shm holds the batches that worker processes hand over.

Note [how much a queue takes]. Ultralytics' workers make `prefetch` batches each before they are
asked for, and put them into shared memory. Where the loop is slower than the loader all of them are
there, and one more, which the loop holds. Where batches are page-locked (a GPU trains) a thread
takes them out again at once: then as many as there are workers may be there at a time, in the worst
case all of them still. Where the space ends, older versions of torch end with "Bus error". With
2.14 the worker says "unable to allocate shared memory", its batch is lost, and the loop waits for
ever.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.setup import Setup
from yolodata.machine import ranks_here

SHM = Path("/dev/shm")
PREFETCH = 4
"""Batches that Ultralytics' training loader has each worker make ahead."""

_MIB = 2**20


@dataclass(frozen=True)
class Queue:
    """Batches between worker processes and the loop.

    Attributes:
        workers: processes of one rank.
        batch_bytes: of one batch of pictures; labels are small beside them.
        ranks: that share the machine.
        pinned: a thread takes batches out of shared memory as soon as they are there.
    """

    workers: int = 0
    batch_bytes: int = 0
    ranks: int = 1
    pinned: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory that a full queue takes, of all ranks."""
        return self.of(self.workers)

    def of(self, workers: int) -> int:
        """The same with another number of workers."""
        return self.ranks * self.batch_bytes * (workers * PREFETCH + 1) if workers else 0

    @property
    def certain(self) -> int:
        """Bytes that are taken in any case, sooner or later."""
        if self.pinned:
            return self.ranks * self.batch_bytes * self.workers
        return self.nbytes


def queue_of(setup: Setup, images: int) -> Queue:
    """The queue of the loader that is examined; an empty one where it has no worker processes.

    Args:
        setup: workers, batch, size of the pictures.
        images: of the training split; 0 is unknown.
    """
    if setup.examined_loader != "ultralytics" or setup.batch < 1:
        return Queue()
    gpus = 0 if str(setup.train.device) in ("cpu", "mps") else torch.cuda.device_count()
    batches = math.ceil(images / setup.batch) if images else 2
    if (not gpus and setup.step_ms is None) or batches < 2:
        return Queue()  # Ultralytics takes no workers then
    # It takes no more workers than a GPU's share of the machine's cores, whatever it may use.
    share = (os.cpu_count() or 1) // max(gpus, 1)
    workers = min(int(setup.train.workers), share, batches)
    pictures = setup.batch * 3 * setup.imgsz**2
    return Queue(workers, pictures, ranks_here(), pinned=bool(gpus))


def examine(setup: Setup, queue: Queue, shm: Path = SHM) -> Outcome:
    """Compares the queue with what is free."""
    try:
        status = os.statvfs(shm)
    except OSError as error:
        size = free = 0
        problem = f"{shm}: {error.strerror}"
    else:
        size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        problem = ""
    measured = {
        "shm_bytes": size,
        "shm_free_bytes": free,
        "shm_needed_bytes": queue.nbytes,
        "shm_workers": queue.workers,
    }
    found = finding(queue, free, problem)
    return Outcome(measured, [found] if found else [])


def finding(queue: Queue, free: int, problem: str = "") -> Finding | None:
    """The complaint, if there is one.

    Args:
        queue: that has to fit.
        free: bytes of shared memory.
        problem: why there is none at all.
    """
    if queue.nbytes <= free:
        return None
    fit = max(count for count in range(queue.workers + 1) if queue.of(count) <= free)
    wanted = math.ceil(1.25 * queue.nbytes / _MIB)
    where = f" ({problem})" if problem else ""
    each = queue.batch_bytes / _MIB
    ranks = f", {queue.ranks} ranks" if queue.ranks > 1 else ""
    evidence = (
        f"{free / _MIB:.0f} MiB of /dev/shm are free{where}. {queue.workers} workers x {PREFETCH} "
        f"batches and one in use, of {each:.1f} MiB each{ranks}: {queue.nbytes / _MIB:.0f} MiB."
    )
    breaks = queue.certain > free
    if not breaks:
        evidence += " Batches leave it for page-locked memory, so it may be enough mostly."
    return Finding(
        cause="shm",
        kind="breaks" if breaks else "risk",
        title="Shared memory does not hold the batches of the workers: the run dies, or hangs.",
        evidence=evidence,
        knob=Knob(
            f"Give /dev/shm {wanted} MiB (docker run --shm-size={wanted}m; Kubernetes: an emptyDir "
            f"with medium: Memory mounted there); until then, workers={fit} fits.",
            {"workers": fit},
        ),
    )
