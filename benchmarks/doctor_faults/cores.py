"""Too few cores: the processes may use only some of the machine's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yolodata.machine import usable_cores

from .conditions import Conditions
from .data_fault import DataFault, Severity, busy_cores


class Cores(DataFault):
    """Affinity to fewer cores than the machine has."""

    cause = "cores"
    margin = (1.05, 1.3)  # half of two cores is not much less

    def how_bad(self, rng: random.Random) -> dict[str, Any]:
        """Which cores are left, at most half of those that workers would use."""
        return {"cores": rng.sample(usable_cores(), rng.randint(1, max(1, busy_cores() // 2)))}

    def worsen(self, conditions: Conditions, severity: Severity) -> Conditions:
        """On these cores."""
        return replace(conditions, cores=tuple(severity["cores"]))

    def mend(self, conditions: Conditions, settings: Mapping[str, Any]) -> Conditions:
        """On all cores."""
        return replace(conditions, cores=())


FAULTS = [Cores()]
