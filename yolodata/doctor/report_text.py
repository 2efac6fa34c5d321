"""The report on a terminal: what is lost, how that is known, one knob, what it would bring."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from yolodata.doctor.finding import Finding
from yolodata.doctor.report import Report, spelled

LEAST, MOST = 60, 120
"""Characters of a line: below, columns hold no words; above, lines are tiring to read."""

KINDS = {
    "breaks": "breaks the run",
    "slow": "slow",
    "risk": "a risk",
    "opportunity": "an opportunity",
}
"""What a `Finding.kind` is called."""

_LOST, _GAIN, _GAP = 16, 12, 2


def text(report: Report, width: int | None = None) -> str:
    """Returns the report for a terminal.

    Args:
        report: what was found.
        width: characters of a line; None is that of the terminal.
    """
    columns = width or shutil.get_terminal_size((100, 24)).columns
    return "\n".join(_lines(report, max(LEAST, min(MOST, columns))))


def examined_text(report: Report) -> str:
    """Says what was examined, in one line."""
    about = report.examined
    if "run" in about:
        return f"the run in {about['run']}"
    arguments = [f"{name}={value}" for name, value in about.get("arguments", {}).items()]
    step = about.get("step_ms")
    parts = [str(about.get("data")), f"loader of {about.get('loader')}", *arguments]
    parts += [f"steps of {step:g} ms instead of training"] if step is not None else []
    parts += [f"{about['ranks']} ranks"] if about.get("ranks", 1) > 1 else []
    return ", ".join(parts)


def summary(report: Report) -> str:
    """Says in one or two sentences what there is to say, first what matters most."""
    complaints, opportunities = report.complaints, report.opportunities
    if not complaints:
        said = "Nothing to complain about."
        if opportunities:
            said += f" {_count(len(opportunities), 'change')} would make it faster still."
        return said
    worst, wait = complaints[0], waiting(report)
    on_gpu = "gpu" in report.machine and report.examined.get("arguments", {}).get("device") != "cpu"
    who = "The GPU" if on_gpu else "Training"
    said = title = sentence(worst.title)
    if worst.kind == "breaks":
        said = f"This run will end, or its result is worthless. {title}"
    elif worst.share is not None and wait is not None and wait >= 0.01:
        said = f"{who} waits {wait:.0%} of each step. What costs most of it: {title}"
    elif worst.share is not None:
        said = f"{worst.share:.0%} of each step is lost. {title}"
    more = len(complaints) - 1
    return said + (
        f" There {'is' if more == 1 else 'are'} {_count(more, 'more complaint')}." * bool(more)
    )


def sentence(title: str) -> str:
    """Returns a title with the stop that it may lack, for what follows it."""
    return title if title.endswith((".", "!", "?")) else f"{title}."


def waiting(report: Report) -> float | None:
    """The share (0-1) of the time that steps waited for data; None where nothing says it."""
    for outcome in report.outcomes.values():
        for name in ("waiting_share", "wait_share"):
            if outcome.measured.get(name) is not None:
                return float(outcome.measured[name])
        timeline = outcome.measured.get("timeline") or {}
        waited, steps = timeline.get("wait_ms"), timeline.get("step_ms")
        if waited and steps and sum(steps) > 0:
            return min(1.0, float(sum(waited) / sum(steps)))
    return None


def lost(finding: Finding) -> list[str]:
    """What is lost: milliseconds of each step, and the share of an epoch."""
    if finding.lost_ms is None:
        return []
    said = [f"{finding.lost_ms:.1f} ms a step"]
    if finding.share is not None:
        said.append(f"{finding.share:.0%} of {'epoch 1' if finding.first_epoch else 'an epoch'}")
    return said


def gain(finding: Finding) -> list[str]:
    """What the change would bring, and how that is known."""
    if finding.gain is None:
        return []
    return [f"{finding.gain:.2f} times", "measured" if finding.measured else "calculated"]


def knob(finding: Finding) -> list[str]:
    """What to do, and the settings that do it, as `yolodata train` takes them."""
    words = [f"{name}={value}" for name, value in finding.knob.settings.items()]
    return [finding.knob.text, *(word for word in words if word not in finding.knob.text)]


def _lines(report: Report, width: int) -> Iterator[str]:
    yield from _wrapped(f"yolodata doctor: {examined_text(report)}", width)
    if report.fake:
        yield from _wrapped(
            "fake: probes of the hardware were replaced; what is marked so is not about this "
            "machine",
            width,
        )
    yield ""
    yield from _wrapped(summary(report), width)
    for title, findings in (
        ("Complaints, worst first", report.complaints),
        ("Opportunities", report.opportunities),
    ):
        if findings:
            yield from ("", title)
            yield from _table(findings, width)
    if report.not_done:
        yield from ("", "Not done")
        for section, why in report.not_done:
            yield from _wrapped(
                f"{section}: {why}", width, initial_indent="  ", subsequent_indent="    "
            )


def _table(findings: Sequence[Finding], width: int) -> Iterator[str]:
    """A row a finding: its title over all columns, then its cells."""
    room = width - 2 - _LOST - _GAIN - 3 * _GAP
    evidence = room * 3 // 5
    widths = (_LOST, evidence, room - evidence, _GAIN)
    yield "  " + _row(("lost", "evidence", "do this", "predicted"), widths)
    yield "  " + "-" * (width - 2)
    for number, finding in enumerate(findings, 1):
        yield from [""] * (number > 1)
        fake = ", fake" if finding.fake else ""
        kind = f" ({KINDS[finding.kind]}{fake})" if finding.complaint or fake else ""
        head = f"{number}. {finding.cause}{kind}: {finding.title}"
        yield from _wrapped(head, width, initial_indent="  ", subsequent_indent="     ")
        cells = (lost(finding), [finding.evidence], knob(finding), gain(finding))
        wrapped = [
            [line for part in cell for line in _wrapped(part, size)]
            for cell, size in zip(cells, widths, strict=True)
        ]
        for row in zip_longest(*wrapped, fillvalue=""):
            yield "  " + _row(row, widths)


def _wrapped(text: str, width: int, **indents: str) -> list[str]:
    return textwrap.wrap(spelled(text), width, **indents)  # type: ignore[arg-type]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(size) for cell, size in zip(cells, widths, strict=True))
    return (" " * _GAP).join(padded).rstrip()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
