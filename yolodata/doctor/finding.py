"""A finding: what is lost, how that is known, which one knob to turn, what it would bring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["breaks", "slow", "risk", "opportunity"]
"""What a finding is about.

breaks: the run will end, or its result is worthless. slow: something here costs time that this
machine, set up well, would not take. risk: it may harm. opportunity: nothing is wrong, and yet
something would be faster. The first three are complaints.
"""

NOTICED = 0.05
"""Share of a step from which a loss is one; machines differ by less from minute to minute."""

_ORDER = {"breaks": 0, "slow": 1, "risk": 2, "opportunity": 3}


_MOST_GAIN = 1000.0


def gain_without(lost: float, step: float) -> float:
    """Returns how many times as fast a step is without what it loses; a thousand times at most."""
    return step / max(step - lost, step / _MOST_GAIN)


@dataclass(frozen=True)
class Knob:
    """The one thing to change.

    Attributes:
        text: what to do, as a sentence in the imperative.
        settings: what `yolodata train` takes to do it, by name; empty where no setting does it.
    """

    text: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        cause: its name, one of the words in docs/doctor.md; the same for the same cause.
        kind: see `Kind`.
        title: what is wrong, in one short sentence.
        evidence: the figures that say so.
        knob: the one thing to change.
        lost_ms: milliseconds of each step that it costs; None where it costs none.
        step_ms: milliseconds of a step as it is, of which `lost_ms` are lost.
        gain: how many times as fast a step is predicted to be after the change; None where the
            change does not make it faster, or nothing was measured that says so.
        measured: the change itself was made and measured; False is a calculation, and `evidence`
            says how.
        first_epoch: the time is lost in the first epoch only.
        fake: a probe of the hardware was replaced; nothing of this is about this machine.
    """

    cause: str
    kind: Kind
    title: str
    evidence: str
    knob: Knob
    lost_ms: float | None = None
    step_ms: float | None = None
    gain: float | None = None
    measured: bool = False
    first_epoch: bool = False
    fake: bool = False

    @property
    def share(self) -> float | None:
        """The share (0-1) of a step, and so of an epoch, that is lost."""
        if self.lost_ms is None or not self.step_ms:
            return None
        return self.lost_ms / self.step_ms

    @property
    def complaint(self) -> bool:
        """Whether something is wrong."""
        return self.kind != "opportunity"

    def as_dict(self) -> dict[str, Any]:
        """Returns the values for JSON."""
        return asdict(self) | {"share": self.share, "complaint": self.complaint}


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Returns findings, worst first: what breaks, then what costs most time, then the rest."""

    def key(finding: Finding) -> tuple[int, float]:
        return _ORDER[finding.kind], -(finding.share or 0.0)

    return sorted(findings, key=key)
