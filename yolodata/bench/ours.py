"""`yolodata.Loader` with its defaults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from yolodata.bench.rows import Row
from yolodata.bench.subjects import Subject, Task
from yolodata.telemetry import Reading

_PREFETCH = 4


class YolodataLoader(Subject):
    """A loader as a user would make it, with the batch size and the threads of the bench.

    Args:
        row: `threads` are the loader's native threads.
        task: `data` is a dataset directory of the row's codec.
    """

    def __init__(self, row: Row, task: Task) -> None:
        from yolodata.pipeline.config import AugmentConfig
        from yolodata.pipeline.loader import Loader
        from yolodata.pipeline.order import reuse_window
        from yolodata.shards import reader

        assert task.data is not None
        self._shards = reader.open(task.data)
        augment = AugmentConfig(imgsz=task.imgsz)
        self._loader = Loader(
            self._shards,
            task.batch,
            augment=augment,
            seed=task.seed,
            threads=row.threads,
            prefetch=_PREFETCH,
        )
        self.ahead = _PREFETCH
        # Decoded pictures are kept for a window, which fills during the beginning of an epoch.
        window = reuse_window(len(self._shards))
        pictures = window["streams"] * window["window"]
        self.warm_up = pictures if self._shards.meta.codec == "jpeg" else 4 * task.batch

    def batches(self) -> Iterator[dict[str, Any]]:
        """See `Subject`."""
        while True:
            yield from self._loader

    def read(self) -> Reading:
        """See `Subject`."""
        return self._loader.telemetry.read()

    def facts(self) -> dict[str, float]:
        """What a stored picture is like.

        Returns:
            dict of read_ms, milliseconds to touch its bytes once through the map, and stored_bytes.
        """
        shards = self._shards
        images = range(min(len(shards), 256))
        start = time.perf_counter()
        for i in images:
            int(shards.sample(i)[::64].max())
        seconds = time.perf_counter() - start
        stored = float(np.mean(shards.nbytes))
        return {"read_ms": 1e3 * seconds / len(images), "stored_bytes": stored}

    def close(self) -> None:
        """See `Subject`."""
        self._loader.close()
