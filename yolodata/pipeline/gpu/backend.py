"""Batches made in GPU memory: what a loader opens for a device, and how a batch begins there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolodata.machine import available_memory, ranks_here
from yolodata.pipeline.albumentations.transforms import seeds
from yolodata.pipeline.backend import (
    BackendSpec,
    GivenSamples,
    LabelsOf,
    PendingBatch,
    PlannedSamples,
)
from yolodata.pipeline.cpu.backend import CpuBackend
from yolodata.pipeline.gpu import stream as streams
from yolodata.pipeline.gpu.batch import GpuBatch, RenderedOnCpu, RenderedOnGpu
from yolodata.pipeline.gpu.context import GpuContext
from yolodata.pipeline.gpu.dataset_cache import (
    CacheChoice,
    CachedDataset,
    FreeMemory,
    choose,
    decoded_bytes,
    fill,
)
from yolodata.pipeline.gpu.image_decoder import DECODED_AT_ONCE, ImageDecoder
from yolodata.pipeline.gpu.jpeg_decoder import RUNS, release_unused_memory
from yolodata.pipeline.gpu.stream import Output, render_task_bytes
from yolodata.pipeline.image_cache import ImageCache, ImageSource

if TYPE_CHECKING:
    import torch

    from yolodata import _native

log = logging.getLogger("yolodata")


class GpuBackend:
    """`Backend` of a CUDA device.

    Where decoded images are on the device, or can be brought there, it renders. Otherwise, and for
    images that are to be made smaller first, CPU threads do, and it gets the pictures.

    Args:
        spec: what the loader wants.

    Raises:
        ConfigError: there is no such device.
    """

    def __init__(self, spec: BackendSpec) -> None:
        import torch

        stream = streams.open_stream(torch.device(str(spec.device.device)))
        stream.near = spec.pinning.near
        output = Output(spec.device.output, spec.device.channels_last)
        self._subset = subset = spec.subset
        self._cached: CachedDataset | None = None
        images: ImageCache | None = None
        decoder: ImageDecoder | None = None
        codec, raw = subset.shards.meta.codec, subset.shards.meta.codec == "raw"
        nbytes = decoded_bytes(subset)
        free, total = stream.mem_get_info()
        # The other ranks of this machine count on its memory too.
        memory = FreeMemory(free, total, available_memory() // ranks_here())
        window = 0 if raw else nbytes * spec.capacity // max(subset.images, 1)
        staging = spec.in_flight * 3 * subset.imgsz**2
        choice = choose(spec.device.cache, codec, nbytes, memory, window, staging)
        if spec.shrink:
            choice = CacheChoice("none", "CPU threads render: some images are made smaller first")
        log.info("cache=%s on %s: %s", choice.cache, stream.device, choice.why)
        if not raw and not spec.shrink and choice.cache in ("device", "none"):
            decoder = ImageDecoder(spec, stream)
        decode = None if decoder is None else decoder.read
        choice, self._cached = fill(
            choice, subset, stream, threads=spec.threads, check=spec.check, decode=decode
        )
        if self._cached is None and not raw and not spec.shrink:
            decoder = decoder or ImageDecoder(spec, stream)
            source = ImageSource(
                decoder.read,
                threads=RUNS,
                capacity=spec.capacity,
                chunk=DECODED_AT_ONCE,
                refresh=spec.window == 0,
                close=decoder.close,
            )
            images = ImageCache(source, spec.telemetry)
        elif decoder is not None:
            decoder.close()
            release_unused_memory()
        self.cache, self.cache_reason = choice.cache, choice.why
        self.hw_decoder_load = None if decoder is None else decoder.hw_decoder_load
        self._cpu: CpuBackend | None = None
        renders = self._cached is not None or images is not None
        if not renders:
            self._cpu = CpuBackend(spec, allocate=lambda nbytes: stream.pinned(nbytes).numpy())
        pool = spec.transform_pool(on_device=True) if renders else None
        threads = spec.threads if renders else None
        self._context = GpuContext(
            stream, output, threads, spec.telemetry, images, pool, spec.pinning.cores
        )
        self._images = images
        self._discarded: list[PendingBatch] = []
        self._closed = False

    @property
    def unreadable(self) -> dict[int, str]:
        """See `Backend`."""
        for holder in (self._cached, self._cpu, self._images):
            if holder is not None:
                return holder.unreadable
        return {}

    def submit(
        self,
        config: _native.PlanConfig,
        seed: int,
        epoch: int,
        positions: npt.NDArray[np.int64],
        age: int,
    ) -> PendingBatch:
        """See `Backend`; pictures are (B, 3, imgsz, imgsz), as the loader's `output`."""
        self._sweep()
        context, count, size = self._context, len(positions), config.imgsz
        if self._cpu is not None:
            inner = self._cpu.submit(config, seed, epoch, positions, age)
            return RenderedOnCpu(context, inner, count)
        index, shape = self._subset.index(), (count, 3, size, size)
        drawn = seeds(seed, epoch, positions) if context.transforms else ()
        if self._cached is None:
            plan = context.engine.submit_plan(index, config, seed, epoch, positions)
            samples = PlannedSamples(plan, self._subset)
            return RenderedOnGpu(context, samples, shape, age, seeds=drawn)
        memory = context.batch_memory(count)
        plan = context.engine.submit(
            index, config, seed, epoch, positions, _tasks(memory, count),
            self._cached.shard, self._cached.offset, self._cached.base,
        )  # fmt: skip
        samples = PlannedSamples(plan, self._subset)
        return self._from_cache(samples, shape, age, memory, plan, drawn)

    def submit_recipes(
        self,
        recipes: Sequence[_native.Recipe],
        images: npt.NDArray[np.int64],
        labels: LabelsOf,
        age: int,
    ) -> PendingBatch:
        """See `Backend`; pictures are (B, 3, H, W), as the loader's `output`."""
        self._sweep()
        context, count = self._context, len(recipes)
        if self._cpu is not None:
            inner = self._cpu.submit_recipes(recipes, images, labels, age)
            return RenderedOnCpu(context, inner, count)
        height, width = recipes[0].to_dict()["size"]
        samples, shape = GivenSamples(recipes, images, labels), (count, 3, height, width)
        if self._cached is None:
            return RenderedOnGpu(context, samples, shape, age)
        memory, shown = context.batch_memory(count), samples.images()
        pointers = self._cached.base[self._cached.shard[shown]] + self._cached.offset[shown]
        job = context.engine.submit_render(recipes, shown, pointers, _tasks(memory, count))
        return self._from_cache(samples, shape, age, memory, job, ())

    def _from_cache(
        self,
        samples: PlannedSamples | GivenSamples,
        shape: tuple[int, int, int, int],
        age: int,
        memory: torch.Tensor,
        writing: _native.Job,
        drawn: Sequence[int],
    ) -> GpuBatch:
        assert self._cached is not None
        return RenderedOnGpu(
            self._context,
            samples,
            shape,
            age,
            memory=memory,
            writing=writing,
            cached_unreadable=frozenset(self._cached.unreadable),
            seeds=drawn,
        )

    def discard(self, batch: PendingBatch) -> None:
        """See `Backend`."""
        batch.cancel()
        self._discarded.append(batch)
        self._sweep()

    def _sweep(self) -> None:
        for batch in [batch for batch in self._discarded if batch.done()]:
            self._discarded.remove(batch)
            batch.release()
        self._context.sweep()

    def close(self) -> None:
        """See `Backend`."""
        if self._closed:
            return
        self._closed = True
        if self._cpu is not None:
            self._cpu.close()
        self._context.close()
        self._context.forget()
        self._discarded.clear()
        release_unused_memory()
        if self._cached is not None:
            self._cached.close()


def _tasks(memory: torch.Tensor, count: int) -> npt.NDArray[np.uint8]:
    tasks: npt.NDArray[np.uint8] = memory[: render_task_bytes(count)].numpy()
    return tasks
