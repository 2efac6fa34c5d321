"""A control group's quota: the processes see all cores, and may use a part of their time."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .conditions import Conditions
from .data_fault import DataFault, Severity, busy_cores


class Quota(DataFault):
    """A quota below what the loader needs.

    The kernel grants it in periods of 100 ms, and batches arrive in bursts: few tell little.
    """

    cause = "quota"
    seconds = 30.0

    def how_bad(self, rng: random.Random) -> dict[str, Any]:
        """How many times as long as the step a batch takes with the quota."""
        return {"times": round(rng.uniform(1.4, 3.0), 2)}

    def worsen(self, conditions: Conditions, severity: Severity) -> Conditions:
        """With a quota that makes a step take about `times` as long."""
        needed = busy_cores() * conditions.loader_ms / conditions.step_ms
        return replace(conditions, quota=round(needed / severity["times"], 2))

    def mend(self, conditions: Conditions, settings: Mapping[str, Any]) -> Conditions:
        """Without quota."""
        return replace(conditions, quota=0.0)


FAULTS = [Quota()]
