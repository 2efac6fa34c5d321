"""The catalogue and its values, as Prometheus reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

from yolodata.folders import Folder
from yolodata.telemetry.metrics import catalogue
from yolodata.telemetry.metrics.catalogue import METRICS, PREFIX, STEP_SECONDS


@dataclass(frozen=True)
class Labels:
    """What every series has: few values, none of which changes while a process runs.

    Attributes:
        run: the run folder's name, and its parent's.
        rank: number of the process in the run.
        host: name of its machine.
    """

    run: str
    rank: str
    host: str


def registry_of(labels: Labels, read: Callable[[], Mapping[str, float]]) -> CollectorRegistry:
    """Returns a registry of a rank's metrics alone: nothing of the process's others is in it.

    Args:
        labels: of all series.
        read: is called at every scrape; values by key (see `catalogue`).
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(labels, read))
    return registry


def write_text_file(path: Path, registry: CollectorRegistry) -> None:
    """Writes what a scrape would read; whoever reads the file sees all of it, or the one before.

    Raises:
        OSError: it cannot be written.
    """
    page = generate_latest(registry)
    # Its temporary name is no .prom: the textfile collector reads every such file in the folder.
    with Folder.at(path.parent) as folder:
        folder.replace(path.name, page, durable=False)


class _Collector:
    def __init__(self, labels: Labels, read: Callable[[], Mapping[str, float]]) -> None:
        self._names = [field.name for field in fields(labels)]
        self._values = list(astuple(labels))
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing: the registry asks for it once, without a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yields the families that have a value."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for key, value in self._read().items():
            name, *labels = key.split("/")
            found.setdefault(name, {})[tuple(labels)] = value
        for metric in METRICS:
            if metric.name in found:
                yield self._family(metric, found[metric.name])

    def _family(self, metric: catalogue.Metric, values: Mapping[tuple[str, ...], float]) -> Metric:
        name, labels = PREFIX + metric.name, [*self._names, *metric.labels]
        if metric.kind == "histogram":
            histogram = HistogramMetricFamily(name, metric.help, labels=labels, unit=metric.unit)
            histogram.add_metric(self._values, *_buckets(values))
            return histogram
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = kind(name, metric.help, labels=labels, unit=metric.unit)
        for own, value in sorted(values.items()):
            family.add_metric([*self._values, *own], value)
        return family


def _buckets(values: Mapping[tuple[str, ...], float]) -> tuple[list[tuple[str, float]], float]:
    """Returns counts up to each bucket's end, and the sum of all.

    Ends of another version fall into the bucket that they are in today.
    """
    ends = [*STEP_SECONDS, math.inf]
    counts = dict.fromkeys(ends, 0.0)
    for (end,), count in values.items():
        if end != "sum":
            counts[min(e for e in ends if e >= float(end))] += count
    shown = [f"{end:g}" for end in STEP_SECONDS] + ["+Inf"]
    cumulative = list(zip(shown, accumulate(counts.values()), strict=True))
    return cumulative, values.get(("sum",), 0.0)
