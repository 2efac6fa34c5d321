"""What happens to a run between its steps: starts and checkpoints, a line of JSON each."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolodata.files import read_lines, write_all
from yolodata.folders import Folder

log = logging.getLogger("yolodata")

FILE = "journal.jsonl"
"""In the run folder; docs/telemetry.md says what the lines mean."""

_LIMIT = 16 << 20  # bytes that are read: a line has about 200


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e12  # no nan


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 20


_FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "start": {
        "resumed": lambda value: isinstance(value, bool),
        "after_s": _is_number,
        "ranks": _is_count,
        "ranks_a_machine": _is_count,
        "gpu": lambda value: value is None or isinstance(value, str),
    },
    "checkpoint": {
        "step_waits_s": lambda value: value is None or _is_number(value),
        "write_s": _is_number,
    },
}  # what is read of each event


class Journal:
    """Adds lines; may be told by any thread.

    Nothing is raised where the disk does not take a line, or where a link has the journal's name:
    the line is lost, which is said once.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._said = False

    def add(self, event: str, **values: Any) -> None:
        """Adds a line.

        Args:
            event: what happened.
            values: more about it, plain values for JSON.
        """
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values}) + "\n"
        try:
            with Folder.at(self.path.parent) as folder:
                fd = folder.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                write_all(fd, line.encode())  # one write: lines do not mix
            finally:
                os.close(fd)
        except OSError as error:
            if not self._said:
                self._said = True
                log.warning("%s cannot be written, its lines are lost: %s", self.path, error)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of a run; none where there is no journal.

    Lines that were cut off, or have other values than ours, are left out, and so is what was before
    the run last began anew.

    Raises:
        OSError: the file is there, and cannot be read, or has more than 16 MiB.
    """
    path = folder / FILE
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    for line in read_lines(path, _LIMIT):
        try:
            values = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            continue
        if not isinstance(values, dict) or not _is_ours(values):
            continue
        if values["event"] == "start" and not values["resumed"]:
            found = []
        found.append(values)
    return found


def _is_ours(values: dict[str, Any]) -> bool:
    event = values.get("event")
    fields = _FIELDS.get(event, {}) if isinstance(event, str) else {"event": lambda _: False}
    return all(name in values and fits(values[name]) for name, fits in fields.items())
