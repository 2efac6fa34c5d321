"""How long a step usually takes: of steps that differ, the mean; without what happened once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def trimmed_mean(times: Sequence[float]) -> float:
    """The mean without the shortest and the longest tenth of all, of three at least one each.

    Beside a quota, a step takes one period or two. The median is that of the more frequent kind,
    and no training takes as long on average. A disturbance makes a few steps much longer.

    Raises:
        statistics.StatisticsError: there are none.
    """
    cut = max(len(times) // 10, int(len(times) > 2))
    return statistics.mean(sorted(times)[cut : len(times) - cut])
