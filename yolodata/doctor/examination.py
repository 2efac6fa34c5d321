"""What a section is given, and what it returns; `sections` runs them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolodata.doctor.finding import Finding, ranked
from yolodata.doctor.setup import Setup


@dataclass(frozen=True)
class Outcome:
    """What a section found.

    Attributes:
        measured: what was measured, by name; plain values for JSON, units in the names.
        findings: in any order.
        not_done: what could not be measured, each with its reason.
        fake: a probe of the hardware was replaced.
    """

    measured: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    not_done: Sequence[str] = ()
    fake: bool = False


@dataclass
class Examination:
    """One examination, as its sections see it.

    Attributes:
        setup: what is examined.
        probes: replacements of probes of the hardware, by name, for tests; a section that uses one
            marks what it says with `fake`.
        outcomes: of the sections so far, by name.
        say: is told what is measured at the moment, for the progress bar.
        deadline: of the section that runs, in seconds of `time.monotonic`.
    """

    setup: Setup
    probes: Mapping[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: None
    deadline: float = 0.0

    @property
    def left(self) -> float:
        """Seconds left for the section that runs; never below 0."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def reports(self) -> bool:
        """Whether this process says what was found; of the ranks of torchrun, the first does."""
        return int(os.environ.get("RANK", 0)) == 0

    def findings(self) -> list[Finding]:
        """All findings so far, worst first."""
        return ranked(finding for one in self.outcomes.values() for finding in one.findings)
