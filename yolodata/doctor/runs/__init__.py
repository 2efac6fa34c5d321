"""What the records of a run say about it, finished or still running; nothing is measured."""

from __future__ import annotations

from pathlib import Path

from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import ranked
from yolodata.doctor.runs import loop, other_ranks, rhythm, upkeep, waiting
from yolodata.doctor.runs.records import read_run
from yolodata.doctor.runs.summary import summary


def examine_run(folder: Path) -> Outcome:
    """Examines a run by what it wrote.

    Args:
        folder: of the run.

    Raises:
        ConfigError: it is no folder of a run, or its records cannot be read.
    """
    run = read_run(folder)
    if not run.steps:
        return Outcome(not_done=run.missing)
    rules = (waiting.found, loop.found, rhythm.found, other_ranks.found, upkeep.found)
    findings = ranked(finding for rule in rules for finding in rule(run))
    return Outcome(summary(run), findings, run.missing)
