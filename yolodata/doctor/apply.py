"""The settings of findings, as a YAML for `yolodata train cfg=FILE`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from yolodata.doctor.finding import Finding
from yolodata.doctor.report import Report, spelled
from yolodata.doctor.report_text import KINDS, gain, sentence
from yolodata.errors import ConfigError


def refuse_to_overwrite(path: Path) -> None:
    """Raises ConfigError where a file is: it may have been edited since."""
    if path.exists():
        raise ConfigError(
            f"--apply {path}: there is a file of this name, which is not overwritten; give another "
            "name, or remove it"
        )


def chosen(report: Report) -> dict[str, tuple[Any, Finding]]:
    """Returns value and finding of each setting that a complaint asks for.

    Where two complaints ask for different values, the worse one has its way.
    """
    found: dict[str, tuple[Any, Finding]] = {}
    for finding in report.complaints:
        for name, value in finding.knob.settings.items():
            found.setdefault(name, (value, finding))
    return found


def settings_file(report: Report, base: Mapping[str, Any], path: Path) -> str:
    """Returns the YAML: arguments of training, settings of complaints, opportunities as comments.

    An opportunity may change what is learned (another batch size does), so it stays a comment that
    a user can take the sign away from.

    Args:
        report: what was found.
        base: arguments as they were, by name; those of yolodata with their prefix.
        path: where it will be, for the first line.
    """
    return "\n".join(_lines(report, base, path)) + "\n"


def _lines(report: Report, base: Mapping[str, Any], path: Path) -> Iterator[str]:
    settings = chosen(report)
    yield f"# Made by `yolodata doctor`, {report.date}. To train so:"
    yield f"#   yolodata train cfg={spelled(path)}"
    for name, value in base.items():
        if name not in settings:
            yield _line(name, value)
    for finding in report.findings:
        mine = {
            name: value
            for name, value in finding.knob.settings.items()
            if not finding.complaint or settings[name][1] is finding
        }
        if not mine:
            continue
        predicted = gain(finding)
        said = sentence(_one_line(finding.title))
        said += f" Predicted: {' as fast, '.join(predicted)}." if predicted else ""
        yield ""
        yield f"# {finding.cause} ({KINDS[finding.kind]}): {said}"
        for name, value in mine.items():
            yield ("" if finding.complaint else "# ") + _line(name, value)


def _line(name: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return f"{name}: {text.rstrip().removesuffix('...').rstrip()}"


def _one_line(text: str) -> str:
    return " ".join(spelled(text).split())
