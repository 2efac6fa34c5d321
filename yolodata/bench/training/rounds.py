"""Going round the feeds, some steps each, so that ratios compare neighbours in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolodata.bench.rounds import START_LIMIT, Measured, prefixed
from yolodata.bench.rows import Row
from yolodata.bench.session import BenchError, Say, Session
from yolodata.bench.training.child import serve
from yolodata.bench.training.task import Slice, Started, TrainReady, TrainTask

_STEPS_LIMIT = 600.0  # seconds that a slice may take


@dataclass
class Trained:
    """What one child measured.

    Attributes:
        cores: that it was allowed.
        rows: in the order of the table.
        ready: what it knows of the training; None if it did not come so far.
    """

    cores: int
    rows: list[Measured] = field(default_factory=list)
    ready: TrainReady | None = None


class TrainSession(Session):
    """A training process; `close` kills it and all its workers."""

    def __init__(self, task: TrainTask, cores: int, folder: Path, say: Say) -> None:
        row = Row(f"train-{cores}", "train", "", "", "memory", cores, cores)
        super().__init__(row, task, folder, target=serve, say=say)

    def trains(self, limit: float) -> TrainReady:
        """Wait until the feeds that start at once had their first steps; raises BenchError."""
        late = f"did not start within {limit:g} s, its limit (--start-limit)"
        answer = self._receive(limit, late)
        assert isinstance(answer, TrainReady)
        return answer

    def start(self, row: Row, limit: float) -> Started:
        """Have a feed started that may take long; raises BenchError."""
        answer = self._ask(limit, "start", row.id, limit)
        assert isinstance(answer, Started)
        return answer

    def steps(self, row: Row, steps: int) -> Slice:
        """Take some steps on a feed; raises BenchError."""
        answer = self._ask(_STEPS_LIMIT, "steps", row.id, steps)
        assert isinstance(answer, Slice)
        return answer

    def profile(self, row: Row, steps: int) -> dict[str, Any]:  # type: ignore[override]
        """Take some steps under torch's profiler; raises BenchError."""
        answer = self._ask(_STEPS_LIMIT, "profile", row.id, steps)
        assert isinstance(answer, dict)
        return answer


@dataclass(frozen=True)
class TrainPlan:
    """How long to measure.

    Attributes:
        rounds: slices a row.
        steps: of each slice.
        profile: steps under torch's profiler, a row; 0 for none.
        start_limit: seconds that the training, and then each slow feed, may take to start.
    """

    rounds: int
    steps: int
    profile: int = 0
    start_limit: float = START_LIMIT


def run(
    rows: Sequence[Row],
    task_of: Callable[[int], TrainTask],
    plan: TrainPlan,
    folder: Path,
    say: Say,
    keep: Callable[[list[Trained]], None] = lambda _: None,
) -> list[Trained]:
    """Measure rows, those with the same number of cores in one process.

    Feeds with worker processes may take long to start, and one that does not in time is left out.
    The others are measured once before; the first round is taken again then. A process that fails
    takes its rows with it, from there on, with the reason in their `error`.

    Args:
        rows: in the order of the table.
        task_of: number of cores to what that process does.
        plan: how long.
        folder: for logs.
        say: is told of progress.
        keep: is given what there is whenever there is more to keep.
    """
    results: list[Trained] = []
    for cores in dict.fromkeys(row.cores for row in rows):
        trained = Trained(cores, [Measured(row) for row in rows if row.cores == cores])
        results.append(trained)
        told = prefixed(say, "1 core" if cores == 1 else f"{cores} cores")
        told("starting to train")
        with closing(TrainSession(task_of(cores), cores, folder, told)) as session:
            try:
                trained.ready = session.trains(plan.start_limit)
                _measure(trained, session, plan, told, lambda: keep(results))
            except BenchError as error:
                for found in trained.rows:
                    found.error = found.error or str(error)
                told(f"failed: {error}")
        keep(results)
    return results


def _measure(
    trained: Trained, session: TrainSession, plan: TrainPlan, say: Say, keep: Callable[[], None]
) -> None:
    ready = trained.ready
    assert ready is not None
    slow = [found for found in trained.rows if found.row.id not in ready.feeds]
    quick = [found for found in trained.rows if found.row.id in ready.feeds]

    def measure(found: Measured, turn: int) -> None:
        found.samples = [*found.samples[:turn], session.steps(found.row, plan.steps)]

    if slow:
        say("measuring the others before those start that may take long")
        for found in quick:
            measure(found, 0)
            keep()
    for found in slow:
        say(f"starting {found.row.id}")
        began = time.monotonic()
        started = session.start(found.row, plan.start_limit)
        if started.error:
            found.error = f"{found.row.id}: {started.error}"
            say(f"{found.error}; it is left out")
        else:
            ready.feeds[found.row.id] = started.about
            say(f"{found.row.id} is ready after {time.monotonic() - began:.0f} s")
    for turn in range(plan.rounds):
        say(f"round {turn + 1} of {plan.rounds}")
        for found in trained.rows:
            if found.error is None:
                measure(found, turn)
            if turn or not slow:  # no ratio of slices that are far apart
                keep()
        keep()
    for found in trained.rows if plan.profile else []:
        if found.error is None:
            say(f"profiling {found.row.id}")
            found.profile = session.profile(found.row, plan.profile)
            keep()
