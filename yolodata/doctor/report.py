"""What an examination says: setup, machine, what was measured, findings, what was not done."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from yolodata import __version__, environment
from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import Finding, ranked
from yolodata.outputs import write_output

SCHEMA = 1
"""Of the JSON; rises when a name changes its meaning or goes."""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Report:
    """The whole of it; text, JSON and HTML are made from it.

    Attributes:
        examined: what was examined, by name, in plain values for JSON; `data` is a dataset, `run`
            the folder of a run.
        outcomes: of the sections.
        seconds: that it took.
        date: when, in ISO 8601 (UTC).
        machine: on which this ran, see `environment.machine`; the one that trained a run may be
            another.
        versions: of what took part.
    """

    examined: Mapping[str, Any]
    outcomes: Mapping[str, Outcome]
    seconds: float
    date: str = field(default_factory=_now)
    machine: Mapping[str, Any] = field(default_factory=environment.machine)
    versions: Mapping[str, str] = field(default_factory=environment.versions)

    @property
    def findings(self) -> list[Finding]:
        """All findings, worst first."""
        return ranked(finding for one in self.outcomes.values() for finding in one.findings)

    @property
    def complaints(self) -> list[Finding]:
        """Findings that say that something is wrong, worst first."""
        return [finding for finding in self.findings if finding.complaint]

    @property
    def opportunities(self) -> list[Finding]:
        """Findings that say that something would be faster still."""
        return [finding for finding in self.findings if not finding.complaint]

    @property
    def not_done(self) -> list[tuple[str, str]]:
        """What could not be measured: section and reason."""
        return [
            (name, why.removeprefix(f"{name}: "))
            for name, one in self.outcomes.items()
            for why in one.not_done
        ]

    @property
    def fake(self) -> bool:
        """Whether a probe of the hardware was replaced."""
        return any(one.fake or any(f.fake for f in one.findings) for one in self.outcomes.values())

    def as_dict(self) -> dict[str, Any]:
        """Returns the values for JSON, as docs/doctor.md has them."""
        return {
            "schema": SCHEMA,
            "yolodata": __version__,
            "date": self.date,
            "examined": dict(self.examined),
            "seconds": round(self.seconds, 1),
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "fake": self.fake,
            "healthy": not self.complaints,
            "findings": [finding.as_dict() for finding in self.findings],
            "not_done": [{"section": name, "why": why} for name, why in self.not_done],
            "sections": {
                name: {"fake": one.fake, "measured": dict(one.measured)}
                for name, one in self.outcomes.items()
            },
        }


def as_json(report: Report) -> str:
    """Returns the report as JSON; what is no finite number (a loss, say) is null there."""
    return json.dumps(_finite(report.as_dict()), indent=1, allow_nan=False) + "\n"


def spelled(text: object) -> str:
    """Returns text that every file may hold: control characters, and bytes of a file name that is
    not UTF-8, as escapes."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in str(text)
    )


def write(path: Path, text: str) -> None:
    """Writes a file; one that is there is replaced at once.

    Raises:
        ConfigError: it cannot be written.
    """
    write_output(path, text.encode("utf-8"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
