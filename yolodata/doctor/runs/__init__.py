"""What the records of a run say about it, finished or still running; nothing is measured."""

from __future__ import annotations

from pathlib import Path

from yolodata.doctor.examination import Outcome
from yolodata.doctor.runs.findings import findings
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
    return Outcome(summary(run), findings(run), run.missing)
