"""Runs the sections of an examination one after the other, each in its share of the seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
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


# Section -> (module with `examine(examination) -> Outcome`, share of the seconds). A section sees
# the outcomes of those before it.
SECTIONS: dict[str, tuple[str, float]] = {
    "machine": ("yolodata.doctor.machine", 0.05),
    "data": ("yolodata.doctor.data", 0.60),
    "ranks": ("yolodata.doctor.ranks", 0.10),
    "memory": ("yolodata.doctor.memory", 0.15),
    "convergence": ("yolodata.doctor.convergence", 0.10),
}


def examine(
    setup: Setup,
    sections: Sequence[str] = tuple(SECTIONS),
    *,
    probes: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Examination:
    """Examines; the seconds of sections that are left out go to the others.

    Args:
        setup: what is examined.
        sections: of `SECTIONS`, in its order.
        probes: see `Examination`.
        say: is told what is measured, behind the name of the section.

    Raises:
        ConfigError: the data, the model or an argument cannot be used.
    """
    examination = Examination(setup, probes or {})
    total = sum(SECTIONS[name][1] for name in sections)
    for name in sections:
        module, share = SECTIONS[name]
        examination.say = partial(_say, say, name)
        examination.deadline = time.monotonic() + setup.seconds * share / total
        examination.outcomes[name] = import_module(module).examine(examination)
    return examination


def _say(say: Callable[[str], None], section: str, text: str) -> None:
    say(f"{section}: {text}")
