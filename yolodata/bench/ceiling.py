"""The ceiling: pictures that only have to be copied into a batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from yolodata.bench.rows import Row
from yolodata.bench.subjects import Subject, Task

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
        self._threads = ThreadPoolExecutor(row.threads) if row.threads > 1 else None

    def batches(self) -> Iterator[dict[str, Any]]:
        """See `Subject`."""
        turn = 0
        while True:
            out = self._out[turn % len(self._out)]
            turn += 1
            rows = out.reshape(len(out), -1)
            images = self._rng.integers(len(self._pool), size=len(out))

            def copy(
                i: int, rows: np.ndarray[Any, Any] = rows, images: np.ndarray[Any, Any] = images
            ) -> None:
                np.copyto(rows[i], self._pool[images[i]])

            list((self._threads.map if self._threads else map)(copy, range(len(out))))
            yield {"img": out}

    def close(self) -> None:
        """See `Subject`."""
        if self._threads:
            self._threads.shutdown()
