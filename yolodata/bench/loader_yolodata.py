"""`yolodata.Loader` with its defaults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from yolodata.bench.gpu import Pace
from yolodata.bench.rows import Row
from yolodata.bench.source_bytes import mean_source_bytes
from yolodata.bench.subject import Subject, Task
from yolodata.errors import ConfigError
from yolodata.telemetry import Reading

_PREFETCH = 4


class YolodataLoader(Subject):
    """A loader as a user would make it, with the batch size and the threads of the bench.

    Args:
        row: `threads` are the loader's native threads; on a GPU, `cache` and `output` are its.
            With `albumentations`, it applies Ultralytics' default transforms.
        task: `data` is a dataset directory of the row's codec; `device` is the loader's.

    Raises:
        ConfigError: the loader fell back to another cache, so that this would be another row.
    """

    def __init__(self, row: Row, task: Task) -> None:
        import torch

        from yolodata.pipeline.config import AugmentConfig
        from yolodata.pipeline.loader import Loader
        from yolodata.pipeline.order import reuse_window
        from yolodata.shards import reader

        assert task.data is not None
        self._shards = reader.open(task.data)
        augment = AugmentConfig.from_ultralytics({**task.augment, "imgsz": task.imgsz})
        self._imgsz, self._augment = task.imgsz, augment
        self._loader = Loader(
            self._shards,
            task.batch,
            augment=augment,
            task=task.task,
            seed=task.seed,
            threads=row.threads,
            prefetch=_PREFETCH,
            transforms=_transforms() if row.albumentations else None,
            **_where(row, task),
        )
        self._pace = Pace(torch.device(task.device))
        self._row = row
        self.ahead = _PREFETCH
        # Decoded pictures are kept for a window, which fills during the beginning of an epoch.
        window = reuse_window(len(self._shards))
        pictures = window["streams"] * window["window"]
        self.warm_up = pictures if self._shards.meta.codec == "jpeg" else 4 * task.batch

    def batches(self) -> Iterator[dict[str, Any]]:
        """See `Subject`."""
        while True:
            for batch in self._loader:
                self._pace.keep()
                self._check_cache()
                yield batch

    def finish(self) -> None:
        """See `Subject`."""
        self._pace.finish()

    def _check_cache(self) -> None:
        cache = getattr(self._loader, "cache", self._row.cache)
        if self._row.device != "cpu" and cache != self._row.cache:
            raise ConfigError(
                f"cache={self._row.cache} was asked for, the loader uses {cache}: "
                f"{self._loader.preflight}"
            )

    def read(self) -> Reading:
        """See `Subject`."""
        return self._loader.telemetry.read()

    def facts(self) -> dict[str, float]:
        """What a stored picture is like.

        Returns:
            dict of read_ms, milliseconds to touch its bytes once through the map; stored_bytes;
            for rows on a GPU bytes_each, what has to cross to the device for a picture, and
            hw_decoder_load, the share that its JPEG engine decodes (above 0 the stream does not
            repeat itself to the bit).
        """
        shards = self._shards
        images = range(min(len(shards), 256))
        start = time.perf_counter()
        for i in images:
            int(shards.sample(i)[::64].max())
        seconds = time.perf_counter() - start
        stored = float(np.mean(shards.nbytes))
        found = {"read_ms": 1e3 * seconds / len(images), "stored_bytes": stored}
        share = self._loader.hw_decoder_load
        if share is not None:
            found["hw_decoder_load"] = share
        if self._row.ceiling == "gpu-copy-host":
            found["bytes_each"] = self._bytes_each()
        return found

    def _bytes_each(self) -> float:
        """Rendered pictures are uploaded as bytes; else the kernel reads the sources' bytes."""
        if self._row.cache == "none":
            return 3.0 * self._imgsz * self._imgsz
        return mean_source_bytes(self._shards, self._augment, seed=self._loader.seed)

    def close(self) -> None:
        """See `Subject`."""
        self._loader.close()


def _transforms() -> Any:
    from yolodata.ultralytics.limits import upstream_transforms

    return upstream_transforms(None)


def _where(row: Row, task: Task) -> dict[str, Any]:
    """Arguments of a loader that delivers on a device; on the CPU there are none."""
    if task.device == "cpu":
        return {}
    return {
        "device": task.device,
        "cache": row.cache,
        "hw_decoder_load": task.hw_decoder_load,
        "output": row.output,
    }
