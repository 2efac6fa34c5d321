"""Going round the rows, slice by slice, so that each ratio compares neighbours in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from yolodata.bench.load import Load
from yolodata.bench.session import ANSWER_LIMIT, BenchError, Say, Session, close_all
from yolodata.bench.subject import Row, Sample, Task

START_LIMIT = 600.0  # seconds; caching pictures in memory may take long
_STEPS_LIMIT = 480.0  # seconds that a slice of steps may take, beyond ANSWER_LIMIT
_PROFILED_STEPS = 4  # at most: the profiler writes megabytes a step
_SAY_EVERY = 10.0  # seconds without anything new


@dataclass
class Measured:
    """A row and what came out.

    Attributes:
        ready: what its process knew before the first slice: of the first pictures, shape (3, H, W),
            dtype, brightness (0-255: mean, and standard error of the mean) and objects (the same;
            None where they cannot be counted); pinned, whether it stays on its cores; facts,
            constants worth printing; about, how batches are made; process, of training: pinned,
            parameters, optimizer, amp, device_memory_gib, busy (why there is no GPU busy share).
        samples: one a round, in order; fewer than rounds if it failed.
        error: why it could not be measured.
        profile: where its time goes, if that was asked for.
    """

    row: Row
    ready: dict[str, Any] | None = None
    samples: list[Sample] = field(default_factory=list)
    error: str | None = None
    profile: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int  # samples a row
    seconds: float = 0.0  # of each sample, at least
    steps: int = 0  # of each sample of a row that trains, at least
    profile: bool = False  # rows that train, and yolodata's loaders
    start_limit: float = START_LIMIT  # seconds that a row may take to start


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
    for device, cores, labels in dict.fromkeys(row.group for row in rows):
        where = "GPU" if not cores else "1 core" if cores == 1 else f"{cores} cores"
        where += "" if labels == "boxes" else f", {labels}"

        def say_where(text: str, where: str = where) -> None:
            say(f"{where}: {text}")

        these = [found for found in results if found.row.group == (device, cores, labels)]
        with closing(_Group(these, task_of, plan, folder, say_where)) as group:
            group.measure(lambda: keep(results))
    return results


@dataclass
class _Group:
    """Rows that are measured in the same rounds."""

    rows: list[Measured]
    task_of: Callable[[Row], Task]
    plan: Plan
    folder: Path
    say: Say
    sessions: dict[str, Session] = field(default_factory=dict)

    def measure(self, keep: Callable[[], None]) -> None:
        """All of it; `keep` is called whenever there is more to keep."""
        slow = [found for found in self.rows if found.row.starts_slowly]
        quick = [found for found in self.rows if not found.row.starts_slowly]
        self._start(quick)
        keep()
        if slow and quick:
            self.say("measuring the others before those start that may take long")
            for found in quick:
                self._try(found, self._slice, 0)
                keep()
        self._start(slow)
        for turn in range(self.plan.rounds):
            self.say(f"round {turn + 1} of {self.plan.rounds}")
            for found in self.rows:
                self._try(found, self._slice, turn)
                if turn or not (slow and quick):  # no ratio of slices that are far apart
                    keep()
            keep()
        for found in self.rows if self.plan.profile else []:
            if found.row.trains or found.row.kind == "yolodata":
                self.say(f"profiling {found.row.id}")
                self._try(found, self._profile)
                keep()

    def close(self) -> None:
        """End all children."""
        close_all(self.sessions.values())

    def _start(self, part: list[Measured]) -> None:
        """Start rows, those of different processes side by side; wait for each until its limit."""
        if not part:
            return
        self.say(f"starting {', '.join(found.row.id for found in part)}")
        processes = list(dict.fromkeys(found.row.process for found in part))
        for name in processes:
            if name not in self.sessions:
                rows = [found.row for found in self.rows if found.row.process == name]
                jobs = [(row, self.task_of(row)) for row in rows]
                self.sessions[name] = Session(jobs, self.folder)

        def start(process: str) -> None:
            for found in part:
                if found.row.process == process:
                    self._try(found, self._get_ready)

        with ThreadPoolExecutor(len(processes)) as threads:
            try:
                starts = [threads.submit(start, name) for name in processes]
                while wait(starts, _SAY_EVERY).not_done:
                    left = [f.row.id for f in part if f.ready is None and f.error is None]
                    self.say(f"waiting for {', '.join(left)}")
            except BaseException:
                self.close()  # or the threads would wait for the children
                raise
        for done in starts:
            done.result()

    def _get_ready(self, found: Measured, session: Session) -> None:
        limit, began = self.plan.start_limit, time.monotonic()
        others = any(f.ready for f in self.rows if f.row.process == found.row.process)
        late = f"did not start within {limit:g} s, its limit (--start-limit)"
        # Beside others it gives up by itself: they must not be lost with the process.
        patience = limit + ANSWER_LIMIT if others else limit
        found.ready = session.ask(patience, "start", found.row.id, limit, late=late)
        self.say(f"{found.row.id} is ready after {time.monotonic() - began:.0f} s")

    def _slice(self, found: Measured, session: Session, turn: int) -> None:
        before = Load.now()
        sample = self._ask(session, "slice", found, self.plan.steps)
        others, steal = Load.now().since(before)
        sample = replace(sample, others=others, steal=steal)
        found.samples = [*found.samples[:turn], sample]

    def _profile(self, found: Measured, session: Session) -> None:
        steps = min(self.plan.steps, _PROFILED_STEPS)
        found.profile = self._ask(session, "profile", found, steps)

    def _ask(self, session: Session, what: str, found: Measured, steps: int) -> Any:
        limit = self.plan.seconds + ANSWER_LIMIT + (_STEPS_LIMIT if steps else 0)
        return session.ask(limit, what, found.row.id, self.plan.seconds, steps)

    def _try(self, found: Measured, step: Callable[..., None], *arguments: Any) -> None:
        if found.error is not None:
            return
        session = self.sessions[found.row.process]
        try:
            step(found, session, *arguments)
        except BenchError as error:
            found.error = str(error)
            self.say(f"{found.row.id} failed and is left out: {error}")
            if all(f.error for f in self.rows if f.row.process == found.row.process):
                session.close()  # what is left of it would disturb the others
