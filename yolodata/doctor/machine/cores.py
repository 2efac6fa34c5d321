"""Cores that this process may use, their NUMA nodes, and where the threads of a loader run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata import cgroup, topology
from yolodata.doctor.examination import Outcome
from yolodata.machine import allowed_cores, ranks_here, usable_cores, usable_threads

if TYPE_CHECKING:
    from yolodata.doctor.machine.gpu import Gpu
    from yolodata.doctor.setup import Setup


def examine(root: Path = cgroup.ROOT, sysfs: Path | None = None) -> Outcome:
    """Counts cores. Whether they are too few, the section "data" measures."""
    throttled = cgroup.throttling(root)
    return Outcome(
        measured={
            "cores_usable": len(usable_cores()),
            "cores_allowed": len(allowed_cores()),
            "cores_machine": os.cpu_count() or 1,
            "cpu_quota_cores": cgroup.cpu_quota(root),
            "cpu_throttling": None if throttled is None else asdict(throttled),
            "numa_nodes": numa_nodes(sysfs),
        }
    )


def numa_nodes(sysfs: Path | None = None) -> list[dict[str, Any]]:
    """Nodes with cores: {"node": number, "cores": [numbers]}; none where that is unknown."""
    return [{"node": node.number, "cores": list(node.cores)} for node in topology.nodes(sysfs)]


def pinned(setup: Setup, used: Sequence[Gpu], sysfs: Path | None = None) -> Outcome:
    """Says on which nodes our loader would keep its threads; "" where it would keep none.

    Args:
        setup: gives `threads` and `pin`.
        used: GPUs of this process.
        sysfs: its root.
    """
    threads = setup.ours.threads or usable_threads(1)
    near = used[0].numa_node if used else None
    if setup.ours.pin == "off":
        where = topology.Pinning()
    elif near is None:
        where = topology.spread(threads, root=sysfs)
    else:
        name = used[0].name or "the GPU"
        where = topology.gather(threads, name, near, sharing=ranks_here(), root=sysfs)
    return Outcome(measured={"numa_pinning": where.what})
