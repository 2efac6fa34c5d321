"""Which cores are near which memory (NUMA), and on which of them the threads of a loader run.

Note [nodes, not cores]. A thread is kept on all usable cores of a node, as torchrun's
`--numa-binding=node` keeps a process, and not on one core, as DALI's `set_affinity` does: within a
node the scheduler places threads better than we could, beside those of torch and of other ranks.
Memory needs no call of its own: Linux takes a page from the node of the thread that touches it
first. (`mbind` would do it too, but containers forbid that one.) The page cache lies where the
process ran that read the file; nothing here moves it.

Every function that reads takes the root of sysfs, for tests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from yolodata.machine import usable_cores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SYS = Path("/sys")
_PAGE = 4096  # bytes; no processor has smaller ones


@dataclass(frozen=True)
class Node:
    """A NUMA node that has memory, and cores that have no nearer memory.

    Attributes:
        number: of the node.
        cores: ascending; online, whoever may use them.
        distances: from each node of the machine to its memory, by number; 10 is its own.
    """

    number: int
    cores: tuple[int, ...]
    distances: dict[int, int]


@dataclass(frozen=True)
class Pinning:
    """Where the threads of a loader run.

    Attributes:
        cores: for each thread those that it is kept on; empty where no thread is pinned.
        near: usable cores nearest to the GPU, from which is touched first what it reads; empty
            where no thread is pinned, or there is no GPU.
        what: the same in words; "" where no thread is pinned.
    """

    cores: tuple[tuple[int, ...], ...] = ()
    near: tuple[int, ...] = ()
    what: str = ""

    def initializer(self) -> Callable[[], None] | None:
        """Returns what each thread of a pool does first: it takes the next place."""
        if not self.cores:
            return None
        turns = itertools.cycle(self.cores)  # `next` is one step under the GIL
        return lambda: pin_thread(next(turns))


def pin_thread(cores: Collection[int]) -> None:
    """Keeps the calling thread on some cores; where that is forbidden now, it stays as it is."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cores)


def nodes(root: Path | None = None) -> list[Node]:
    """Returns the NUMA nodes, by number; none where the machine does not say.

    A core of a node without memory belongs to the nearest node that has some. Nodes that are
    memory alone are left out.
    """
    folder = (root or SYS) / "devices/system/node"
    cores, distances = {}, {}
    for place in folder.glob("node[0-9]*"):
        number = int(place.name.removeprefix("node"))
        cores[number] = _numbers(place / "cpulist")
        distances[number] = [int(word) for word in _read(place / "distance").split()]
    order = sorted(cores)
    memory = set(_numbers(folder / "has_memory")) & set(order) or set(order)

    def distance(start: int, end: int) -> int:
        """As the table of the firmware says; where there is none, others are farther."""
        row = distances[start]
        far = row[order.index(end)] if len(row) == len(order) else 20
        return 10 if start == end else far

    held: dict[int, list[int]] = {number: [] for number in memory}
    for number in order:
        held[min(memory, key=lambda m: (distance(number, m), m))] += cores[number]
    return [
        Node(number, tuple(sorted(held[number])), {n: distance(n, number) for n in order})
        for number in sorted(held)
        if held[number]
    ]


def device_node(pci_bus: str | None, root: Path | None = None) -> int | None:
    """Returns the node of a PCI device ("0000:3b:00.0"); None where the machine does not say."""
    if pci_bus is None:
        return None
    domain, _, rest = pci_bus.lower().partition(":")
    text = _read((root or SYS) / "bus/pci/devices" / f"{domain[-4:]}:{rest}" / "numa_node")
    return int(text) if re.fullmatch(r"\d+", text.strip(), re.ASCII) else None


def siblings(root: Path | None = None) -> dict[int, tuple[int, ...]]:
    """Returns for each core those that share its hardware (hyper-threads), itself included."""
    found = {}
    for place in ((root or SYS) / "devices/system/cpu").glob("cpu[0-9]*"):
        shared = _numbers(place / "topology/thread_siblings_list")
        if shared:
            found[int(place.name.removeprefix("cpu"))] = tuple(shared)
    return found


def spread(
    threads: int, *, rank: int = 0, ranks: int = 1, usable: Sequence[int] | None = None,
    root: Path | None = None,
) -> Pinning:  # fmt: skip
    """Returns threads spread over the nodes, as many a node as it has of the usable cores.

    Args:
        threads: of each rank.
        rank, ranks: this one among those of the machine, which share its cores: as if all their
            threads stood in one row along all cores.
        usable: cores that this process may use; None asks the system.
        root: of sysfs.
    """
    row = [node for node in _usable(usable, root) for _ in node.cores]
    every = ranks * threads
    picked = [row[len(row) * (2 * (rank * threads + k) + 1) // (2 * every)]
              for k in range(threads if row else 0)]  # fmt: skip
    return _pinning(picked, row, "")


def gather(
    threads: int, gpu: str, near: int, *, sharing: int = 1, usable: Sequence[int] | None = None,
    root: Path | None = None,
) -> Pinning:  # fmt: skip
    """Returns threads near a GPU, as many as there are cores, the others on the nodes next to it.

    Args:
        threads: of this rank.
        gpu: what it is called, for the words.
        near: its node.
        sharing: ranks whose GPUs are at that node; they share its cores.
        usable, root: see `spread`.
    """
    found = _usable(usable, root)
    found.sort(key=lambda node: (node.distances.get(near, 0), node.number))
    shares = [len(node.cores) for node in found]
    shares[:1] = [-(-share // sharing) for share in shares[:1]]
    row = [node for node, share in zip(found, shares, strict=True) for _ in range(share)]
    picked = [row[k % len(row)] for k in range(threads if row else 0)]
    pinning = _pinning(picked, row, f"{gpu} is at node {near}")
    return replace(pinning, near=found[0].cores) if pinning.cores else pinning


def touch(memory: npt.NDArray[np.uint8], cores: Collection[int]) -> None:
    """Touches each page of fresh memory from some cores, so that it lies near them."""

    def write() -> None:
        pin_thread(cores)
        memory[::_PAGE] = 0

    thread = threading.Thread(target=write, name="yolodata-touch")
    thread.start()
    thread.join()


def _usable(usable: Sequence[int] | None, root: Path | None) -> list[Node]:
    """Nodes with those of their cores that may be used; without any, left out."""
    mine = set(usable_cores() if usable is None else usable)
    found = [
        Node(node.number, tuple(core for core in node.cores if core in mine), node.distances)
        for node in nodes(root)
    ]
    return [node for node in found if node.cores]


def _pinning(picked: Sequence[Node], known: Sequence[Node], where: str) -> Pinning:
    """Pins threads to the nodes picked for them; none where all cores are of one node."""
    if len({node.number for node in known}) < 2 or not hasattr(os, "sched_setaffinity"):
        return Pinning()
    counts = sorted(Counter(node.number for node in picked).items())
    words = ", ".join(f"{count} on NUMA node {number}" for number, count in counts)
    what = f"threads: {words}" + (f" ({where})" if where else "")
    return Pinning(tuple(node.cores for node in picked), what=what)


def _numbers(file: Path) -> list[int]:
    """The numbers of a list such as "0-3,8"; none where there is no such file."""
    found: list[int] = []
    for part in _read(file).strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return found


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""
