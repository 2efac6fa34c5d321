"""Set-ups of the section "data" in which nothing is lost: the step is longer than the loader.

Some look like a fault: few cores, a quota, a far disk, progressive or large pictures. The step is
then long enough for them, and whoever complains reads the signs and not the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .conditions import Conditions, injected
from .data_fault import usable
from .datasets import Pictures
from .fault import Case

MARGIN = (1.6, 2.6)


@dataclass(frozen=True)
class Healthy:
    """A set-up that loses nothing.

    Attributes:
        name: of it.
        conditions: of it, but for batch and step.
    """

    name: str
    conditions: Conditions
    cause: str = ""
    sections: tuple[str, ...] = ("data",)
    seconds: float = 10.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws batch and margin."""
        return {"batch": rng.choice((4, 6, 8)), "margin": round(rng.uniform(*MARGIN), 2)}

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Has nothing to inject but the set-up."""
        conditions = replace(self.conditions, batch=severity["batch"])
        conditions = conditions.with_step(severity["margin"])
        with injected(conditions, {}) as case:
            yield case


FAULTS = [
    Healthy("healthy", Conditions()),
    Healthy("healthy far disk", Conditions(disk=(1.0, 300.0))),
    Healthy("healthy few cores", Conditions(cores=tuple(usable()[: max(1, len(usable()) // 2)]))),
    Healthy("healthy quota", Conditions(quota=0.7 * len(usable()))),
    Healthy("healthy progressive", Conditions(pictures=Pictures(progressive=1.0))),
    Healthy("healthy large", Conditions(pictures=Pictures(width=1280))),
]
