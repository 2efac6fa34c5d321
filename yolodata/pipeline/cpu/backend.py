"""Batches made by CPU threads: native jobs, and the images that must be read before them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.albumentations.pool import TransformPool
from yolodata.pipeline.albumentations.transforms import seeds
from yolodata.pipeline.backend import (
    TICK,
    BackendSpec,
    GivenSamples,
    Job,
    JobGroup,
    LabelsOf,
    PendingBatch,
    PlannedSamples,
    Samples,
    total_seconds,
    wait_for,
)
from yolodata.pipeline.cpu.buffer_pool import BufferPool, Bytes
from yolodata.pipeline.image_cache import ImageCache, Lease

if TYPE_CHECKING:
    import torch

    from yolodata import _native


class CpuBackend:
    """`Backend` of CPU threads.

    Args:
        spec: what the loader wants.
        allocate: makes the memory of batches, uint8 (nbytes,); None is the loader's own choice.
    """

    hw_decoder_load: float | None = None
    cache_reason = ""

    def __init__(self, spec: BackendSpec, allocate: Callable[[int], Bytes] | None = None) -> None:
        import torch

        from yolodata import _native

        self.cache = spec.device.cache
        self.subset = subset = spec.subset
        self.transform_pool: TransformPool | None = spec.transform_pool()
        pinned = allocate is None and spec.device.pin_memory and torch.cuda.is_available()
        self._buffers = BufferPool(2, pinned, allocate)
        self.engine = _native.Engine(spec.threads, spec.pinning.cores)
        self._planner: _native.Engine | None = None
        self._images: ImageCache | None = None
        self._discarded: list[PendingBatch] = []
        self._closed = False
        self._maps: list[Bytes] = []
        source = spec.image_source()
        if source is not None:
            self._planner = _native.Engine(1)
            self._images = ImageCache(source, spec.telemetry)
        else:
            shards, images = subset.shards, subset.images
            self._maps = [shards.shard_data(s) for s in range(len(shards.meta.shards))]
            self._base = np.array([m.ctypes.data for m in self._maps], dtype=np.uint64)
            self._shard = np.ascontiguousarray(shards.shard[:images])
            self._offset = np.ascontiguousarray(shards.offset[:images])

    @property
    def images(self) -> ImageCache:
        """Decoded images, where they have to be read."""
        assert self._images is not None
        return self._images

    @property
    def unreadable(self) -> dict[int, str]:
        """See `Backend`."""
        return self._images.unreadable if self._images is not None else {}

    def submit(
        self,
        config: _native.PlanConfig,
        seed: int,
        epoch: int,
        positions: npt.NDArray[np.int64],
        age: int,
    ) -> PendingBatch:
        """See `Backend`; pictures are uint8 (B, 3, imgsz, imgsz)."""
        self._sweep()
        size = config.imgsz
        out = self._buffers.take(len(positions), size, size)
        index = self.subset.index()
        if self._planner is not None:
            plan = self._planner.submit_plan(index, config, seed, epoch, positions)
            drawn = seeds(seed, epoch, positions) if self.transform_pool is not None else ()
            return _ReadBatch(self, out, age, PlannedSamples(plan, self.subset), drawn)
        job = self.engine.submit(
            index, config, seed, epoch, positions, out.numpy(),
            self._shard, self._offset, self._base,
        )  # fmt: skip
        return _MappedBatch(out, job, PlannedSamples(job, self.subset))

    def submit_recipes(
        self,
        recipes: Sequence[_native.Recipe],
        images: npt.NDArray[np.int64],
        labels: LabelsOf,
        age: int,
    ) -> PendingBatch:
        """See `Backend`; pictures are uint8 (B, 3, H, W)."""
        self._sweep()
        height, width = recipes[0].to_dict()["size"]
        out = self._buffers.take(len(recipes), height, width)
        given = GivenSamples(recipes, images, labels)
        if self._images is not None:
            return _ReadBatch(self, out, age, given, ())
        shown = given.images()
        pointers = self._base[self._shard[shown]] + self._offset[shown]
        job = self.engine.submit_render(recipes, shown, pointers, out.numpy())
        return _MappedBatch(out, job, given)

    def render(
        self,
        samples: Samples,
        lease: Lease,
        out: Bytes,
        seeds: Sequence[int],
    ) -> Job:
        """Starts rendering pictures into `out`.

        Args:
            samples: what is rendered.
            lease: of their images.
            out: uint8 (B, 3, H, W).
            seeds: what Albumentations' transforms draw from (B,); empty without transforms.
        """
        images, pointers = lease.images, self.images.pointers(lease)
        pool = self.transform_pool if seeds else None
        changed = list(pool.decisions(seeds)) if pool is not None else []
        if pool is None or not changed:
            return self.engine.submit_render(samples.renderable(), images, pointers, out)
        recipes = samples.recipes()
        transformed = pool.submit(
            [recipes[i] for i in changed],
            self._by_image(lease),
            [out[i] for i in changed],
            [seeds[i] for i in changed],
        )
        others = [
            self.engine.submit_render(recipes[begin:end], images, pointers, out[begin:end])
            for begin, end in _between(changed, len(recipes))
        ]
        return JobGroup([*others, transformed])

    def _by_image(self, lease: Lease) -> dict[int, Bytes]:
        found = {}
        for image, pixels in zip(lease.images.tolist(), self.images.pixels(lease), strict=True):
            shape = (int(self.subset.height[image]), int(self.subset.width[image]), 3)
            found[image] = pixels[: shape[0] * shape[1] * 3].reshape(shape)
        return found

    def discard(self, batch: PendingBatch) -> None:
        """See `Backend`."""
        batch.cancel()
        self._discarded.append(batch)
        self._sweep()

    def _sweep(self) -> None:
        self._discarded = [batch for batch in self._discarded if not batch.done()]

    def close(self) -> None:
        """See `Backend`."""
        if self._closed:
            return
        self._closed = True
        if self._images is not None:
            self._images.close()
        if self._planner is not None:
            self._planner.close()
        self.engine.close()
        if self.transform_pool is not None:
            self.transform_pool.close()
        if self._images is not None:
            self._images.forget()
        self._discarded.clear()
        self._buffers.clear()
        self._maps.clear()


class _MappedBatch:
    """A batch whose images are in memory as they are: one native job renders it."""

    unreadable: frozenset[int] = frozenset()

    def __init__(self, image: torch.Tensor, job: _native.Job, samples: Samples) -> None:
        self.image, self._job, self._samples = image, job, samples

    def start(self) -> None:
        pass

    def wait(self) -> None:
        wait_for(self._job)

    def ready(self) -> bool:
        return self._job.wait(0)

    def done(self) -> bool:
        return self._job.done()

    def cancel(self) -> None:
        self._job.cancel()

    def release(self) -> None:
        pass

    def first_images(self) -> npt.NDArray[np.int64]:
        return self._samples.first_images()

    def labels(self) -> Mapping[str, Any]:
        return self._samples.labels(self.unreadable)

    def seconds(self) -> dict[str, float]:
        return self._job.seconds()


class _ReadBatch:
    """A batch whose images are read after its plan, and before it is rendered.

    Reading begins with `start`, so that several plans can be waiting while nothing blocks. The
    thread that reads the last image submits the rendering.
    """

    def __init__(
        self,
        backend: CpuBackend,
        image: torch.Tensor,
        age: int,
        samples: Samples,
        seeds: Sequence[int],
    ) -> None:
        self.image = image
        self.unreadable: frozenset[int] = frozenset()
        self._backend = backend
        self._age = age
        self._samples = samples
        self._seeds = seeds
        self._started = False
        self._lease: Lease | None = None
        self._render: Job | None = None
        self._error: BaseException | None = None
        self._submitted = threading.Event()
        self._cancelled = False

    def start(self) -> None:
        if not self._started:
            images, bases = self._samples.images(), self._samples.bases()
            self._backend.images.ask(lambda: self._acquire(images, bases))

    def _acquire(self, images: npt.NDArray[np.int64], bases: frozenset[int]) -> None:
        if self._started:
            return
        cache = self._backend.images
        self._lease = cache.acquire(images, self._on_images, age=self._age, bases=bases)
        self._started = True

    def _on_images(self, lease: Lease) -> None:
        try:
            if not self._cancelled:
                self._render = self._backend.render(
                    self._samples, lease, self.image.numpy(), self._seeds
                )
        except BaseException as error:  # surfaces in the consumer
            self._error = error
        finally:
            self._submitted.set()

    def wait(self) -> None:
        self.start()
        while not self._submitted.wait(TICK):
            pass
        while not self.ready():
            assert self._render is not None
            self._render.wait(TICK)

    def ready(self) -> bool:
        if not self._submitted.is_set():
            return False
        if self._error is not None:
            raise self._error
        if self._render is not None and not self._render.wait(0):
            return False
        self._give_back()
        return True

    def done(self) -> bool:
        if not self._started:
            return True
        if not self._submitted.is_set():
            return False
        if self._render is not None and not self._render.done():
            return False
        self._give_back()
        return True

    def cancel(self) -> None:
        self._cancelled = True
        if self._render is not None:
            self._render.cancel()

    def release(self) -> None:
        pass

    def _give_back(self) -> None:
        lease, self._lease = self._lease, None  # also ends the circle of references
        if lease is not None:
            self.unreadable = frozenset(lease.unreadable)
            self._backend.images.release(lease)

    def first_images(self) -> npt.NDArray[np.int64]:
        return self._samples.first_images()

    def labels(self) -> Mapping[str, Any]:
        return self._samples.labels(self.unreadable)

    def seconds(self) -> dict[str, float]:
        return total_seconds([*self._samples.jobs(), *([self._render] if self._render else [])])


def _between(some: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Yields runs of the numbers below `count` that are not in `some`, which ascend."""
    begin = 0
    for number in [*some, count]:
        if begin < number:
            yield begin, number
        begin = number + 1
