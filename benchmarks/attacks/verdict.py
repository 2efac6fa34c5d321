"""What a case says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Wrong = Literal[
    "half valid",  # what is incomplete is taken for whole, or cannot be completed
    "undetected",  # damage that a check should have found
    "signal",  # a process was ended by a signal that we did not send
    "hang",  # longer than `children.HANG`
    "memory",  # more than `judge.memory_limit`, or an attempt to have more
    "outside",  # something changed that is not in the folder written to
    "traceback",  # an error without words of ours, or with too many
    "attack",  # the attack itself failed: nothing is known
]
WRONG: tuple[Wrong, ...] = get_args(Wrong)


@dataclass(frozen=True)
class Finding:
    """A trial that the product did not stand.

    Attributes:
        wrong: what should never be.
        said: the trial, and what happened.
    """

    wrong: Wrong
    said: str


@dataclass
class Verdict:
    """What came of a case.

    Attributes:
        tried: trials.
        findings: one for each that failed.
    """

    tried: int = 0
    findings: list[Finding] = field(default_factory=list)

    def found(self, wrong: Wrong, said: str) -> None:
        """Adds a finding."""
        self.findings.append(Finding(wrong, said))
