"""Interruptions, and how often to write checkpoints: Young's and Daly's arithmetic.

Interruptions come at random, on average every `between` seconds. A checkpoint stops training for
`waits` seconds, and is on disk `write` seconds later, while training goes on. After an interruption
it takes `restart` seconds until training goes on, from the newest checkpoint on disk.

Note [a write in the background]. Let L = interval + waits be the time from one checkpoint on disk
to the next. The first attempt takes L unless it is interrupted. Each later attempt begins with a
restart and repeats the `write` seconds of work that were done while the checkpoint was written: it
takes L' = L + restart + write. With M = between, an attempt of length x that starts anew whenever
it is interrupted takes M (e^(x/M) - 1) on average. So a segment takes

    (1 - e^(-L/M)) M + (1 - e^(-L/M)) M (e^(L'/M) - 1)  =  M e^((restart + write)/M) (e^(L/M) - 1),

which is Daly's formula with restart + write in the place of restart.

Young: A first order approximation to the optimum checkpoint interval, CACM 17 (1974). Daly: A
higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22 (2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Pauses:
    """What checkpoints and restarts take, in seconds.

    Attributes:
        waits: training waits for a checkpoint.
        write: until a checkpoint is on disk, while training goes on.
        restart: from the start of the process until training goes on.
    """

    waits: float
    write: float
    restart: float


def young(waits: float, between: float) -> float:
    """Returns the best interval between checkpoints to first order, in seconds: sqrt(2 C M)."""
    return math.sqrt(2 * waits * between)


def daly(waits: float, between: float) -> float:
    """Returns the best interval between checkpoints, in seconds of training."""
    if waits >= 2 * between:
        return between
    ratio = waits / (2 * between)
    return young(waits, between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - waits


def slowdown(interval: float, pauses: Pauses, between: float) -> float:
    """Returns the expected time of training by the time without interruptions and checkpoints.

    Args:
        interval: seconds of training from one checkpoint to the next; above 0.
        pauses: see `Pauses`.
        between: seconds from one interruption to the next, on average; infinite where there are
            none.

    Returns:
        at least 1; infinite where no segment would ever be done.
    """
    segment = interval + pauses.waits
    if math.isinf(between):
        return segment / interval
    again = pauses.restart + pauses.write
    try:
        return between * math.exp(again / between) * math.expm1(segment / between) / interval
    except OverflowError:
        return math.inf
