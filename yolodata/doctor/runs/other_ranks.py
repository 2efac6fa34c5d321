"""What several ranks cost each other: sums over them, and one that is slower."""

from __future__ import annotations

from collections.abc import Iterator

from yolodata.doctor.finding import NOTICED, Finding, Knob, gain_without
from yolodata.doctor.runs.records import Run, Steps
from yolodata.doctor.runs.rhythm import without_stalls

REDUCE = 0.15
"""Share of a step from which on sums over ranks are one to complain about."""


def found(run: Run) -> Iterator[Finding]:
    """Yields what ranks cost each other."""
    ranks = {rank: without_stalls(run.steady(rank)) for rank in run.steps}
    ranks = {rank: steps for rank, steps in ranks.items() if steps.known("straggler_ms")}
    if len(ranks) < 2:
        return
    yield from _slow(ranks)
    steps = ranks[min(ranks)]
    step_ms, reduce = float(steps["step_ms"].mean()), steps.mean("all_reduce_ms") or 0.0
    if reduce >= REDUCE * step_ms:
        yield Finding(
            "slow_link", "slow", "The ranks take long to add up their gradients.",
            f"{reduce:.1f} of {step_ms:.1f} ms ({reduce / step_ms:.0%}) are sums over "
            f"{len(run.steps)} ranks that the backward pass does not hide; the prediction is for "
            "half as many updates",
            Knob("Add up gradients less often: a larger batch, or a larger nbs.", _larger(run)),
            reduce / 2, step_ms, gain_without(reduce / 2, step_ms),
        )  # fmt: skip


def _larger(run: Run) -> dict[str, int]:
    batch = run.arguments.get("batch")
    return {"batch": 2 * batch} if isinstance(batch, int) and batch > 0 else {}


def _slow(ranks: dict[int, Steps]) -> Iterator[Finding]:
    """Yields the rank that the others wait for, or that they wait for each other in turns."""
    waits = {rank: steps.mean("straggler_ms") or 0.0 for rank, steps in ranks.items()}
    slow = min(waits, key=lambda rank: waits[rank])
    others = [wait for rank, wait in waits.items() if rank != slow]
    step_ms = float(ranks[slow]["step_ms"].mean())
    lost = sum(others) / len(others) - waits[slow]
    if lost >= NOTICED * step_ms:
        why, knob = _why(ranks, slow, lost)
        listed = ", ".join(f"{wait:.1f} ms on rank {rank}" for rank, wait in sorted(waits.items()))
        yield Finding(
            "slow_rank", "slow", f"The other ranks wait for rank {slow}.",
            f"waiting for slower ranks takes {listed}, of steps of {step_ms:.1f} ms{why}",
            knob, lost, step_ms, gain_without(lost, step_ms),
        )  # fmt: skip
    elif waits[slow] >= NOTICED * step_ms:
        lost = waits[slow]
        yield Finding(
            "uneven_ranks", "slow", "The ranks wait for each other in turns.",
            f"each waits {lost:.1f} of {step_ms:.1f} ms or more ({lost / step_ms:.0%}) for one "
            "that is later, and it is not always the same",
            Knob("Give the ranks equal work and cores of their own: what disturbs one of them "
                 "holds up all.", {}),
            lost, step_ms, gain_without(lost, step_ms),
        )  # fmt: skip


def _why(ranks: dict[int, Steps], slow: int, lost: float) -> tuple[str, Knob]:
    """What the slow rank does more of than the others, in words, and what to do."""

    def more(steps: Steps, column: str) -> float:
        return float(steps.each(column).mean())

    rest = [steps for rank, steps in ranks.items() if rank != slow]
    excess = {
        column: more(ranks[slow], column) - sum(more(steps, column) for steps in rest) / len(rest)
        for column in ("wait_ms", "device_wait_ms", "callbacks_ms")
    }
    data = excess["wait_ms"] + excess["device_wait_ms"]
    if data >= 0.5 * lost:
        return f"; rank {slow} waits {data:.1f} ms more for data than they do", Knob(
            f"Look at the storage and the cores of rank {slow}'s machine.", {}
        )
    if excess["callbacks_ms"] >= 0.5 * lost:
        return f"; its callbacks take {excess['callbacks_ms']:.1f} ms more than theirs", Knob(
            "Do less in callbacks of each batch on that rank.", {}
        )
    return f"; rank {slow} does not wait for data, it computes longer", Knob(
        f"Look at the GPU or the cores of rank {slow}: clock, throttling, other processes.", {}
    )
