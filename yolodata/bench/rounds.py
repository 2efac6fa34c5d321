"""Going round the rows, slice by slice, so that each ratio compares neighbours in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from yolodata.bench.child import Ready, Sample
from yolodata.bench.rows import Row
from yolodata.bench.session import BenchError, Session
from yolodata.bench.subjects import Task

Say = Callable[[str], None]


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
    """

    rounds: int
    seconds: float
    profile: bool = False


def run(
    rows: Sequence[Row],
    task_of: Callable[[Row], Task],
    plan: Plan,
    folder: Path,
    say: Say,
    keep: Callable[[list[Measured]], None] = lambda _: None,
) -> list[Measured]:
    """Measure rows, those of a group together, in rounds A B C, A B C, ...

    A row that fails is left out from there on, with the reason in its `error`.

    Args:
        rows: in the order of the table.
        task_of: what each row is measured on.
        plan: how long.
        folder: for logs.
        say: is told of progress.
        keep: is given all rows after every round, so that nothing is lost should it be the last.
    """
    results = {row.id: Measured(row) for row in rows}
    for device, cores in dict.fromkeys(row.group for row in rows):
        group = [results[row.id] for row in rows if row.group == (device, cores)]
        where = "GPU" if device != "cpu" else "1 core" if cores == 1 else f"{cores} cores"
        say(f"{where}: starting {len(group)} loaders")
        with ExitStack() as stack:
            sessions = {
                found.row.id: stack.enter_context(
                    closing(Session(found.row, task_of(found.row), folder))
                )
                for found in group
            }
            for found in group:
                _try(_get_ready, found, sessions[found.row.id], plan, say)
            for turn in range(plan.rounds):
                say(f"{where}: round {turn + 1} of {plan.rounds}")
                for found in group:
                    _try(_slice, found, sessions[found.row.id], plan, say)
                keep(list(results.values()))
            for found in group if plan.profile else []:
                if found.row.kind == "yolodata":
                    _try(_profile, found, sessions[found.row.id], plan, say)
    return list(results.values())


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


def _get_ready(found: Measured, session: Session, plan: Plan) -> None:
    found.ready = session.ready()


def _slice(found: Measured, session: Session, plan: Plan) -> None:
    found.samples.append(session.slice(plan.seconds))


def _profile(found: Measured, session: Session, plan: Plan) -> None:
    found.profile = session.profile(plan.seconds)


def _try(
    step: Callable[[Measured, Session, Plan], None],
    found: Measured,
    session: Session,
    plan: Plan,
    say: Say,
) -> None:
    if found.error is not None:
        return
    try:
        step(found, session, plan)
    except BenchError as error:
        found.error = str(error)
        say(f"{found.row.id} failed and is left out: {error}")
