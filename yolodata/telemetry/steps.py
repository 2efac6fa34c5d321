"""A row for every training step: where its time went, and what it needed."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolodata.telemetry.attribution import attribute, launch_ms
from yolodata.telemetry.gauges import MIB, Gauges, Levels
from yolodata.telemetry.rows import Rows
from yolodata.telemetry.stages import Reading, Telemetry
from yolodata.telemetry.step_row import COLUMNS, StepRow

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

FILE = "steps.csv"

Listener = Callable[[StepRow], None]
"""Is told of each finished row."""


@dataclass(slots=True)
class _Step:
    """A step that has ended: its row so far, and the loader's seconds before and after it."""

    row: StepRow
    before: Mapping[str, float]
    after: Mapping[str, float]


class StepRecorder:
    """Records the steps of one process.

        recorder.begin(epoch, step)    # the loop asks for the first batch of an epoch
        recorder.batch()               # it has one
        recorder.done()                # the step has ended; the next batch is asked for

    A step costs its thread some microseconds: gauges are read, and rows are made and written, by a
    thread of the recorder. Nothing is synced to disk; a killed process loses the last `every`
    seconds.

    Args:
        folder: of the run; `steps.csv` there is taken up if it exists.
        device: that the process trains on.
        counters: of the loader; without them waiting is the time between two steps, and `images`
            is what `batch` is told.
        rank: of the process; others than 0 write `steps.rankN.csv`.
        every: seconds between two readings of the gauges, and two writes.
        window: steps of the summary.
        listeners: are told of each row when it is written, by the recorder's thread. One that
            raises is told no more, which is said once.

    Attributes:
        hold: rows that wait for what `late` will say of them.
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
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.path = Path(folder) / file_of(rank)
        self.hold = 0
        self._rows = Rows(self.path, COLUMNS)
        self._counters = counters
        self._gauges = Gauges(device)
        self._levels = self._gauges.read()
        self._every = every
        self._lock = threading.Lock()  # of the file
        self._pending: deque[_Step] = deque()
        self._late: dict[int, tuple[float, float]] = {}
        self._complete = -1  # the last step of which nothing more will be said
        self._listeners = list(listeners)
        self._untold: deque[StepRow] = deque()
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=window)
        self._summary, self._summary_at = "", 0.0
        self._epoch, self._step = 0, -1
        self._total = _Total()
        self._began = self._got = time.perf_counter()
        self._told = 0
        self._read = Reading()
        self._part, self._since = "", self._began
        self._parts: dict[str, float] = {}
        self._between: tuple[float, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # The loop's side.

    def begin(self, epoch: int, step: int) -> None:
        """Begins an epoch, or resumes it, after so many steps of the run; drops later rows.

        Args:
            epoch: from 0.
            step: steps of the run that are done.
        """
        self.complete()
        if step != self._step:
            with self._lock:
                self._write()
                self._rows.keep(step)
            self._complete = step
        self._epoch, self._step = epoch, step
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._watch, name="yolodata-telemetry", daemon=True
            )
            self._thread.start()
        self._read = self._counters.read() if self._counters else self._read
        self._began = self._since = time.perf_counter()
        self._parts = dict.fromkeys(self._parts, 0.0)

    def between(self, validating: float, saving: float) -> None:
        """Notes how the time since the last step was spent, in seconds; before `begin`."""
        self._between = validating, saving

    def batch(self, images: int = 0) -> None:
        """Notes that the batch of the step is there."""
        self._got = time.perf_counter()
        self._told = images

    def enter(self, part: str) -> str:
        """Notes what the loop does from here on; returns what it did so far, to go back to.

        Args:
            part: "callbacks", "save" (a checkpoint), or "" for the step itself.
        """
        now = time.perf_counter()
        before, parts = self._part, self._parts
        parts[before] = parts.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before

    def done(self) -> None:
        """Notes that the step has ended."""
        self.enter(self._part)
        now = self._since
        parts, self._parts = self._parts, dict.fromkeys(self._parts, 0.0)
        seconds, waited = now - self._began, self._got - self._began
        images, hits, decodes = self._told, 0, 0
        before = self._read
        if self._counters is not None:
            self._read = read = self._counters.read()
            counts, earlier = read.counts, before.counts
            images = counts.get("samples", 0) - earlier.get("samples", 0)
            hits = counts.get("hits", 0) - earlier.get("hits", 0)
            decodes = counts.get("decodes", 0) - earlier.get("decodes", 0)
            waited = read.seconds.get("wait", 0.0) - before.seconds.get("wait", 0.0)
        self._began = now
        self._step += 1
        levels = self._levels
        used = hits + decodes
        row = StepRow(
            self._step,
            self._epoch + 1,
            time.time(),
            images,
            1e3 * seconds,
            1e3 * waited,
            images / seconds,
            hits / used if used else None,
            levels.gpu_busy,
            levels.rss / MIB,
            levels.private / MIB,
            None if levels.device is None else levels.device / MIB,
            None if levels.read is None else levels.read / MIB,
        )
        if "callbacks" in parts:
            row.callbacks_ms = 1e3 * parts["callbacks"]
        if self._between is not None:
            validating, saving = self._between
            row.validate_ms = 1e3 * validating
            row.save_ms = 1e3 * (saving + parts.get("save", 0.0))
            self._between = 0.0, 0.0
        self._pending.append(_Step(row, before.seconds, self._read.seconds))
        self._recent.append((seconds, waited, images))
        self._total.add(seconds, waited, images, hits, decodes, levels)

    def late(self, step: int, all_reduce: float, straggler: float) -> None:
        """Says of a step that has ended how long it waited for other ranks.

        Args:
            step: steps of the run that were done after it; the last one's by now, or one of the
                `hold` before it.
            all_reduce: seconds for sums over ranks, beyond what is computed meanwhile.
            straggler: seconds for a rank that was later than this one.
        """
        self._late[step] = all_reduce, straggler

    def complete(self) -> None:
        """Notes that of the steps so far nothing more will be said."""
        self._complete = self._step

    @property
    def step(self) -> int:
        """Steps of the run that are done."""
        return self._step

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
        self.complete()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            thread.join()
        with self._lock:
            self._write()
            self._rows.close()

    # The thread's side.

    def _watch(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._every)
            self._levels = self._gauges.read()
            self.flush()
            self._tell()

    def _write(self) -> None:
        rows = []
        # One by one: the loop may be adding another.
        for _ in range(len(self._pending)):
            step = self._pending[0]
            if step.row.step > max(self._complete, self._step - self.hold):
                break
            rows.append(self._finished(self._pending.popleft()))
        if rows:
            self._rows.append("".join([row.line() for row in rows]))
            if self._listeners:
                self._untold.extend(rows)

    def _finished(self, step: _Step) -> StepRow:
        row, before = step.row, step.before
        if self._counters is not None:
            attribute(row, {name: s - before.get(name, 0.0) for name, s in step.after.items()})
        late = self._late.pop(row.step, None)
        if late is not None:
            row.all_reduce_ms, row.straggler_ms = 1e3 * late[0], 1e3 * late[1]
        row.launch_ms = launch_ms(row)
        return row

    def _tell(self) -> None:
        for _ in range(len(self._untold)):
            row = self._untold.popleft()
            for listener in tuple(self._listeners):
                try:
                    listener(row)
                except Exception as error:  # it is no reason to end training
                    self._listeners.remove(listener)
                    log.warning("a listener of %s failed, and is told no more: %r", FILE, error)


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


def file_of(rank: int) -> str:
    """Returns the name of the file of a rank."""
    return FILE if rank == 0 else f"steps.rank{rank}.csv"
