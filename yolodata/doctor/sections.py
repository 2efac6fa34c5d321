"""Runs the sections of an examination one after the other, each in its share of the seconds.

No section imports this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from yolodata.doctor.examination import Examination
from yolodata.doctor.setup import Setup

# Section -> (module with `examine(examination) -> Outcome`, share of the seconds). A section sees
# the outcomes of those before it.
SECTIONS: dict[str, tuple[str, float]] = {
    "machine": ("yolodata.doctor.machine", 0.05),
    "data": ("yolodata.doctor.data", 0.60),
    "ranks": ("yolodata.doctor.ranks", 0.10),
    "memory": ("yolodata.doctor.memory", 0.15),
    "convergence": ("yolodata.doctor.convergence", 0.10),
}


def examine(
    setup: Setup,
    sections: Sequence[str] = tuple(SECTIONS),
    *,
    probes: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Examination:
    """Examines; the seconds of sections that are left out go to the others.

    Args:
        setup: what is examined.
        sections: of `SECTIONS`, in its order.
        probes: see `Examination`.
        say: is told what is measured, behind the name of the section.

    Raises:
        ConfigError: the data, the model or an argument cannot be used.
    """
    examination = Examination(setup, probes or {})
    total = sum(SECTIONS[name][1] for name in sections)
    for name in sections:
        module, share = SECTIONS[name]
        examination.say = partial(_say, say, name)
        examination.deadline = time.monotonic() + setup.seconds * share / total
        examination.outcomes[name] = import_module(module).examine(examination)
    return examination


def _say(say: Callable[[str], None], section: str, text: str) -> None:
    say(f"{section}: {text}")
