"""How long sums over ranks take, by their size: over the link that is used, and beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist

from yolodata.doctor.ranks.neighbour import Neighbour
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
    """Returns the sizes to try, what matters most first: a latency, the model's largest buckets."""
    largest = sorted(set(buckets), reverse=True)[:4]
    return list(dict.fromkeys([SMALL[0], *largest, *SMALL[1:], sum(buckets)]))


def sweep(group: ProcessGroup, device: torch.device, sizes: Iterable[int], seconds: float) -> Sweep:
    """Sums over all ranks, as gradients are; every rank calls this.

    Args:
        group: that is started.
        device: of this rank.
        sizes: in bytes; the last ones are left out where the time ends, two are always measured.
        seconds: about how long this may take.
    """
    ends = time.monotonic() + seconds
    times: list[tuple[int, float]] = []
    for size in sizes:
        if group.from_first(len(times) >= 2 and time.monotonic() > ends):
            break
        tensor = torch.zeros(max(1, size // 4), device=device)
        _timed(group, tensor)  # the first one makes connections
        runs = [_timed(group, tensor)]
        left = (ends - time.monotonic()) / 4
        repeats = group.from_first(int(min(REPEATS, left / max(runs[0] / 1e3, 1e-5))))
        runs += [_timed(group, tensor) for _ in range(repeats)]
        times.append((size, max(group.gather(statistics.median(runs)))))
    return Sweep(tuple(sorted(times)))


def _timed(group: ProcessGroup, tensor: torch.Tensor) -> float:
    dist.barrier(group=group.control)
    begun = time.perf_counter()
    dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return (time.perf_counter() - begun) * 1e3


def sweep_beside(device: torch.device, sizes: Iterable[int], ranks: int) -> Sweep | None:
    """What the same sums would take if the ranks were beside each other on this machine.

    On CPUs, a thread of this process is the other rank, over the loopback interface. On a GPU, data
    go to page-locked memory and back, which is what NCCL does at worst between two GPUs of a
    machine.

    Args:
        device: of this rank.
        sizes: in bytes.
        ranks: in all; times are scaled from two ranks to as many in a ring.

    Returns:
        None where this machine has no loopback interface.
    """
    if device.type == "cuda":
        scale = float(ranks - 1)
        pair = [(size, _staged(device, size)) for size in sizes]
    else:
        scale = 2 * (ranks - 1) / ranks
        try:
            neighbour = Neighbour()
        except RuntimeError:
            return None
        try:
            pair = [(size, _beside(neighbour, size)) for size in sizes]
        finally:
            neighbour.close()
    return Sweep(tuple(sorted((size, ms * scale) for size, ms in pair)))


def _beside(neighbour: Neighbour, size: int) -> float:
    tensor, runs = torch.zeros(max(1, size // 4)), []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        neighbour.all_reduce(tensor)
        runs.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(runs[1:])


def _staged(device: torch.device, size: int) -> float:
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
    return statistics.median(runs)
