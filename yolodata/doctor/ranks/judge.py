"""Which ranks, links and ways of reducing cost time, from what was measured; no clock in here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.ranks.sweep import Sweep
from yolodata.doctor.trimmed_mean import trimmed_mean

LEAST = 1.15
"""A gain below this is not claimed: two ranks of one machine differ by as much without a cause."""
_AS_BEFORE = 0.7
"""Share of a slowness from which it is the same one: forward passes are short, and differ."""
_AT_ITS_LIMIT = 0.9
"""Share of the processor time that a rank gets by itself from which it never rests."""
_OWN_WORK = 1.3
"""Times the work of a rank at exchanging from which sums over ranks take longer than it."""
BACKWARD = 2 / 3
"""Share of a step, usually, in which gradients become ready, and may travel meanwhile."""
SLOW_LINK = 2.0
"""A link is slow if the same sums take so many times as long as they could."""


@dataclass(frozen=True)
class Figures:
    """What was measured, in milliseconds.

    Attributes:
        alone: steps without exchange; of each, the time of every rank.
        together: steps as training makes them.
        at_once: steps that send all gradients in one piece after the backward pass.
        buckets: bytes that travel at once, in their order.
        tensors: gradients of the model.
        link: sums over all ranks.
        possible: the same sums as they could be; None where that is not known.
        possible_by: in words, where `possible` comes from.
        beside: steps whose gradients go to a rank of the same machine; empty where not measured.
        beside_sums: the same sums between ranks of one machine.
        forward_alone: forward passes of the steps in `alone`; of each, the time of every rank;
            empty where that is not known.
        forward_together: those of the steps in `together`.
        cpu_alone: processor time of the steps in `alone`; of each, that of every rank; empty where
            it is not the processor that computes.
        cpu_together: that of the steps in `together`.
    """

    alone: Sequence[Sequence[float]]
    together: Sequence[float]
    at_once: Sequence[float]
    buckets: Sequence[int]
    tensors: int
    link: Sweep
    possible: Sweep | None = None
    possible_by: str = ""
    beside: Sequence[float] = ()
    beside_sums: Sweep | None = None
    forward_alone: Sequence[Sequence[float]] = ()
    forward_together: Sequence[Sequence[float]] = ()
    cpu_alone: Sequence[Sequence[float]] = ()
    cpu_together: Sequence[Sequence[float]] = ()

    @property
    def step(self) -> float:
        """Of a step as it is."""
        return trimmed_mean(self.together)

    @property
    def own(self) -> list[float]:
        """Of a step of each rank by itself."""
        return _mean_of_each(self.alone)

    @property
    def waiting(self) -> list[float]:
        """For which each rank waits in a step, for others and for the link."""
        return [max(0.0, self.step - own) for own in self.own]

    @property
    def sent_at_once(self) -> float:
        """Of a step that sends all gradients in one piece after the backward pass."""
        return trimmed_mean(self.at_once)

    @property
    def reducing(self) -> float:
        """By which exchange makes a step longer than that of the slowest rank."""
        return max(0.0, self.step - trimmed_mean([max(ranks) for ranks in self.alone]))


def judge(figures: Figures) -> Iterator[Finding]:
    """Finds a slow rank, a slow link, a serial reduction."""
    for finding in (_slow_rank(figures), _slow_link(figures), _serial(figures)):
        if finding is not None:
            yield finding


def _slow_rank(f: Figures) -> Finding | None:
    own = f.own
    slow = max(range(len(own)), key=lambda rank: own[rank])
    others = _median_but(own, slow)
    behind = _behind(f.alone, slow)
    exchanging = _exchanging(f)
    exchange = _median_but(exchanging, slow)
    late = trimmed_mean(behind) + min(max(0.0, exchanging[slow] - exchange), f.reducing)
    least = others + max(exchange, _travelling(f, exchanging[slow], others))
    lost = min(late * _remains(f, slow), f.step - least)
    # It is the same rank, not one now and another then.
    if lost <= 0 or own[slow] < LEAST * others or not _lasting(behind):
        return None
    after = f.step - lost
    if f.step < LEAST * after:
        return None
    return Finding(
        "slow_rank",
        "slow",
        f"Rank {slow} is slower than the others, which wait for it in every step",
        f"a step by itself takes rank {slow} {own[slow]:.1f} ms, the others {others:.1f} ms; a "
        f"step of all takes {f.step:.1f} ms, of which {max(f.waiting):.1f} ms are waiting. "
        f"Calculated: at the pace of the others, {after:.1f} ms",
        Knob(
            f"Look at what else runs where rank {slow} runs (cores, quota, clocks of its GPU), or "
            "leave that place out",
            {},
        ),
        lost_ms=lost,
        step_ms=f.step,
        gain=f.step / after,
    )


def _behind(steps: Sequence[Sequence[float]], slow: int) -> list[float]:
    """By how many milliseconds one rank was slower than the others, for each step."""
    return [ranks[slow] - _median_but(ranks, slow) for ranks in steps]


def _median_but(ranks: Sequence[float], slow: int) -> float:
    """The median of all ranks but one."""
    return statistics.median([*ranks[:slow], *ranks[slow + 1 :]])


def _exchanging(f: Figures) -> list[float]:
    """Milliseconds that exchange takes each rank by its own work; 0 where that is not known.

    From processor time, and how long the rank takes for as much of it by itself.
    """
    if not f.cpu_alone or not f.cpu_together:
        return [0.0] * len(f.own)
    alone, together = (_mean_of_each(times) for times in (f.cpu_alone, f.cpu_together))
    return [
        max(0.0, both - one) * own / max(one, 1e-3)
        for one, both, own in zip(alone, together, f.own, strict=True)
    ]


def _travelling(f: Figures, work: float, others: float) -> float:
    """Milliseconds that gradients travel after the backward pass of a step, whoever is slow.

    Args:
        f: what was measured.
        work: of the slow rank at exchanging; where sums take no longer, they tell of it alone.
        others: of a step of another rank by itself.
    """
    sums = sum(f.link.ms(size) for size in f.buckets)
    if sums < _OWN_WORK * work:
        return 0.0
    return max(f.link.ms(f.buckets[-1]), sums - BACKWARD * others)


def _mean_of_each(steps: Sequence[Sequence[float]]) -> list[float]:
    """The trimmed mean of each rank."""
    return [trimmed_mean(times) for times in zip(*steps, strict=True)]


def _remains(f: Figures, slow: int) -> float:
    """Share (0-1) of what a slow rank is behind by itself that is left in steps of all.

    Where all wait for the link, a rank with a quota saves up for its own work meanwhile. A rank
    that gets as much processor time as by itself waits for nobody.
    """
    if not f.forward_alone or not f.forward_together:
        return 1.0
    if f.cpu_alone and f.cpu_together:
        able = _mean_of_each(f.cpu_alone)[slow] / f.own[slow]
        used = _mean_of_each(f.cpu_together)[slow] / f.step
        if used > _AT_ITS_LIMIT * able:
            return 1.0
    alone = trimmed_mean(_behind(f.forward_alone, slow))
    together = trimmed_mean(_behind(f.forward_together, slow))
    if alone <= 0 or together > _AS_BEFORE * alone:
        return 1.0
    return max(0.0, together / alone)


def _slow_link(f: Figures) -> Finding | None:
    if f.possible is None:
        return None
    now = sum(f.link.ms(size) for size in f.buckets)
    possible = sum(f.possible.ms(size) for size in f.buckets)
    if now < SLOW_LINK * possible:
        return None
    if f.beside and f.beside_sums is not None:
        # The step of a machine's own ranks, and what the rate of the link adds to it.
        slower = possible - sum(f.beside_sums.ms(size) for size in f.buckets)
        after = trimmed_mean(f.beside) + max(0.0, slower)
        how = f"measured over such a link: {after:.1f} ms"
    else:
        # While gradients are made, others travel. What of them does not fit in there makes the
        # step longer; the last bucket always does, as it is ready last.
        hidden = max(0.0, now - f.reducing)
        left = max(f.possible.ms(f.buckets[-1]), possible - hidden)
        # A way of sending that waits for itself is not the link's fault.
        left = max(left, f.reducing - (now - possible))
        after = f.step - f.reducing + left
        how = f"calculated: {after:.1f} ms, of which {left:.1f} ms for exchange"
    if f.step < LEAST * after:
        return None
    total = sum(f.buckets)
    return Finding(
        "slow_link",
        "slow",
        "The link between the ranks is slow",
        f"gradients ({total / 1e6:.1f} MB in {len(f.buckets)} buckets) take {now:.1f} ms "
        f"({total / now / 1e3:,.0f} MB/s), and could take {possible:.1f} ms ({f.possible_by}); "
        f"a step takes {f.step:.1f} ms, {how}",
        Knob(
            "Give the ranks a faster link: look at what limits it (its rate, the interface that "
            "was chosen, other traffic), or put the ranks on one machine",
            {},
        ),
        lost_ms=f.step - after,
        step_ms=f.step,
        gain=f.step / after,
        measured=bool(f.beside),
    )


def _serial(f: Figures) -> Finding | None:
    """Whatever the way: if one piece after the backward pass is quicker, it is the wrong one."""
    after = f.sent_at_once
    later = [a - b for a, b in zip(f.together, f.at_once, strict=False)]
    if f.step < LEAST * after or not _lasting(later):
        return None
    return Finding(
        "serial_reduce",
        "slow",
        "Gradients are reduced one after the other",
        f"{len(f.buckets)} reductions a step for {f.tensors} gradients; a step takes "
        f"{f.step:.1f} ms, and {after:.1f} ms with all gradients in one piece after the backward "
        "pass, where nothing overlaps (measured)",
        Knob(
            "Let DistributedDataParallel send gradients in its own buckets (bucket_cap_mb=25), "
            "without a communication hook and without torch.nn.DataParallel",
            {},
        ),
        lost_ms=f.step - after,
        step_ms=f.step,
        gain=f.step / after,
        measured=True,
    )


def _lasting(differences: Sequence[float]) -> bool:
    """Whether a difference is there nearly always, and larger than the error of its median.

    A quota is granted by periods: steps beside one differ, and a few of them tell little.
    """
    usual = statistics.median(differences)
    spread = statistics.median(abs(one - usual) for one in differences)
    error = 1.86 * spread / math.sqrt(len(differences))  # of normal ones, from the median deviation
    there = sum(one > 0.3 * usual for one in differences)
    return usual > 3 * error and there >= 0.8 * len(differences)
