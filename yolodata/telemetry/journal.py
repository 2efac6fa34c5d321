"""What happens to a run between its steps: starts and checkpoints, a line of JSON each."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

log = logging.getLogger("yolodata")

FILE = "journal.jsonl"
"""In the run folder; docs/telemetry.md says what the lines mean."""


class Journal:
    """Adds lines; may be told by any thread.

    Nothing is raised where the disk does not take a line: it is lost, which is said once.

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
            with self.path.open("ab", buffering=0) as file:  # one write: lines do not mix
                file.write(line.encode())
        except OSError as error:
            if not self._said:
                self._said = True
                log.warning("%s cannot be written, its lines are lost: %s", self.path, error)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of a run; none where there is no journal.

    Lines that were cut off are left out, and so is what was before the run last began anew.

    Raises:
        OSError: the file is there, and cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if not isinstance(values, dict) or "event" not in values:
            continue
        if values["event"] == "start" and not values.get("resumed"):
            found = []
        found.append(values)
    return found
