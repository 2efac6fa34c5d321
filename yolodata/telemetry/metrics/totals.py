"""Counters of a run that never go backwards: what is shown is written down first."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Mapping
from pathlib import Path

from yolodata.files import read_regular
from yolodata.folders import Folder
from yolodata.telemetry.metrics.catalogue import is_countable

log = logging.getLogger("yolodata")

_LIMIT = 1 << 20  # bytes of a file; it has about 4,000


class Totals:
    """Sums of one rank over all processes that trained it; any thread may add.

    Note [written first]. A run that is killed goes on from a checkpoint, takes steps again, and
    counts them again: a counter is work that was done, not the place where a run is. What was
    counted after the last `save` is lost with the process. Nobody has seen it: only what `save`
    wrote is shown. So what is shown never falls, whenever a process is killed. Nothing is synced;
    after a power cut an older file may be there, which is a reset, as Prometheus knows them.

    Args:
        path: of the file, which need not exist.

    Attributes:
        found: whether there were totals of earlier processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._values = self._load()
        self.found = bool(self._values)
        self._seen: dict[str, float] = {}
        self._saved: dict[str, float] | None = None
        self._said = False

    def add(self, amounts: Mapping[str, float]) -> None:
        """Adds to several totals, by key."""
        with self._lock:
            for key, amount in amounts.items():
                self._values[key] = self._values.get(key, 0.0) + amount

    def follow(self, levels: Mapping[str, float], *, from_zero: bool = True) -> None:
        """Adds what counters of somebody else grew by.

        Args:
            levels: of the counters; one that fell began anew.
            from_zero: they began with this process; False: before it, only what comes counts.
        """
        with self._lock:
            for key, level in levels.items():
                before = self._seen.get(key, 0.0 if from_zero else level)
                grown = level - before if level >= before else level
                self._seen[key] = level
                self._values[key] = self._values.get(key, 0.0) + grown

    def save(self) -> dict[str, float]:
        """Writes all totals; returns what was written."""
        with self._saving:
            with self._lock:
                values = dict(self._values)
            if values != self._saved:
                self._write(values)
                self._saved = values
            return values

    def _write(self, values: dict[str, float]) -> None:
        try:
            with Folder.inside(self.path.parent, create=True) as folder:
                folder.replace(self.path.name, json.dumps(values).encode(), durable=False)
        except OSError as error:
            if not self._said:
                self._said = True
                log.warning(
                    "metrics: %s cannot be written, so counters will begin anew when the run "
                    "resumes: %s", self.path, error,
                )  # fmt: skip

    def _load(self) -> dict[str, float]:
        try:
            read = json.loads(read_regular(self.path, _LIMIT))
            found = {str(key): float(value) for key, value in read.items()}
            wrong = [key for key, value in found.items() if not 0 <= value < math.inf]
            if wrong:
                raise ValueError(f"{wrong[0][:80]!a} is {found[wrong[0]]}, which no counter can be")
            others = [key for key in found if not is_countable(key)]
            if others:
                raise ValueError(f"{others[0][:80]!a} is no counter")
            return found
        except FileNotFoundError:
            return {}
        except (
            OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError,
        ) as error:  # fmt: skip
            warn_of_new_counters(self.path, error)
            return {}


def warn_of_new_counters(path: Path, error: Exception) -> None:
    """Says that what was counted before is not known: its file cannot be read."""
    log.warning("metrics: %s cannot be read, counters begin anew: %s", path, error)
