"""How long sums over ranks take, by their size: over the link that is used, and beside it."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from yolodata.train.distributed.process_group import ProcessGroup

SMALL = (4 * 2**10, 64 * 2**10, 2**20)
"""Bytes that are tried beside the model's buckets: latency shows in the small ones."""
REPEATS = 7


@dataclass(frozen=True)
class Sweep:
    """Sizes with their times.

    Attributes:
        times: (bytes, milliseconds), the smallest size first.
    """

    times: tuple[tuple[int, float], ...]

    def ms(self, size: int) -> float:
        """Returns milliseconds for so many bytes: between what was measured, on a straight line."""
        (small, quick), (large, slow) = self.times[0], self.times[-1]
        if size <= small:
            return quick
        if size >= large:
            return slow * size / large
        for (a, first), (b, second) in pairwise(self.times):
            if size <= b:
                return first + (second - first) * (size - a) / (b - a)
        return slow

    def rows(self, ranks: int) -> list[dict[str, float]]:
        """Returns a table: bytes, ms, and GB/s as NCCL's tests count them.

        `algorithm_gb_s` is the size over the time. `bus_gb_s` is what each link carries: in a ring
        of n ranks, 2 (n - 1) / n of the size.
        """
        carried = 2 * (ranks - 1) / ranks
        return [
            {
                "bytes": size,
                "ms": ms,
                "algorithm_gb_s": size / ms / 1e6,
                "bus_gb_s": carried * size / ms / 1e6,
            }
            for size, ms in self.times
        ]


def sizes_of(buckets: Sequence[int]) -> list[int]:
    """Returns the sizes to try: the model's largest buckets, all of them together, small ones."""
    return sorted({*SMALL, sum(buckets), *sorted(set(buckets))[-4:]})


def sweep(group: ProcessGroup, device: torch.device, sizes: Iterable[int], seconds: float) -> Sweep:
    """Sums over all ranks, as gradients are; every rank calls this.

    Args:
        group: that is started.
        device: of this rank.
        sizes: in bytes; the largest are left out where the time ends, one is always measured.
        seconds: about how long this may take.
    """
    ends = time.monotonic() + seconds
    times: list[tuple[int, float]] = []
    for size in sorted(sizes):
        tensor = torch.zeros(max(1, size // 4), device=device)
        took = _timed(group, tensor)  # the first one makes connections
        left = ends - time.monotonic()
        repeats = group.from_first(int(min(REPEATS, left / 2 / max(took / 1e3, 1e-5))))
        if repeats < 1 and times:
            break
        runs = [_timed(group, tensor) for _ in range(max(1, repeats))]
        times.append((size, max(group.gather(statistics.median(runs)))))
    return Sweep(tuple(times))


def _timed(group: ProcessGroup, tensor: torch.Tensor) -> float:
    dist.barrier(group=group.control)
    begun = time.perf_counter()
    dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return (time.perf_counter() - begun) * 1e3


def sweep_here(
    device: torch.device, sizes: Iterable[int], ranks: int, seconds: float
) -> Sweep | None:
    """What the same sums would take if the ranks were beside each other on this machine.

    On CPUs, two threads of this process are two ranks, connected by gloo over the loopback
    interface. On a GPU, data go to page-locked memory and back, which is what NCCL does at worst
    between two GPUs of a machine.

    Args:
        device: of this rank.
        sizes: in bytes.
        ranks: in all; times are scaled from two ranks to as many in a ring.
        seconds: about how long this may take.

    Returns:
        None where it did not work.
    """
    scale = ranks - 1 if device.type == "cuda" else 2 * (ranks - 1) / ranks
    pair = _staged(device, sizes) if device.type == "cuda" else _loopback(sizes, seconds)
    return Sweep(tuple((size, ms * scale) for size, ms in pair)) if pair else None


def _staged(device: torch.device, sizes: Iterable[int]) -> list[tuple[int, float]]:
    times = []
    for size in sorted(sizes):
        there = torch.zeros(max(1, size // 4), device=device)
        here = torch.zeros(there.shape, pin_memory=True)
        runs = []
        for _ in range(REPEATS):
            torch.cuda.synchronize(device)
            begun = time.perf_counter()
            here.copy_(there, non_blocking=True)
            there.copy_(here, non_blocking=True)
            torch.cuda.synchronize(device)
            runs.append((time.perf_counter() - begun) * 1e3)
        times.append((size, statistics.median(runs)))
    return times


def _loopback(sizes: Iterable[int], seconds: float) -> list[tuple[int, float]]:
    store, ends = HashStore(), time.monotonic() + seconds
    times: list[tuple[int, float]] = []
    goes_on = {min(sizes): True}  # by size, as the first thread says

    def run(rank: int) -> None:
        options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timedelta(seconds=30)
        options._devices = [dist.ProcessGroupGloo.create_device(interface="lo")]
        two: Any = dist.ProcessGroupGloo(store, rank, 2, options)
        ordered = sorted(sizes)
        for index, size in enumerate(ordered):
            tensor, runs = torch.zeros(max(1, size // 4)), []
            for _ in range(REPEATS + 1):
                two.barrier().wait()
                begun = time.perf_counter()
                two.allreduce([tensor]).wait()
                runs.append((time.perf_counter() - begun) * 1e3)
            if rank == 0:
                times.append((size, statistics.median(runs[1:])))
                if index + 1 < len(ordered):
                    goes_on[ordered[index + 1]] = time.monotonic() < ends
            two.barrier().wait()  # what the first thread says is there
            if index + 1 < len(ordered) and not goes_on[ordered[index + 1]]:
                return

    threads = [threading.Thread(target=_quietly, args=(run, rank)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _quietly(run: Any, rank: int) -> None:
    """A machine without a loopback interface has no times."""
    with contextlib.suppress(RuntimeError):
        run(rank)
