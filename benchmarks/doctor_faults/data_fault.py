"""A fault of the section "data": conditions that are worse in one respect."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolodata.machine import usable_cores

from .conditions import WORKERS, Conditions, injected
from .fault import Case

Severity = Mapping[str, Any]


class DataFault:
    """A fault of the section "data".

    Attributes:
        margin: how many times as long as the loader, undisturbed, the step takes: from, to.
        batches: pictures a step, one of these.
    """

    cause = ""
    sections = ("data",)
    seconds = 10.0
    margin = (1.3, 1.9)
    batches: tuple[int, ...] = (4, 6, 8)

    @property
    def name(self) -> str:
        """That of its cause."""
        return self.cause

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws batch, margin and what `how_bad` draws."""
        return {
            "batch": rng.choice(self.batches),
            "margin": round(rng.uniform(*self.margin), 2),
            **self.how_bad(rng),
        }

    def how_bad(self, rng: random.Random) -> dict[str, Any]:
        """Draws how severe the fault is."""
        raise NotImplementedError

    def before(self, conditions: Conditions, severity: Severity) -> Conditions:
        """The conditions without the fault."""
        return conditions

    def worsen(self, conditions: Conditions, severity: Severity) -> Conditions:
        """The conditions with the fault."""
        raise NotImplementedError

    def mend(self, conditions: Conditions, settings: Mapping[str, Any]) -> Conditions:
        """The conditions with the fault mended, and nothing else."""
        raise NotImplementedError

    @contextmanager
    def inject(self, severity: Severity, folder: Path) -> Iterator[Case]:
        """Injects it."""
        as_is = together([(self, severity)], severity["batch"], severity["margin"])
        with injected(as_is, {self.cause: self.mend}) as case:
            yield case


def together(faults: Sequence[tuple[DataFault, Severity]], batch: int, margin: float) -> Conditions:
    """The conditions with all of some faults, with a step for which none would starve."""
    conditions = Conditions(batch=batch)
    for fault, severity in faults:
        conditions = fault.before(conditions, severity)
    conditions = conditions.with_step(margin)
    for fault, severity in faults:
        conditions = fault.worsen(conditions, severity)
    return conditions


def busy_cores() -> int:
    """How many cores Ultralytics' workers keep busy without a fault."""
    return min(len(usable_cores()), WORKERS)
