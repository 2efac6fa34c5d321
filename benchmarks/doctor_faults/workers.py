"""A loader without workers: the process that trains makes the batches, between two steps."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .conditions import WORKERS, Conditions
from .data_fault import DataFault, Severity


class Workers(DataFault):
    """`workers=0`; the shorter the step, the worse."""

    cause = "workers"
    margin = (1.25, 2.5)

    def how_bad(self, rng: random.Random) -> dict[str, Any]:
        """Nothing but the margin."""
        return {}

    def worsen(self, conditions: Conditions, severity: Severity) -> Conditions:
        """Without workers."""
        return replace(conditions, workers=0)

    def mend(self, conditions: Conditions, settings: Mapping[str, Any]) -> Conditions:
        """With the workers that the knob says, else Ultralytics' default."""
        return replace(conditions, workers=int(settings.get("workers", WORKERS)))


FAULTS = [Workers()]
