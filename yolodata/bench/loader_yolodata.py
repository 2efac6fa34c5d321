"""`yolodata.Loader` with its defaults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import torch

from yolodata.bench.burst import Pace
from yolodata.bench.kernel import mean_source_bytes
from yolodata.bench.subject import Batch, Row, Subject, Task, whole_batches
from yolodata.errors import ConfigError
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader
from yolodata.pipeline.options import DeviceOptions, LabelOptions, ReadOptions
from yolodata.pipeline.schedule import reuse_window
from yolodata.shards import ShardDataset, reader

_PREFETCH = 4


def open_loader(row: Row, task: Task) -> Subject:
    """A loader as a user would make it, with the batch size and the threads of the bench.

    Args:
        row: `threads` are the loader's native threads; on a GPU, `cache` and `output` are its.
            With `albumentations`, it applies Ultralytics' default transforms.
        task: `data` is a dataset directory of the row's codec; `device` is the loader's.

    Returns:
        A subject with the facts read_ms, milliseconds to touch the bytes of a stored picture once
        through the map; stored_bytes; for rows on a GPU bytes_each, what has to cross to the device
        for a picture, and hw_decoder_load, the share that its JPEG engine decodes (above 0 the
        stream does not repeat itself to the bit).

    Raises:
        ConfigError: the loader fell back to another cache, so that this would be another row.
    """
    assert task.data is not None
    shards = reader.open(task.data)
    augment = AugmentConfig.from_ultralytics({**task.augment, "imgsz": task.imgsz})
    device = DeviceOptions()
    if task.device != "cpu":
        device = DeviceOptions(task.device, row.cache, task.hw_decoder_load, row.output)
    transforms = None
    if row.albumentations:
        from yolodata.ultralytics.fallback import upstream_transforms

        transforms = upstream_transforms(None)
    loader = Loader(
        shards, task.batch, augment=augment, transforms=transforms, labels=LabelOptions(task.task),
        seed=task.seed, device=device, reading=ReadOptions(row.threads, _PREFETCH),
    )  # fmt: skip
    pace = Pace(torch.device(task.device))

    def batches() -> Iterator[Batch]:
        while True:
            for batch in loader:
                pace.keep()
                if row.device != "cpu" and loader.cache != row.cache:
                    raise ConfigError(
                        f"cache={row.cache} was asked for, the loader uses {loader.cache}: "
                        f"{loader.preflight}"
                    )
                yield batch

    def facts() -> dict[str, float]:
        images = range(min(len(shards), 256))
        start = time.perf_counter()
        for i in images:
            int(shards.sample(i)[::64].max())
        read_ms = 1e3 * (time.perf_counter() - start) / len(images)
        found = {"read_ms": read_ms, "stored_bytes": float(np.mean(shards.nbytes))}
        if loader.hw_decoder_load is not None:
            found["hw_decoder_load"] = loader.hw_decoder_load
        if row.ceiling == "gpu-copy-host":
            # Rendered pictures are uploaded as bytes; else the kernel reads the sources' bytes.
            if row.cache == "none":
                found["bytes_each"] = 3.0 * task.imgsz * task.imgsz
            else:
                found["bytes_each"] = mean_source_bytes(shards, augment, seed=loader.seed)
        return found

    warm_up = _window(shards) or 4 * task.batch
    return Subject(batches(), prefetched=_PREFETCH, warm_up=warm_up, finish=pace.finish,
                   read=loader.telemetry.read, facts=facts, close=loader.close)  # fmt: skip


def open_in_trainer(row: Row, task: Task, trainer: Any) -> Subject:
    """The loader that yolodata's trainer makes for itself."""
    assert task.data is not None
    shards = reader.open(task.data)
    loader = trainer._train_loader(shards, task.batch, -1)
    loader.on_out_of_memory = None  # another size of the batch would be another benchmark

    def about() -> str:
        where = (
            f"cache={loader.cache}: {loader.preflight}" if loader.device != "cpu" else "on the CPU"
        )
        count = loader.num_workers
        return f"{count} thread{'s' if count > 1 else ''}, {where}"

    return Subject(
        whole_batches(loader), prefetched=trainer.settings.prefetch, warm_up=_window(shards),
        finish=Pace(trainer.device).finish, about=about, prepare=trainer.prepare_yolodata,
        dataset=loader.dataset, close=loader.close,
    )  # fmt: skip


def open_fixed(row: Row, task: Task, trainer: Any) -> Subject:
    """The first batch of yolodata's loader again and again, which lies on the device, ready."""
    source = open_in_trainer(row, task, trainer)
    # Loaders use their memory again, and preparing may have been a view of it.
    fixed = {
        name: value.clone() if hasattr(value, "clone") else value
        for name, value in source.prepare(dict(next(source.batches))).items()
    }
    source.close()
    return Subject(map(dict, repeat(fixed)), finish=source.finish, dataset=source.dataset)


def _window(shards: ShardDataset) -> int:
    """Decoded pictures are kept for a window, which fills during the beginning of an epoch."""
    window = reuse_window(len(shards))
    return window["streams"] * window["window"] if shards.meta.codec == "jpeg" else 0
