"""Cores that this process may use, and on which NUMA nodes they are."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yolodata import cgroup
from yolodata.doctor.examination import Outcome
from yolodata.machine import allowed_cores, usable_cores

_NODES = Path("/sys/devices/system/node")


def examine(root: Path = cgroup.ROOT, nodes: Path = _NODES) -> Outcome:
    """Counts cores. Whether they are too few, the section "data" measures."""
    throttled = cgroup.throttling(root)
    return Outcome(
        measured={
            "cores_usable": len(usable_cores()),
            "cores_allowed": len(allowed_cores()),
            "cores_machine": os.cpu_count() or 1,
            "cpu_quota_cores": cgroup.cpu_quota(root),
            "cpu_throttling": None if throttled is None else asdict(throttled),
            "numa_nodes": numa_nodes(nodes),
        }
    )


def numa_nodes(folder: Path = _NODES) -> list[dict[str, Any]]:
    """Nodes with cores: {"node": number, "cores": [numbers]}; none where that is unknown."""
    found = []
    for node in folder.glob("node[0-9]*"):
        try:
            text = (node / "cpulist").read_text(encoding="utf-8")
        except OSError:
            continue
        cores = [core for part in text.strip().split(",") if part for core in _range(part)]
        if cores:  # memory without cores is a node as well
            found.append({"node": int(node.name.removeprefix("node")), "cores": cores})
    return sorted(found, key=lambda one: int(one["node"]))


def _range(part: str) -> range:
    """The numbers of "3", or of "0-7"."""
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)
