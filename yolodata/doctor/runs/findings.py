"""All findings of a run."""

from __future__ import annotations

from yolodata.doctor.finding import Finding, ranked
from yolodata.doctor.runs import loop, other_ranks, rhythm, upkeep, waiting
from yolodata.doctor.runs.records import Run


def findings(run: Run) -> list[Finding]:
    """Returns what is found in the records of a run, worst first."""
    rules = (
        waiting.found,
        loop.found,
        rhythm.found,
        other_ranks.found,
        upkeep.found,
    )
    return ranked(finding for rule in rules for finding in rule(run))
