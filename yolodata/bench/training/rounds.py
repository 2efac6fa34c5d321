"""Going round the feeds, some steps each, so that ratios compare neighbours in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from yolodata.bench.rounds import Measured, Say
from yolodata.bench.rows import Row
from yolodata.bench.session import START_LIMIT, BenchError, Session
from yolodata.bench.training.child import serve
from yolodata.bench.training.task import Slice, TrainReady, TrainTask

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

    def __init__(self, task: TrainTask, cores: int, folder: Path) -> None:
        row = Row(f"train-{cores}", "train", "", "", "memory", cores, cores)
        super().__init__(row, task, folder, target=serve)

    def trains(self) -> TrainReady:
        """Wait until every feed had its first steps; raises BenchError."""
        answer = self._receive(START_LIMIT)
        assert isinstance(answer, TrainReady)
        return answer

    def steps(self, row: Row, steps: int) -> Slice:
        """Take some steps on a feed; raises BenchError."""
        answer = self._ask(_STEPS_LIMIT, "steps", row.id, steps)
        assert isinstance(answer, Slice)
        return answer


def run(
    rows: Sequence[Row],
    task_of: Callable[[int], TrainTask],
    *,
    rounds: int,
    steps: int,
    folder: Path,
    say: Say,
    keep: Callable[[list[Trained]], None] = lambda _: None,
) -> list[Trained]:
    """Measure rows, those with the same number of cores in one process.

    A process that fails takes its rows with it, from there on, with the reason in their `error`.

    Args:
        rows: in the order of the table.
        task_of: number of cores to what that process does.
        rounds: slices a row.
        steps: of each slice.
        folder: for logs.
        say: is told of progress.
        keep: is given what there is after every round.
    """
    results: list[Trained] = []
    for cores in dict.fromkeys(row.cores for row in rows):
        trained = Trained(cores, [Measured(row) for row in rows if row.cores == cores])
        results.append(trained)
        where = "1 core" if cores == 1 else f"{cores} cores"
        say(f"{where}: starting to train")
        with closing(TrainSession(task_of(cores), cores, folder)) as session:
            try:
                trained.ready = session.trains()
                for turn in range(rounds):
                    say(f"{where}: round {turn + 1} of {rounds}")
                    for found in trained.rows:
                        found.samples.append(session.steps(found.row, steps))
                    keep(results)
            except BenchError as error:
                for found in trained.rows:
                    found.error = str(error)
                say(f"{where}: failed: {error}")
    return results
