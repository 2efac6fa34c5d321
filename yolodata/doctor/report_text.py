"""The report on a terminal: what is lost, how that is known, one knob, what it would bring."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from yolodata.doctor.report import Report


def text(report: Report, width: int | None = None) -> str:
    """Returns the report for a terminal.

    Args:
        report: what was found.
        width: characters of a line; None is that of the terminal.
    """
    width = width or min(100, shutil.get_terminal_size((100, 24)).columns)
    return "\n".join(_lines(report, width))


def _lines(report: Report, width: int) -> Iterator[str]:
    for finding in report.findings:
        yield from textwrap.wrap(f"{finding.title} {finding.evidence} {finding.knob.text}", width)
    if not report.complaints:
        yield "Nothing to complain about."
