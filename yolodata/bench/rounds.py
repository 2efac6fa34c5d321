"""Going round the rows, slice by slice, so that each ratio compares neighbours in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection
from pathlib import Path
from statistics import median
from typing import Any

from yolodata.bench.child import Ready, Sample
from yolodata.bench.rows import Row
from yolodata.bench.session import BenchError, Say, Session, close_all
from yolodata.bench.subject import Task

START_LIMIT = 600.0  # seconds; caching pictures in memory may take long
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

    @property
    def img_s(self) -> list[float]:
        """Pictures a second of each round that was measured."""
        return [s.img_s for s in self.samples]

    def fact(self, name: str) -> float | None:
        """A constant that its subject knows, or None."""
        return self.ready.facts.get(name) if self.ready is not None else None

    def mean_of(self, name: str) -> dict[str, float]:
        """Means of "stages_ms" or "counts" over the rounds, each round's pictures counting."""
        pictures = sum(s.pictures for s in self.samples)
        values = [(s.pictures, getattr(s, name)) for s in self.samples]
        keys = dict.fromkeys(key for _, found in values for key in found)
        return {key: sum(n * found.get(key, 0.0) for n, found in values) / pictures for key in keys}


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one row is as another.

    Attributes:
        ours, peer: row ids.
        samples: quotient of each round in which both were measured.
    """

    ours: str
    peer: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of all rounds."""
        return median(self.samples)


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: samples a row.
        seconds: of each sample.
        profile: also profile yolodata's rows.
        start_limit: seconds that a row may take to start.
    """

    rounds: int
    seconds: float
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

    Args:
        rows: in the order of the table.
        task_of: what each row is measured on.
        plan: how long.
        folder: for logs.
        say: is told of progress.
        keep: is given all rows whenever there is more to keep, so that a stop loses nothing.
    """
    results = [Measured(row) for row in rows]
    for device, cores in dict.fromkeys(row.group for row in rows):
        where = "GPU" if device != "cpu" else "1 core" if cores == 1 else f"{cores} cores"
        these = [found for found in results if found.row.group == (device, cores)]
        group = _Group(these, task_of, plan, folder, prefixed(say, where))
        with closing(group):
            group.measure(lambda: keep(results))
    return results


def prefixed(say: Say, where: str) -> Say:
    """`say`, with what it is about before it."""
    return lambda text: say(f"{where}: {text}")


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
                self._slice(found, 0)
                keep()
        self._start(slow)
        for turn in range(self._plan.rounds):
            self._say(f"round {turn + 1} of {self._plan.rounds}")
            for found in self._rows:
                self._slice(found, turn)
                if turn or not (slow and quick):  # no ratio of slices that are far apart
                    keep()
            keep()
        for found in self._rows if self._plan.profile else []:
            if found.row.kind == "yolodata":
                self._try(found, partial(self._profile, found))

    def close(self) -> None:
        """End all children."""
        close_all(self._sessions.values())

    def _start(self, part: list[Measured]) -> None:
        """Start rows side by side, and wait for each until its limit."""
        if not part:
            return
        self._say(f"starting {', '.join(found.row.id for found in part)}")
        for found in part:
            task = self._task_of(found.row)
            self._sessions[found.row.id] = Session(found.row, task, self._folder)
        limit, began = self._plan.start_limit, time.monotonic()
        waiting: dict[Any, Measured] = {
            self._sessions[found.row.id].connection: found for found in part
        }
        while waiting:
            waited = time.monotonic() - began
            answered = connection.wait(list(waiting), max(0.0, min(limit - waited, _SAY_EVERY)))
            for one in list(waiting) if waited >= limit else answered:
                found = waiting.pop(one)
                self._try(found, partial(self._get_ready, found, began))
            if waiting and not answered:
                self._say(f"waiting for {', '.join(found.row.id for found in waiting.values())}")

    def _get_ready(self, found: Measured, began: float, session: Session) -> None:
        found.ready = session.ready(self._plan.start_limit, time.monotonic() - began)
        self._say(f"{found.row.id} is ready after {time.monotonic() - began:.0f} s")

    def _slice(self, found: Measured, turn: int) -> None:
        def measure(session: Session) -> None:
            found.samples = [*found.samples[:turn], session.slice(self._plan.seconds)]

        self._try(found, measure)

    def _profile(self, found: Measured, session: Session) -> None:
        found.profile = session.profile(self._plan.seconds)

    def _try(self, found: Measured, step: Callable[[Session], None]) -> None:
        if found.error is not None:
            return
        session = self._sessions[found.row.id]
        try:
            step(session)
        except BenchError as error:
            found.error = str(error)
            self._say(f"{found.row.id} failed and is left out: {error}")
            session.close()  # what is left of it would disturb the others


def ratios(results: Sequence[Measured]) -> list[Ratio]:
    """Each row against each of its peers, round by round."""
    by_id = {found.row.id: found for found in results}
    made = []
    for found in results:
        for peer in found.row.peers:
            theirs = by_id[peer].samples if peer in by_id else []
            pairs = zip(found.samples, theirs, strict=False)
            samples = tuple(a.img_s / b.img_s for a, b in pairs)
            if samples:
                made.append(Ratio(found.row.id, peer, samples))
    return made


def shares(results: Sequence[Measured]) -> list[Ratio]:
    """Each row against its ceiling, round by round: in bytes a second where both move bytes."""
    by_id = {found.row.id: found for found in results}
    made = []
    for found in results:
        ceiling = by_id.get(found.row.ceiling)
        if ceiling is None or not found.samples:
            continue
        mine, its = found.fact("bytes_each"), ceiling.fact("bytes_each")
        factor = mine / its if mine and its else 1.0
        pairs = zip(found.samples, ceiling.samples, strict=False)
        samples = tuple(factor * a.img_s / b.img_s for a, b in pairs)
        if samples:
            made.append(Ratio(found.row.id, ceiling.row.id, samples))
    return made


def same_work(results: Sequence[Measured]) -> list[str]:
    """What speaks against the loaders having done the same work; empty if nothing does.

    Two loaders that augment differently differ in brightness or in the number of objects, and
    their speeds must not be compared. The pictures are random: up to five standard errors are
    put down to chance.
    """
    loaders = [f for f in results if f.ready is not None and f.ready.objects is not None]
    complaints = []
    for found in loaders[1:]:
        first, this = loaders[0].ready, found.ready
        assert first is not None
        assert this is not None
        # On a GPU each loader hands over what its trainer wants: other floats are no other work.
        either_on_gpu = "cuda" in (found.row.device, loaders[0].row.device)
        if first.shape != this.shape or (first.dtype != this.dtype and not either_on_gpu):
            complaints.append(f"{found.row.id} makes {this.shape} {this.dtype} pictures, "
                              f"{loaders[0].row.id} {first.shape} {first.dtype}")  # fmt: skip
        assert first.objects is not None
        assert this.objects is not None
        for what, a, b in (
            ("mean brightness", first.brightness, this.brightness),
            ("objects a picture", first.objects, this.objects),
        ):
            if abs(a[0] - b[0]) > 5 * math.hypot(a[1], b[1]) + 0.02 * abs(a[0]):
                complaints.append(
                    f"{found.row.id} has {what} {b[0]:.1f} (error {b[1]:.1f}), "
                    f"{loaders[0].row.id} {a[0]:.1f} (error {a[1]:.1f})"
                )
    return complaints
