"""Steps of a run, as the setting `profile` names them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from yolodata.errors import ConfigError

MOST = 100
"""Steps of a trace: each is a few megabytes, and Perfetto has to load them."""


class StepRange(NamedTuple):
    """Steps of a run, from 1 as in steps.csv, both included."""

    first: int
    last: int


def profile_range(given: Any) -> StepRange | None:
    """Returns the steps that the setting `profile` names; None for none.

    Raises:
        ConfigError: it is no range of steps.
    """
    if given is None:
        return None
    found = re.fullmatch(r"([0-9]{1,12})(?:-([0-9]{1,12}))?", str(given))
    if found is not None and not isinstance(given, bool):
        steps = StepRange(int(found[1]), int(found[2] or found[1]))
        if 1 <= steps.first <= steps.last < steps.first + MOST:
            return steps
    raise ConfigError(
        f"yolodata.profile must be steps as FIRST-LAST (100-105, say), counted from 1 as in "
        f"steps.csv, at most {MOST} of them, got {given!r}"
    )
