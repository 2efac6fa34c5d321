"""Two faults of the section "data" at once: the one whose mending brings more has to come first."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import cores, pictures, quota, storage, workers
from .conditions import injected
from .data_fault import DataFault, together
from .fault import Case

ALONE: tuple[DataFault, ...] = (
    *storage.FAULTS, *cores.FAULTS, *quota.FAULTS, *workers.FAULTS, *pictures.FAULTS,
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A fault, and another one, drawn.

    Attributes:
        first: the fault.
    """

    first: DataFault
    cause: str = "*"
    sections: tuple[str, ...] = ("data",)
    seconds: float = 30.0  # as for a quota, which may be one of them

    @property
    def name(self) -> str:
        """That of the fault, and that it is not alone."""
        return f"{self.first.name} and another"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws the other fault, and both severities."""
        other = rng.choice([fault for fault in ALONE if fault is not self.first])
        return {
            "batch": rng.choice((4, 6, 8)),
            "margin": round(rng.uniform(1.2, 1.6), 2),
            "faults": {fault.cause: fault.how_bad(rng) for fault in (self.first, other)},
        }

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Injects both."""
        drawn = severity["faults"]
        faults = [fault for fault in ALONE if fault.cause in drawn]
        as_is = together(
            [(fault, drawn[fault.cause]) for fault in faults],
            severity["batch"], severity["margin"],
        )  # fmt: skip
        with injected(as_is, {fault.cause: fault.mend for fault in faults}) as case:
            yield case


FAULTS = [Pair(fault) for fault in ALONE]
