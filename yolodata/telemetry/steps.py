"""A row for every training step: where its time went, and what it needed."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from yolodata.telemetry.gauges import MIB, Gauges, Levels
from yolodata.telemetry.rows import Rows
from yolodata.telemetry.stages import Reading, Telemetry

if TYPE_CHECKING:
    import torch

FILE = "steps.csv"
COLUMNS = (
    "step", "epoch", "time", "images", "step_ms", "wait_ms", "images_s", "hit_share", "gpu_busy",
    "rss_mib", "private_mib", "device_mib",
)  # fmt: skip
"""docs/telemetry.md says what they mean."""


class StepRecorder:
    """Records the steps of one process.

        recorder.begin(epoch, step)    # the loop asks for the first batch of an epoch
        recorder.batch()               # it has one
        recorder.done()                # the step has ended; the next batch is asked for

    A step costs its thread some microseconds: gauges are read, and rows are written, by a thread of
    the recorder. Nothing is synced to disk; a killed process loses the last `every` seconds.

    Args:
        folder: of the run; `steps.csv` there is taken up if it exists.
        device: that the process trains on.
        counters: of the loader; without them waiting is the time between two steps, and `images`
            is what `batch` is told.
        rank: of the process; others than 0 write `steps.rankN.csv`.
        every: seconds between two readings of the gauges, and two writes.
        window: steps of the summary.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: torch.device,
        counters: Telemetry | None = None,
        rank: int = 0,
        every: float = 1.0,
        window: int = 50,
    ) -> None:
        name = FILE if rank == 0 else f"steps.rank{rank}.csv"
        self.path = Path(folder) / name
        self._rows = Rows(self.path, COLUMNS)
        self._counters = counters
        self._gauges = Gauges(device)
        self._levels = self._gauges.read()
        self._every = every
        self._lock = threading.Lock()  # of the file
        self._pending: deque[str] = deque()
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=window)
        self._summary, self._summary_at = "", 0.0
        self._epoch, self._step = 0, -1
        self._total = _Total()
        self._mark = self._got = time.perf_counter()
        self._told = 0
        self._read = Reading()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # The loop's side.

    def begin(self, epoch: int, step: int) -> None:
        """Begins an epoch, or resumes it, after so many steps of the run; drops later rows.

        Args:
            epoch: from 0.
            step: steps of the run that are done.
        """
        if step != self._step:
            with self._lock:
                self._write()
                self._rows.keep(step)
        self._epoch, self._step = epoch, step
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._watch, name="yolodata-telemetry", daemon=True
            )
            self._thread.start()
        self._read = self._counters.read() if self._counters else self._read
        self._mark = time.perf_counter()

    def batch(self, images: int = 0) -> None:
        """Notes that the batch of the step is there."""
        self._got = time.perf_counter()
        self._told = images

    def done(self) -> None:
        """Notes that the step has ended."""
        now = time.perf_counter()
        seconds, waited = now - self._mark, self._got - self._mark
        images, hits, decodes = self._told, 0, 0
        if self._counters is not None:
            read = self._counters.read()
            before, self._read = self._read, read
            counts, earlier = read.counts, before.counts
            images = counts.get("samples", 0) - earlier.get("samples", 0)
            hits = counts.get("hits", 0) - earlier.get("hits", 0)
            decodes = counts.get("decodes", 0) - earlier.get("decodes", 0)
            waited = read.seconds.get("wait", 0.0) - before.seconds.get("wait", 0.0)
        self._mark = now
        self._step += 1
        levels = self._levels
        used = hits + decodes
        share = f"{hits / used:.4f}" if used else ""
        busy = "" if levels.gpu_busy is None else f"{levels.gpu_busy:.2f}"
        device = "" if levels.device is None else f"{levels.device / MIB:.0f}"
        self._pending.append(
            f"{self._step},{self._epoch + 1},{time.time():.3f},{images},{1e3 * seconds:.3f},"
            f"{1e3 * waited:.3f},{images / seconds:.1f},{share},{busy},{levels.rss / MIB:.0f},"
            f"{levels.private / MIB:.0f},{device}\n"
        )
        self._recent.append((seconds, waited, images))
        self._total.add(seconds, waited, images, hits, decodes, levels)

    def summary(self) -> str:
        """Returns the last steps in a few words, for a log; made anew a few times a second."""
        now = time.perf_counter()
        if now - self._summary_at > 0.2 and self._recent:
            seconds, waited, images = map(sum, zip(*self._recent, strict=True))
            busy = self._levels.gpu_busy
            self._summary = f"{images / seconds:.0f} img/s, {waited / seconds:.0%} waiting"
            if busy is not None:
                self._summary += f", GPU {busy:.0%} busy"
            self._summary_at = now
        return self._summary

    def take(self) -> dict[str, float]:
        """Returns values of the steps since the last call, by name; empty without any."""
        total, self._total = self._total, _Total()
        return total.values()

    def flush(self) -> None:
        """Writes what is pending."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Writes the rest and ends the thread; `begin` starts anew."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()
        with self._lock:
            self._write()
            self._rows.close()

    # The thread's side.

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._levels = self._gauges.read()
            self.flush()

    def _write(self) -> None:
        # One by one: the loop may be adding another.
        rows = [self._pending.popleft() for _ in range(len(self._pending))]
        if rows:
            self._rows.append("".join(rows))


class _Total:
    """Sums over steps."""

    def __init__(self) -> None:
        self.steps = self.images = self.hits = self.decodes = 0
        self.seconds = self.waited = self.busy = 0.0
        self.busy_steps = 0
        self.rss = self.device = 0

    def add(
        self,
        seconds: float,
        waited: float,
        images: int,
        hits: int,
        decodes: int,
        levels: Levels,
    ) -> None:
        """Adds one more step."""
        self.steps += 1
        self.seconds += seconds
        self.waited += waited
        self.images += images
        self.hits += hits
        self.decodes += decodes
        self.rss = max(self.rss, levels.rss)
        self.device = max(self.device, levels.device or 0)
        if levels.gpu_busy is not None:
            self.busy += levels.gpu_busy
            self.busy_steps += 1

    def values(self) -> dict[str, float]:
        """Returns means and largest values; what does not exist here is left out."""
        if not self.steps:
            return {}
        found = {
            "telemetry/step_ms": 1e3 * self.seconds / self.steps,
            "telemetry/wait_share": self.waited / self.seconds,
            "telemetry/images_s": self.images / self.seconds,
            "telemetry/rss_mib": self.rss / MIB,
        }
        if self.hits + self.decodes:
            found["telemetry/hit_share"] = self.hits / (self.hits + self.decodes)
        if self.busy_steps:
            found["telemetry/gpu_busy"] = self.busy / self.busy_steps
        if self.device:
            found["telemetry/device_mib"] = self.device / MIB
        return found
