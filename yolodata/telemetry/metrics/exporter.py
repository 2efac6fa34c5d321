"""The metrics of one rank: what feeds them, and how they are delivered."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.files import resolved
from yolodata.folders import Folder
from yolodata.telemetry.metrics import levels
from yolodata.telemetry.metrics.catalogue import PACKAGES, bucket_of, key
from yolodata.telemetry.metrics.destination import LOCALHOST, Address, TextFile
from yolodata.telemetry.metrics.gpu import GpuLevels
from yolodata.telemetry.metrics.totals import Totals, warn_of_new_counters
from yolodata.telemetry.step_row import StepRow, read_steps
from yolodata.telemetry.steps import file_of
from yolodata.version import __version__

if TYPE_CHECKING:
    import torch

    from yolodata.telemetry.stages import Telemetry

log = logging.getLogger("yolodata")

FOLDER = "metrics"
"""In the run folder: `totals.rankN.json`, and `target.rankN.json` of a rank on a free port."""

_STARTED = ("steps", "images", "wait_seconds", "decode_images", "decode_seconds", "cache_hits",
            "unreadable_images", "skipped_steps", "checkpoints", "checkpoint_write_seconds",
            "step_seconds/sum")  # fmt: skip
"""Counters that are there from the beginning, so that their first events are seen to rise."""

_COUNTED = {"decodes": "decode_images", "hits": "cache_hits", "unreadable": "unreadable_images"}
"""The loader's counters, and what they are here."""


class Exporter:
    """Metrics of one rank, served by HTTP or written to a file.

        exporter = Exporter(folder, device=device)
        if exporter.start(read_destination("auto")):
            StepRecorder(..., listeners=[exporter.add_step])
        exporter.close()

    Nothing that goes wrong ends training: it is one warning. The thread that trains only sets
    values; all else is read, counted and written by the thread that is asked for metrics.

    Args:
        folder: of the run; its name is the label `run`.
        device: that the process trains on.
        rank: of the process.
        local_rank: on its machine; the first one tells about the machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        rank: int = 0,
        local_rank: int = 0,
    ) -> None:
        folder = resolved(folder)
        self._folder, self._rank, self._local_rank = folder, rank, local_rank
        self._run, self._host = f"{folder.parent.name}/{folder.name}", socket.gethostname()
        self._gpu = GpuLevels(device)
        self._counters: Telemetry | None = None
        self._lock = threading.Lock()
        steps = folder / file_of(rank)
        self._totals = _resumed(folder / FOLDER / f"totals.rank{rank}.json", steps)
        self._gauges: dict[str, float] = {"start_timestamp_seconds": time.time()}
        self._gauges[key("build_info", *map(_version, PACKAGES), self._gpu.source)] = 1.0
        self._close: list[Callable[[], object]] = []
        if local_rank == 0:
            self._totals.follow(levels.network_received(), from_zero=False)

    # What feeds it.

    def add_step(self, row: StepRow) -> None:
        """Counts a step."""
        self._totals.add(_of_step(row))
        self.set({"step": row.step, "last_step_timestamp_seconds": row.time})

    def set(self, gauges: Mapping[str, float]) -> None:
        """Sets gauges, by key (see `catalogue`)."""
        with self._lock:
            self._gauges.update(gauges)

    def count(self, amounts: Mapping[str, float]) -> None:
        """Adds to counters, by key."""
        self._totals.add(amounts)

    def follow(self, counters: Telemetry | None) -> None:
        """Has the counters of a loader taken over from now on."""
        self._counters = counters

    def checkpoint(self, path: Path, seconds: float | None = None) -> None:
        """Notes a checkpoint.

        Args:
            path: of its file.
            seconds: that writing it took; None: it was there before.
        """
        with contextlib.suppress(OSError):  # replaced by a newer one meanwhile
            file = path.stat()
            self.set({"checkpoint_timestamp_seconds": file.st_mtime,
                      "checkpoint_size_bytes": file.st_size})  # fmt: skip
        if seconds is not None:
            self._totals.add({"checkpoints": 1, "checkpoint_write_seconds": seconds})

    def read(self) -> dict[str, float]:
        """Returns all values by key; counters are on disk before they are shown."""
        counters = self._counters
        if counters is not None:
            reading = counters.read()
            followed = {_COUNTED[n]: float(v) for n, v in reading.counts.items() if n in _COUNTED}
            if "decode" in reading.seconds:
                followed["decode_seconds"] = reading.seconds["decode"]
            self._totals.follow(followed)
        self._totals.follow(levels.disk_read())
        with self._lock:
            values = dict(self._gauges)
        values.update(levels.of_process())
        values.update(self._gpu.read())
        if self._local_rank == 0:
            self._totals.follow(levels.network_received(), from_zero=False)
            values.update(levels.of_machine(self._folder))
        values.update(self._totals.save())
        return values

    # How it is delivered.

    def start(self, destination: Address | TextFile, every: float = 15.0) -> str:
        """Begins to deliver.

        Args:
            destination: where to.
            every: seconds between two files.

        Returns:
            where metrics are to be had; "" if they cannot be delivered, which was said.
        """
        try:
            if isinstance(destination, TextFile):
                said = self._write_files(destination.of_rank(self._rank), every)
            else:
                said = self._serve(destination.of_rank(self._local_rank))
        except ImportError:
            log.warning(
                "metrics: the package prometheus-client is not installed, so there are none; "
                "pip install prometheus-client"
            )
            return ""
        except (OSError, OverflowError, UnicodeError) as error:  # of a host that can be none
            log.warning(
                "metrics: rank %d cannot deliver them to %s (%s), so it has none; training goes "
                "on. Give another yolodata.metrics=: a port that is free, auto, or a file that "
                "can be written", self._rank, _wanted(destination, self._rank, self._local_rank),
                error,
            )  # fmt: skip
            return ""
        atexit.register(self.close)
        return f"{said}; GPU: {self._gpu.source}" if self._gpu.source != "none" else said

    def close(self) -> None:
        """Keeps the totals, and ends delivery; nothing is left that would look like a live run."""
        atexit.unregister(self.close)
        self._totals.save()
        for close in self._close:
            with contextlib.suppress(OSError):
                close()
        self._close.clear()

    def _registry(self) -> Any:
        from yolodata.telemetry.metrics.exposition import Labels, registry_of

        return registry_of(Labels(self._run, str(self._rank), self._host), self.read)

    def _serve(self, address: Address) -> str:
        from yolodata.telemetry.metrics.server import serve

        server = serve(address.host, address.port, self._registry())
        served = Address(address.host, server.server_port)
        self._close.append(server.close)
        if not address.port:  # a configuration names the others already
            self._say_where(served)
        said = f"http://{served}/metrics"
        if address.host in (LOCALHOST, "localhost", "::1"):
            said += " for this machine alone (yolodata.metrics=0.0.0.0:PORT serves others)"
        return said

    def _say_where(self, served: Address) -> None:
        """Writes a target for Prometheus' file-based service discovery."""
        path = self._folder / FOLDER / f"target.rank{self._rank}.json"
        reached = served
        if served.host in ("0.0.0.0", "::"):
            reached = Address(self._host, served.port)
        # With the port, which may be another one next time, a resumed run would be new series.
        instance = f"{self._run}:{self._rank}"
        target = [{"targets": [str(reached)], "labels": {"instance": instance}}]
        try:
            with Folder.inside(path.parent, create=True) as folder:
                folder.replace(path.name, (json.dumps(target) + "\n").encode(), durable=False)
        except OSError as error:
            log.warning("metrics: %s cannot be written: %s", path, error)
            return

        def remove() -> None:
            with Folder.inside(path.parent) as folder:
                folder.remove(path.name)

        self._close.append(remove)

    def _write_files(self, path: Path, every: float) -> str:
        from yolodata.telemetry.metrics.exposition import write_text_file

        registry = self._registry()
        write_text_file(path, registry)
        ended = threading.Event()

        def write() -> None:
            said = False
            while not ended.wait(every):
                try:
                    write_text_file(path, registry)
                except OSError as error:  # the disk is full, say: it may have room later
                    if not said:
                        log.warning("metrics: %s cannot be written: %s", path, error)
                    said = True

        thread = threading.Thread(target=write, name="yolodata-metrics", daemon=True)
        thread.start()

        def stop() -> None:
            ended.set()
            thread.join()
            with Folder.at(path.parent) as folder:
                folder.remove(path.name)

        self._close.append(stop)
        return f"{path}, every {every:g} s"


def _version(package: str) -> str:
    if package == "yolodata":  # pip's metadata of an editable installation may be older
        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # not installed, or a bare checkout
        return ""


def _of_step(row: StepRow) -> dict[str, float]:
    seconds = row.step_ms / 1e3
    amounts = {
        "steps": 1.0,
        "images": float(row.images),
        "wait_seconds": row.wait_ms / 1e3,
        "step_seconds/sum": seconds,
        bucket_of(seconds): 1.0,
    }
    if row.device_wait_ms is not None:
        amounts["device_wait_seconds"] = row.device_wait_ms / 1e3
    for name in _PARTS:
        spent = getattr(row, name)
        if spent is not None:
            amounts[key("step_part_seconds", name.removesuffix("_ms"))] = spent / 1e3
    return amounts


_PARTS = tuple(
    name for name in StepRow.__dataclass_fields__
    if name.endswith("_ms") and name not in ("step_ms", "wait_ms", "device_wait_ms")
)  # fmt: skip
"""Columns that say what a step's time went to; the two waits are sums of some of them."""


def _resumed(path: Path, steps: Path) -> Totals:
    """Returns the totals of a run; without a file of its own, those that steps.csv adds up to."""
    totals = Totals(path)
    totals.add(dict.fromkeys(_STARTED, 0.0))
    if not totals.found and steps.is_file():
        try:
            for row in read_steps(steps):
                totals.add(_of_step(row))
        except OSError as error:
            warn_of_new_counters(steps, error)
    return totals


def _wanted(destination: Address | TextFile, rank: int, local_rank: int) -> object:
    if isinstance(destination, TextFile):
        return destination.of_rank(rank)
    return destination.of_rank(local_rank)
