"""Set-ups of the section "data" in which nothing is lost: the step is longer than the loader.

Some look like a fault: few cores, a quota, a far disk, progressive or large pictures. The step is
then long enough for them, and whoever complains reads the signs and not the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolodata.machine import usable_cores

from .conditions import Conditions, injected
from .datasets import Pictures
from .fault import Case

MARGIN = (1.6, 2.6)


VARIANTS = {
    "plain": Conditions(),
    "far disk": Conditions(disk=(1.0, 300.0)),
    "few cores": Conditions(cores=usable_cores()[: max(1, len(usable_cores()) // 2)]),
    "quota": Conditions(quota=0.7 * len(usable_cores())),
    "progressive": Conditions(pictures=Pictures(progressive=1.0)),
    "large": Conditions(pictures=Pictures(width=1280)),
}


class Healthy:
    """A set-up that loses nothing."""

    name = "healthy"
    cause = ""
    sections = ("data",)
    seconds = 10.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws what it looks like, batch and margin."""
        return {
            "looks": rng.choice(sorted(VARIANTS)),
            "batch": rng.choice((8, 12, 16)),  # handing over a batch takes 4 ms, whatever its size
            "margin": round(rng.uniform(*MARGIN), 2),
        }

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Has nothing to inject but the set-up."""
        conditions = replace(VARIANTS[severity["looks"]], batch=severity["batch"])
        with injected(conditions.with_step(severity["margin"]), {}) as case:
            yield case


FAULTS = [Healthy()]
