"""The ceiling: pictures that only have to be copied into a batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.bench.rows import Row
from yolodata.bench.subject import Subject, Task

Bytes = npt.NDArray[np.uint8]
_SOURCE_BYTES = 256 << 20  # more than a processor caches
_BATCHES = 6  # as many as a loader that prefetches 4 has in use


class Copying(Subject):
    """Copies pictures of the output's size from random places of a large pool into batches.

    Any loader that keeps decoded pictures in memory has to read and to write this much; how fast
    that goes is the memory's speed as one core (or as many as the row has) can use it.
    """

    def __init__(self, row: Row, task: Task) -> None:
        nbytes = 3 * task.imgsz * task.imgsz
        self.warm_up = 4 * task.batch
        self._rng = np.random.default_rng(task.seed)
        self._pool = np.ones((max(2, min(2048, _SOURCE_BYTES // nbytes)), nbytes), np.uint8)
        shape = (task.batch, 3, task.imgsz, task.imgsz)
        self._out = [np.ones(shape, np.uint8) for _ in range(_BATCHES)]
        self._workers = row.threads
        self._threads = ThreadPoolExecutor(row.threads) if row.threads > 1 else None

    def batches(self) -> Iterator[dict[str, Any]]:
        """See `Subject`."""
        turn = 0
        while True:
            out = self._out[turn % len(self._out)]
            turn += 1
            images = self._rng.integers(len(self._pool), size=len(out))
            if self._threads is None:
                self._copy(out, images, 0, 1)
            else:
                step = self._workers
                jobs = [self._threads.submit(self._copy, out, images, i, step) for i in range(step)]
                for job in jobs:
                    job.result()
            yield {"img": out}

    def _copy(self, out: Bytes, images: npt.NDArray[np.int64], first: int, step: int) -> None:
        rows = out.reshape(len(out), -1)
        for i in range(first, len(out), step):
            np.copyto(rows[i], self._pool[images[i]])

    def close(self) -> None:
        """See `Subject`."""
        if self._threads:
            self._threads.shutdown()
