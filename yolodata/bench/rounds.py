"""Going round the rows, slice by slice, so that each ratio compares neighbours in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from yolodata.bench.session import ANSWER_LIMIT, BenchError, Say, Session, close_all
from yolodata.bench.subject import Ready, Row, Sample, Task

START_LIMIT = 600.0  # seconds; caching pictures in memory may take long
_STEPS_LIMIT = 480.0  # seconds that a slice of steps may take, beyond ANSWER_LIMIT
_PROFILED_STEPS = 4  # at most: the profiler writes megabytes a step
_SAY_EVERY = 10.0  # seconds without anything new


@dataclass
class Measured:
    """A row and what came out.

    Attributes:
        samples: one a round, in order; fewer than rounds if it failed.
        error: why it could not be measured.
        profile: where its time goes, if that was asked for.
    """

    row: Row
    ready: Ready | None = None
    samples: list[Sample] = field(default_factory=list)
    error: str | None = None
    profile: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: samples a row.
        seconds: of each sample, at least.
        steps: of each sample, at least: batches that a row which trains takes.
        profile: also profile rows that train, and yolodata's loaders.
        start_limit: seconds that a row may take to start.
    """

    rounds: int
    seconds: float = 0.0
    steps: int = 0
    profile: bool = False
    start_limit: float = START_LIMIT


def run(
    rows: Sequence[Row],
    task_of: Callable[[Row], Task],
    plan: Plan,
    folder: Path,
    say: Say,
    keep: Callable[[list[Measured]], None] = lambda _: None,
) -> list[Measured]:
    """Measure rows, those of a group together, in rounds A B C, A B C, ...

    A row that fails, or does not start in time, is left out from there on, with the reason in its
    `error`. Rows that start worker processes may take long to start. The others are measured once
    before, so that there is something should they never come; the first round is taken again then.
    A process that fails takes its rows with it.

    Args:
        rows: in the order of the table.
        task_of: what each row is measured on.
        plan: how long.
        folder: for logs.
        say: is told of progress.
        keep: is given what there is whenever there is more to keep.
    """
    results = [Measured(row) for row in rows]
    for device, cores in dict.fromkeys(row.group for row in rows):
        where = "GPU" if not cores else "1 core" if cores == 1 else f"{cores} cores"
        these = [found for found in results if found.row.group == (device, cores)]
        group = _Group(these, task_of, plan, folder, partial(_say_where, say, where))
        with closing(group):
            group.measure(lambda: keep(results))
    return results


def _say_where(say: Say, where: str, text: str) -> None:
    say(f"{where}: {text}")


class _Group:
    """Rows that are measured in the same rounds."""

    def __init__(
        self,
        rows: list[Measured],
        task_of: Callable[[Row], Task],
        plan: Plan,
        folder: Path,
        say: Say,
    ) -> None:
        self._rows, self._task_of, self._plan = rows, task_of, plan
        self._folder, self._say = folder, say
        self._sessions: dict[str, Session] = {}

    def measure(self, keep: Callable[[], None]) -> None:
        """All of it; `keep` is called whenever there is more to keep."""
        slow = [found for found in self._rows if found.row.kind == "ultralytics"]
        quick = [found for found in self._rows if found.row.kind != "ultralytics"]
        self._start(quick)
        keep()
        if slow and quick:
            self._say("measuring the others before those start that may take long")
            for found in quick:
                self._try(found, self._slice, 0)
                keep()
        self._start(slow)
        for turn in range(self._plan.rounds):
            self._say(f"round {turn + 1} of {self._plan.rounds}")
            for found in self._rows:
                self._try(found, self._slice, turn)
                if turn or not (slow and quick):  # no ratio of slices that are far apart
                    keep()
            keep()
        for found in self._rows if self._plan.profile else []:
            if found.row.trains or found.row.kind == "yolodata":
                self._say(f"profiling {found.row.id}")
                self._try(found, self._profile)
                keep()

    def close(self) -> None:
        """End all children."""
        close_all(self._sessions.values())

    def _start(self, part: list[Measured]) -> None:
        """Start rows, those of different processes side by side; wait for each until its limit."""
        if not part:
            return
        self._say(f"starting {', '.join(found.row.id for found in part)}")
        by_process: dict[str, list[Measured]] = {}
        for found in part:
            by_process.setdefault(found.row.process, []).append(found)
        for name in by_process:
            if name not in self._sessions:
                rows = [found.row for found in self._rows if found.row.process == name]
                jobs = [(row, self._task_of(row)) for row in rows]
                self._sessions[name] = Session(jobs, self._folder)
        threads = ThreadPoolExecutor(len(by_process))
        try:
            parts = [threads.submit(self._start_in_turn, these) for these in by_process.values()]
            while wait(parts, _SAY_EVERY).not_done:
                left = [f.row.id for f in part if f.ready is None and f.error is None]
                self._say(f"waiting for {', '.join(left)}")
            for done in parts:
                done.result()
        except BaseException:
            self.close()  # or the threads would wait for the children
            raise
        finally:
            threads.shutdown()

    def _start_in_turn(self, these: list[Measured]) -> None:
        for found in these:
            self._try(found, self._get_ready)

    def _get_ready(self, found: Measured, session: Session) -> None:
        limit, began = self._plan.start_limit, time.monotonic()
        others = any(f.ready for f in self._rows if f.row.process == found.row.process)
        session.send("start", found.row.id, limit)
        late = f"did not start within {limit:g} s, its limit (--start-limit)"
        # Beside others it gives up by itself: they must not be lost with the process.
        found.ready = session.receive(limit + ANSWER_LIMIT if others else limit, late)
        self._say(f"{found.row.id} is ready after {time.monotonic() - began:.0f} s")

    def _slice(self, found: Measured, turn: int, session: Session) -> None:
        sample = self._ask(session, "slice", found, self._plan.steps)
        found.samples = [*found.samples[:turn], sample]

    def _profile(self, found: Measured, session: Session) -> None:
        steps = min(self._plan.steps, _PROFILED_STEPS)
        found.profile = self._ask(session, "profile", found, steps)

    def _ask(self, session: Session, what: str, found: Measured, steps: int) -> Any:
        limit = self._plan.seconds + (_STEPS_LIMIT if steps else 0)
        return session.ask(limit, what, found.row.id, self._plan.seconds, steps)

    def _try(self, found: Measured, step: Callable[..., None], *arguments: Any) -> None:
        if found.error is not None:
            return
        session = self._sessions[found.row.process]
        try:
            step(found, *arguments, session)
        except BenchError as error:
            found.error = str(error)
            self._say(f"{found.row.id} failed and is left out: {error}")
            if all(f.error for f in self._rows if f.row.process == found.row.process):
                session.close()  # what is left of it would disturb the others
