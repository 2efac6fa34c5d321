"""The experiments: the loader as it is, then with one thing changed at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from yolodata.cgroup import cpu_quota
from yolodata.doctor.data import sample
from yolodata.doctor.data.judgement import Measured
from yolodata.doctor.data.others import Others
from yolodata.doctor.data.pace import Feed, Pace, joined, of_loader, of_step
from yolodata.doctor.examination import Examination
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import Step
from yolodata.machine import allowed_cores, available_memory, ranks_here, usable_cores

_OWN = 0.06  # share of the seconds for the step alone
_COPY = 0.10
_WORTH_IT = 0.05  # of the seconds: with fewer, a loader is hardly open
_SHARES_MEMORY = 0.7  # of the memory that is free: a dataset below it stays in the page cache


@dataclass(frozen=True)
class Change:
    """What is other than it is.

    Attributes:
        name: "" is nothing.
        workers: processes or threads; None is as it is.
        cores: that the process runs on; None is as it is.
        cold: files are dropped from memory first.
    """

    name: str = ""
    workers: int | None = None
    cores: frozenset[int] | None = None
    cold: bool = False


class ExaminedLoader(Protocol):
    """A loader that experiments are made with.

    Attributes:
        workers: as it is.
        images: of the dataset.
        nbytes: mean bytes of an image.
        read_ms: milliseconds to read one from storage.
        looks: of the images; None where they are stored as pixels.
    """

    workers: int
    images: int
    nbytes: float
    read_ms: float
    looks: sample.Looks | None

    def opened(self, change: Change) -> AbstractContextManager[Feed]:
        """Opens the loader with something changed."""
        ...

    def changes(self) -> list[str]:
        """Names of the ways to store pictures that are worth a try."""
        ...


class Experiments:
    """Measures a loader, within the seconds of the section.

    Args:
        examination: gives the setup and the seconds.
        loader: the loader.
        step: that takes its batches.
        batch: one that is there.
    """

    def __init__(
        self, examination: Examination, loader: ExaminedLoader, step: Step, batch: Mapping[str, Any]
    ) -> None:
        self._others = Others()
        self._examination, self._loader, self._step = examination, loader, step
        self._setup: Setup = examination.setup
        self.not_done: list[str] = []
        seconds = _OWN * examination.left
        self._copied: Pace | None = None
        if step.device.type == "cuda":
            self._copied = of_step(step, pinned(batch), seconds)
            batch = on_device(batch, step.device)
        else:
            self.not_done.append("there is no GPU in use: nothing is copied to a device")
        self._own = of_step(step, batch, seconds)

    def run(self) -> Measured:
        """Runs all experiments that apply."""
        loader = self._loader
        cores, quota = usable_cores(), cpu_quota()
        measured = Measured(
            self._setup.examined_loader, self._own, copied=self._copied, read_ms=loader.read_ms,
            image_bytes=loader.nbytes, batch=self._setup.batch, imgsz=self._setup.imgsz,
            fits=loader.nbytes * loader.images < _SHARES_MEMORY * available_memory(),
            workers=loader.workers, cores=len(cores), quota=quota, looks=loader.looks,
        )  # fmt: skip
        planned = 6  # both as it is, two faults, decoded, ours
        cold = self._pace("as it is, files not in memory", Change(cold=True), planned)
        warm = self._pace("as it is, files in memory", Change(), planned - 1)
        measured = replace(measured, cold=cold, warm=warm)
        if measured.storage_is_slow:
            measured = replace(measured, base="cold")
        if measured.starves:
            measured = self._one_by_one(measured)
        else:
            self._headroom(measured)
        self._scaling(measured)
        return replace(measured, others=self._others.cores())

    def _one_by_one(self, measured: Measured) -> Measured:
        """Changes one thing at a time; the most likely first, for the seconds may end."""
        loader = self._loader
        cold = measured.base == "cold"
        usable = usable_cores()
        allowed = frozenset(allowed_cores())
        wide = allowed if len(allowed) > len(usable) else None
        changes: list[tuple[str, Change]] = []
        if wide is not None:
            changes.append((f"on all {len(wide)} cores", Change("cores", cores=wide, cold=cold)))
        share = max(1, int(min(len(usable), measured.quota or len(usable)) // ranks_here()))
        if self._may_have_workers and loader.workers < share:
            changes.append((f"{share} workers", Change("workers", workers=share, cold=cold)))
        changes += [(f"pictures: {name}", Change(name)) for name in loader.changes()]
        for number, (text, change) in enumerate(changes):
            if self._examination.left <= 0 and number >= 2:
                self.not_done.append(f"no time left to try: {text}; give more --seconds")
                continue
            pace = self._pace(text, change, len(changes) - number + (not cold))
            if pace is not None:
                measured.changed[change.name] = pace
        if not cold:
            measured = self._once_more(measured)
        return replace(measured, cores_tried=len(wide) if wide else 0, workers_tried=share)

    def _once_more(self, measured: Measured) -> Measured:
        """Measures the loader as it is again: all others are compared with it, and came later."""
        if measured.warm is None or self._examination.left < _WORTH_IT * self._setup.seconds:
            return measured
        pace = self._pace("as it is, once more", Change(), 2)
        return replace(measured, warm=joined(measured.warm, pace)) if pace else measured

    def _headroom(self, measured: Measured) -> None:
        """Nothing waits: what other loaders would leave."""
        for name in ("decoded", "yolodata", "raw"):
            if name in self._loader.changes() and self._examination.left > 1.0:
                pace = self._pace(f"pictures: {name}", Change(name), 2)
                if pace is not None:
                    measured.changed[name] = pace

    def _scaling(self, measured: Measured) -> None:
        """With the rest of the seconds: how the loader gets faster with its workers."""
        if not self._may_have_workers:
            return
        counts = [2**power for power in range(8) if 2**power <= measured.cores]
        if measured.cores not in counts:
            counts.append(measured.cores)
        for number, workers in enumerate(counts):
            if self._examination.left < 1.5:
                return
            name = f"workers_{workers}"
            pace = self._pace(name, Change(name, workers=workers), len(counts) - number)
            if pace is not None:
                measured.changed[name] = pace

    @property
    def _may_have_workers(self) -> bool:
        """Upstream takes none where the processor trains."""
        waits = self._setup.step_ms is not None
        return (
            waits or self._step.device.type == "cuda" or self._setup.examined_loader == "yolodata"
        )

    def _pace(self, text: str, change: Change, planned: int) -> Pace | None:
        self._examination.say(text)
        seconds = self._examination.left / max(planned, 1)
        try:
            with on_cores(change.cores), self._loader.opened(change) as feed:
                return of_loader(feed, self._step, self._own.own_ms, 0.85 * seconds)
        except OSError as error:  # no room for copies, no processes
            self.not_done.append(f"{text}: {error}")
            return None


def pinned(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch in page-locked memory, as loaders hand it out for a GPU."""
    return {
        name: value.pin_memory() if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch that lies on the device."""
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


@contextmanager
def on_cores(cores: frozenset[int] | None) -> Iterator[None]:
    """Runs this thread, and what it starts, on other cores for a while."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def parts_ms(measured: Measured) -> dict[str, float]:
    """The parts of a step, in milliseconds, which add up to it: what it would lose without each.

    Reading files costs no more than reads in turn; what files that were not in memory cost beyond
    that is called "other".
    """
    found = {"model": measured.own.own_ms}
    if measured.copied is not None:
        found["copy"] = measured.copy_ms
    now, warm = measured.now, measured.warm
    if now is None or warm is None:
        return found
    found["storage"] = measured.storage_ms if measured.base == "cold" else 0.0
    decoded = measured.changed.get("decoded") or measured.changed.get("raw")
    if decoded is None:
        found["loader"] = warm.step_ms - measured.own.own_ms - measured.copy_ms
    else:
        found["decode"] = warm.step_ms - decoded.step_ms
        found["augment"] = decoded.step_ms - measured.own.own_ms - measured.copy_ms
    parts, left = {}, now.step_ms
    for name, ms in found.items():  # each was measured for itself, with an error
        parts[name] = min(max(0.0, ms), left)
        left -= parts[name]
    return {**parts, "other": left} if left > 1e-9 else parts
