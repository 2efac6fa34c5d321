"""What a fault is: how severe it is, how it is injected, and what mending it really brings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Truth:
    """Milliseconds of a step, measured without any code of the doctor, once or more.

    Attributes:
        before: with the fault.
        after: with it mended.
    """

    before: Sequence[float]
    after: Sequence[float]


@dataclass(frozen=True)
class Case:
    """A machine and a dataset with a fault, while it is injected.

    Attributes:
        arguments: what `yolodata doctor` is called with; seconds, seed and json are added.
        prefix: words before the command (`taskset -c 0`, `ip netns exec NAME`, ...).
        environment: variables to set.
        probes: replaced probes of the hardware, by name, in plain JSON values; the report must then
            say "fake".
        truth: measures what mending brings; None where the finding is not about time.
        truths: as `truth`, by cause, where several faults are injected (the one whose mending
            brings most has to come first) or where the knob's settings, its argument, decide.
        broken: of a finding that is not about time: tries what its knob's settings promise, without
            any code of the doctor; returns what is wrong with it, "" if nothing is.
        facts: what was made of the severity, in plain JSON values, for the record.
    """

    arguments: Sequence[str]
    prefix: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, Any] = field(default_factory=dict)
    truth: Callable[[], Truth] | None = None
    truths: Callable[[Mapping[str, Any]], Mapping[str, Truth]] | None = None
    broken: Callable[[Mapping[str, Any]], str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Fault(Protocol):
    """One kind of fault.

    Attributes:
        name: of the fault, one of its kind in all files.
        cause: the `Finding.cause` that has to come first; "" where no complaint may come, "*" where
            `Case.truths` tells.
        sections: of the doctor that run.
        seconds: that the doctor is given.
    """

    name: str
    cause: str
    sections: tuple[str, ...]
    seconds: float

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws a severity, in plain JSON values."""
        ...

    def inject(self, severity: Mapping[str, Any], folder: Path) -> AbstractContextManager[Case]:
        """Injects the fault while the context lasts; writes only into the folder.

        No name, path or variable that this sets may tell the doctor what was done.
        """
        ...
