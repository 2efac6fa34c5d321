"""Takes the times of all ranks; every decision on how much to measure is rank 0's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from yolodata.doctor.ranks.judge import Figures
from yolodata.doctor.ranks.links import Links
from yolodata.doctor.ranks.step import RankStep
from yolodata.doctor.ranks.sweep import Sweep, sizes_of, sweep, sweep_beside
from yolodata.doctor.trimmed_mean import trimmed_mean
from yolodata.train.distributed.process_group import ProcessGroup

ROUND = 0.5
"""Seconds of each kind of step in a round, of which the first step is not counted."""
ROUNDS = 3
"""So many are made, however long they take: fewer would say nothing of noise."""
SHARES = (0.7, 0.25)
"""Of the time: steps, sums over the link."""


def measure(
    group: ProcessGroup,
    step: RankStep,
    links: Links,
    seconds: float,
    fair_threads: int,
    say: Callable[[str], None],
) -> tuple[Figures, float | None]:
    """Measures; every rank calls this.

    Args:
        group: that is started.
        step: that is connected.
        links: of this rank.
        seconds: about how long this may take.
        fair_threads: of torch, for a rank that shares no core.
        say: is told what is measured.

    Returns:
        What was measured, the same on every rank; and how many times as fast a step is with
        `fair_threads`, None where all have about as many.
    """
    threads = torch.get_num_threads()
    unfair = threads >= 2 * fair_threads or 2 * threads <= fair_threads
    kinds: dict[str, Callable[[], float]] = {
        "alone": step.alone,
        "together": step.together,
        "at_once": step.at_once,
    }
    if any(group.gather(step.device.type == "cpu" and unfair)):
        kinds["fair"] = lambda: _with_threads(step.together, fair_threads)
    apart = group.size > group.local_size and step.device.type == "cpu"
    if apart and all(group.gather(step.join_neighbour())):
        kinds["beside"] = step.beside
    say("steps of each rank, and of all")
    rounds, forwards, processor = _rounds(group, step, kinds, SHARES[0] * seconds)
    say("sums over ranks, by size")
    sizes = sizes_of(step.buckets)
    link = sweep(group, step.device, sizes, SHARES[1] * seconds)
    beside, possible, by = _possible(group, step.device, links, sizes)
    figures = Figures(
        [times for one in rounds["alone"] for times in one],
        [_of_step(one) for one in rounds["together"]],
        [_of_step(one) for one in rounds["at_once"]],
        step.buckets,
        step.tensors,
        link,
        possible,
        by,
        [_of_slowest(one) for one in rounds.get("beside", [])],
        beside,
        *(
            [times for one in times_of[kind] for times in one] if known else ()
            for times_of, known in (
                (forwards, step.device.type == "cpu"),
                (processor, step.computes_here),
            )
            for kind in ("alone", "together")
        ),
    )
    if "fair" not in rounds:
        return figures, None
    return figures, figures.step / trimmed_mean([_of_step(one) for one in rounds["fair"]])


Rounds = dict[str, list[list[list[float]]]]  # kind -> rounds -> steps -> ranks -> milliseconds


def _rounds(
    group: ProcessGroup, step: RankStep, kinds: dict[str, Callable[[], float]], seconds: float
) -> tuple[Rounds, Rounds, Rounds]:
    """Kinds of steps take turns, so that what else the machine does meets all of them.

    Returns:
        Milliseconds of the steps, of their forward passes, and of processor time.
    """
    ends = time.monotonic() + seconds
    usual = max(max(group.gather(make())) for make in kinds.values())
    # The first step of each is not counted: a rank that waited for the others to begin has rested,
    # and saved up of a quota meanwhile.
    steps = 1 + group.from_first(max(1, round(ROUND * 1e3 / usual)))
    found: tuple[Rounds, Rounds, Rounds] = ({}, {}, {})
    while True:
        for kind, make in kinds.items():
            group.gather(None)  # all begin together
            mine = [(make(), step.forward_ms, step.cpu_ms) for _ in range(steps)]
            everyones = list(zip(*group.gather(mine[1:]), strict=True))
            for number, rounds in enumerate(found):
                rounds.setdefault(kind, []).append([[one[number] for one in r] for r in everyones])
        made = len(found[0]["alone"])
        if group.from_first(made >= ROUNDS and time.monotonic() > ends):
            return found


def _of_step(steps: list[list[float]]) -> float:
    """Milliseconds of a step of one round in which ranks go in step."""
    return statistics.mean(statistics.mean(ranks) for ranks in steps)


def _of_slowest(steps: list[list[float]]) -> float:
    """Milliseconds of a step of one round if ranks went in step."""
    return statistics.mean(max(ranks) for ranks in steps)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _with_threads(step: Callable[[], float], count: int) -> float:
    with _threads(count):
        return step()


def _possible(
    group: ProcessGroup, device: torch.device, links: Links, sizes: list[int]
) -> tuple[Sweep | None, Sweep | None, str]:
    """What sums take beside each other on a machine; what they could, at the rate of the link."""
    machines = group.size > group.local_size
    if not machines and device.type == "cpu":
        return None, None, ""  # they are beside each other
    mine = None
    if device.type == "cuda" or group.local_rank == 0:
        mine = sweep_beside(device, sizes, group.size)
    found = [one for one in group.gather(mine) if one is not None]
    rates = group.gather(links.rate) if machines else []
    rate = min((rate for rate in rates if rate), default=0.0)
    if not found:
        return None, None, ""
    beside = [(size, statistics.median(one.ms(size) for one in found)) for size in sorted(sizes)]
    said = (
        "measured through page-locked memory"
        if device.type == "cuda"
        else ("measured between two ranks of one machine")
    )
    if not rate:
        return Sweep(tuple(beside)), Sweep(tuple(beside)), said
    wire = 2 * (group.size - 1) / group.size * 8 / rate / 1e3  # ms a byte
    possible = [(size, max(ms, wire * size)) for size, ms in beside]
    said += f", the link says {rate:,.0f} Mbit/s"
    return Sweep(tuple(beside)), Sweep(tuple(possible)), said
