"""Workers that convert images, and their outcomes in order.

On few cores, or for a small job, threads of this process do it. Pillow and label text hold the GIL
for a tenth of the time, which would bound a machine with many cores: there, processes do a large
job, and a decoder that crashes on one file costs that file alone.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import cv2

from yolodata.ingest import memory
from yolodata.ingest.convert import Outcome, PackSettings, prepare
from yolodata.ingest.sample import LabelRules, Split
from yolodata.ingest.worker import BANKS, Worker
from yolodata.machine import usable_cores
from yolodata.shards.chunks import Bytes, Chunk
from yolodata.shards.chunks import memory as chunk_memory

SMALL = 4000  # images up to which starting processes takes longer than they save
FEW = 4  # workers up to which threads are as fast: a process takes a tenth more processor time
ONCE = 3  # answers that are stored one after the other: code that runs seldom is not in the caches
AHEAD = 2 + ONCE  # answers of threads that may wait to be stored; memory that is new costs time


@dataclass(frozen=True)
class Job:
    """What every worker has to know."""

    split: Split
    rules: LabelRules
    settings: PackSettings


@dataclass(frozen=True)
class Results:
    """Outcomes of some images. chunk: where the samples lie as they will in a shard."""

    outcomes: list[Outcome]
    chunk: Chunk | None
    release: Callable[[], None]  # gives the memory of the samples back


class _Crew(Protocol):
    def work(self, images: range) -> Results: ...

    def close(self) -> None: ...


def in_order(job: Job, indices: range, workers: int | None = None) -> Iterator[Results]:
    """Outcomes in the order of `indices`, computed ahead by workers, within a bounded memory.

    workers: how many; by default one for each core this process may use. What the samples of
    results point to is valid until the next ones are asked for.
    """
    count = workers or len(usable_cores())
    crew: _Crew
    if len(indices) <= SMALL or count <= FEW or not Worker.possible():
        crew, ahead = _Threads(job), count + AHEAD
    else:
        crew, ahead = _Processes(job, count), count * BANKS
    pool = ThreadPoolExecutor(count, thread_name_prefix="yolodata-pack")
    flying: deque[Future[Results]] = deque()
    together = job.settings.together
    try:
        for begin in range(0, len(indices), together):
            flying.append(pool.submit(crew.work, indices[begin : begin + together]))
            if len(flying) >= ahead:
                yield from _stored(flying, ONCE)
        while flying:
            yield from _stored(flying, 1)
    finally:
        for future in flying:
            future.cancel()
        crew.close()
        pool.shutdown()


def _stored(flying: deque[Future[Results]], count: int) -> Iterator[Results]:
    """The next `count` results, once all of them are there."""
    wait([flying[k] for k in range(count)])
    for _ in range(count):
        results = flying.popleft().result()
        yield results
        results.release()


class _Threads:
    """Conversion in the calling thread, which is one of a pool."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._free: list[Bytes] = []
        self._threads, self._interval = cv2.getNumThreads(), sys.getswitchinterval()
        cv2.setNumThreads(1)  # one picture per core is faster than one picture on all cores
        sys.setswitchinterval(0.0005)  # the thread that stores must not wait for label text
        memory.keep()

    def work(self, images: range) -> Results:
        job = self._job
        if job.settings.codec != "raw":
            found = prepare(job.split, images, job.rules, job.settings)
            return Results(found, None, _nothing)
        bank = self._free.pop() if self._free else chunk_memory(job.settings.chunk_nbytes)
        chunk = Chunk(bank)
        found = prepare(job.split, images, job.rules, job.settings, chunk)
        return Results(found, chunk, lambda: self._free.append(bank))

    def close(self) -> None:
        cv2.setNumThreads(self._threads)
        sys.setswitchinterval(self._interval)
        memory.give_back()


def _nothing() -> None:
    pass


class _Processes:
    """Conversion in processes; a thread that calls waits for the answer of one of them."""

    def __init__(self, job: Job, count: int) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._job = job
        self._workers = [Worker(job.rules, job.settings) for _ in range(count)]

    def work(self, images: range) -> Results:
        worker, bank = self._take()
        try:
            outcomes, chunk = worker.ask(self._job.split.part(images), bank)
        finally:
            with self._changed:
                worker.busy = False
                self._changed.notify()
        return Results(outcomes, chunk, lambda: self._release(worker, bank))

    def _take(self) -> tuple[Worker, int]:
        """A worker that is idle and has a free bank.

        Any of them, not a fixed one: as many chunks are under way as there are banks, so the chunk
        that has to be stored next always finds one.
        """
        with self._changed:
            while True:
                if self._closed:
                    raise RuntimeError("packing was stopped")
                for worker in self._workers:
                    if not worker.busy and worker.free:
                        worker.busy = True
                        return worker, worker.free.pop()
                self._changed.wait()

    def _release(self, worker: Worker, bank: int) -> None:
        with self._changed:
            worker.free.append(bank)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.close()
