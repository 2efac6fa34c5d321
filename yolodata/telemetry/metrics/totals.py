"""Counters of a run that never go backwards: what is shown is written down first."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger("yolodata")


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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = self.path.with_name(f".{self.path.name}.tmp")
            new.write_text(json.dumps(values), encoding="utf-8")
            os.replace(new, self.path)
        except OSError as error:
            if not self._said:
                self._said = True
                log.warning(
                    "metrics: %s cannot be written, so counters will begin anew when the run "
                    "resumes: %s", self.path, error,
                )  # fmt: skip

    def _load(self) -> dict[str, float]:
        try:
            read = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(key): float(value) for key, value in read.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("metrics: %s cannot be read, counters begin anew: %s", self.path, error)
            return {}
