"""How much memory a training process may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yolodata import cgroup
from yolodata.doctor.memory.process import anonymous_bytes
from yolodata.machine import available_memory, ranks_here


@dataclass(frozen=True)
class Limit:
    """Memory that this process may have, with what it has already.

    Attributes:
        bytes: how much.
        what: which limit it is, in words.
        fake: it was given in place of the real one.
    """

    bytes: int
    what: str
    fake: bool = False


def host_limit(probes: Mapping[str, Any]) -> Limit:
    """Returns the smaller one of the control group's limit and of what the machine has available.

    Ranks on this machine share what is left.

    Args:
        probes: "memory_limit_bytes" replaces the control group's limit.

    Raises:
        OSError: this system does not say what the process has.
    """
    own = anonymous_bytes()
    here = available_memory() // ranks_here() + own
    if "memory_limit_bytes" in probes:
        given = int(probes["memory_limit_bytes"]) // ranks_here()
        if given < here:
            return Limit(given, "the control group allows", fake=True)
    if (free := cgroup.memory_free()) is not None and free // ranks_here() + own <= here:
        return Limit(here, "the control group allows")
    return Limit(here, "the machine has available")
