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
from yolodata.doctor.ranks.sweep import Sweep, sizes_of, sweep, sweep_here
from yolodata.train.distributed.process_group import ProcessGroup

ROUND = 0.2
"""Seconds of each kind of step in a round."""
ROUNDS = 4
"""So many are made, however long they take: fewer would say nothing of noise."""
SHARES = (0.65, 0.2, 0.1)
"""Of the time: steps, sums over the link, sums beside it."""


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
        `fair_threads`, None where no rank has more.
    """
    crowded = step.device.type == "cpu" and torch.get_num_threads() >= 2 * fair_threads
    kinds: dict[str, Callable[[], float]] = {
        "alone": step.alone,
        "together": step.together,
        "at_once": step.at_once,
    }
    if any(group.gather(crowded)):
        kinds["fair"] = lambda: _with_threads(step.together, fair_threads)
    say("steps of each rank, and of all")
    rounds = _rounds(group, kinds, SHARES[0] * seconds)
    say("sums over ranks, by size")
    sizes = sizes_of(step.buckets)
    link = sweep(group, step.device, sizes, SHARES[1] * seconds)
    possible, by = _possible(group, step.device, links, sizes, SHARES[2] * seconds)
    figures = Figures(
        [times for one in rounds["alone"] for times in one],
        [_of_step(one) for one in rounds["together"]],
        [_of_step(one) for one in rounds["at_once"]],
        step.buckets,
        step.tensors,
        link,
        possible,
        by,
    )
    if "fair" not in rounds:
        return figures, None
    return figures, figures.step / statistics.median(_of_step(one) for one in rounds["fair"])


Rounds = dict[str, list[list[list[float]]]]  # kind -> rounds -> steps -> ranks -> milliseconds


def _rounds(group: ProcessGroup, kinds: dict[str, Callable[[], float]], seconds: float) -> Rounds:
    """Kinds of steps take turns, so that what else the machine does meets all of them."""
    ends = time.monotonic() + seconds
    usual = max(max(group.gather(step())) for step in kinds.values())
    steps = group.from_first(max(1, round(ROUND * 1e3 / usual)))
    rounds: Rounds = {kind: [] for kind in kinds}
    while True:
        for kind, step in kinds.items():
            group.gather(None)  # all begin together
            mine = [step() for _ in range(steps)]
            everyones = group.gather(mine)
            rounds[kind].append([list(ranks) for ranks in zip(*everyones, strict=True)])
        made = len(rounds["alone"])
        if group.from_first(made >= ROUNDS and time.monotonic() > ends):
            return rounds


def _of_step(steps: list[list[float]]) -> float:
    """Milliseconds of a step of one round in which ranks go in step."""
    return statistics.mean(statistics.mean(ranks) for ranks in steps)


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
    group: ProcessGroup, device: torch.device, links: Links, sizes: list[int], seconds: float
) -> tuple[Sweep | None, str]:
    """What sums could take: beside each other on a machine, at the rate that the link has."""
    machines = group.size > group.local_size
    if not machines and device.type == "cpu":
        return None, ""  # they are beside each other
    here = None
    if device.type == "cuda" or group.local_rank == 0:
        here = sweep_here(device, sizes, group.size, seconds)
    found = [one for one in group.gather(here) if one is not None]
    rates = [rate for rate in group.gather(links.rate) if rate] if machines else []
    rate = min(rates, default=0.0)
    measured = min((len(one.times) for one in found), default=0)
    if not rate and not measured:
        return None, ""
    carried = 2 * (group.size - 1) / group.size
    times = []
    for size in sizes:
        beside = statistics.median(one.ms(size) for one in found) if measured else 0.0
        times.append((size, max(beside, carried * size * 8 / rate / 1e3 if rate else 0.0)))
    said = []
    if measured:
        said.append("measured through page-locked memory" if device.type == "cuda" else
                    "measured between two ranks of one machine")  # fmt: skip
    if rate:
        said.append(f"the link says {rate:,.0f} Mbit/s")
    return Sweep(tuple(times)), ", ".join(said)
