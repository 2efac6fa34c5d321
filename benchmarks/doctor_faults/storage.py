"""Slow storage: requests that take long, a narrow link, or both."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .conditions import IMAGES, Conditions
from .data_fault import DataFault, Severity, busy_cores
from .datasets import dataset

REQUEST = 128 << 10  # bytes that the kernel reads at a time
SHORT_MS, WIDE_MB_S = 0.3, 1000.0  # of a disk in the same room


class Storage(DataFault):
    """The dataset lies on a slow disk, of which nothing was read yet."""

    cause = "storage"

    def how_bad(self, rng: random.Random) -> dict[str, Any]:
        """What is slow, and how many times as long as the step reading then takes."""
        return {
            "slow": rng.choice(("latency", "link", "both")),
            "times": round(rng.uniform(1.5, 4.0), 2),
        }

    def worsen(self, conditions: Conditions, severity: Severity) -> Conditions:
        """On a disk whose latency or link, alone, makes a step take `times` as long."""
        images = dataset(conditions.pictures).parent / IMAGES
        sizes = [image.stat().st_size for image in list(images.iterdir())[:100]]
        wanted = severity["times"] * conditions.step_ms
        requests = statistics.mean(math.ceil(size / REQUEST) for size in sizes)
        # Each worker waits for its own requests; all share the link.
        waiting = (wanted - conditions.loader_ms) * busy_cores() / conditions.batch / requests
        sent = conditions.batch * statistics.mean(sizes) / 1e3 / wanted
        latency = waiting if severity["slow"] != "link" else SHORT_MS
        mb_s = sent if severity["slow"] != "latency" else WIDE_MB_S
        return replace(conditions, disk=(round(latency, 2), round(mb_s, 2)))

    def mend(self, conditions: Conditions, settings: Mapping[str, Any]) -> Conditions:
        """On the local disk."""
        return replace(conditions, disk=None)


FAULTS = [Storage()]
