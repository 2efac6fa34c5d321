"""What the batches of one loader share on a device: stream, memory, threads, images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.albumentations.pool import TransformPool
from yolodata.pipeline.gpu.device_transforms import DeviceTransforms
from yolodata.pipeline.gpu.host_transforms import HostTransformJob, HostTransforms
from yolodata.pipeline.gpu.stream import Event, Output, StagingPool, Stream, render_task_bytes
from yolodata.pipeline.gpu.timing import DeviceTimes
from yolodata.pipeline.image_cache import ImageCache, Lease
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata import _native

Bytes = npt.NDArray[np.uint8]
_OBJECT = 4 * (1 + 4 + 1)  # bytes of labels of one object, without keypoints and masks
_LIKELY_OBJECTS = 64  # of a picture; more only cost a larger piece of memory


class GpuContext:
    """Stream, memory, threads and images; used by one thread at a time.

    Args:
        stream: of the device.
        output: what pictures are made as.
        threads: native threads that plan; None where CPU threads render.
        telemetry: counts transformed samples, and adds up the device's seconds.
        images: decoded images, where they are read when needed.
        pool: applies the transforms that a device cannot; None without transforms.
        cores: that each native thread is kept on; none leaves that to the system.

    Attributes:
        staging: page-locked memory for uploads.
        times: what batches cost the device.
    """

    def __init__(
        self,
        stream: Stream,
        output: Output,
        threads: int | None,
        telemetry: Telemetry,
        images: ImageCache | None = None,
        pool: TransformPool | None = None,
        cores: Sequence[Sequence[int]] = (),
    ) -> None:
        from yolodata import _native

        self.stream, self.output = stream, output
        self.staging = StagingPool(stream)
        self.times = DeviceTimes(stream, telemetry)
        self._engine = None if threads is None else _native.Engine(threads, cores)
        self._images = images
        self._pool = pool
        self._on_device: DeviceTransforms | None = None
        self._on_host: HostTransforms | None = None
        if pool is not None:
            self._on_device = DeviceTransforms(stream, output, telemetry)
            self._on_host = HostTransforms(pool, stream, output, telemetry)
        self._leases: list[tuple[Lease, Event]] = []
        self._memory: list[tuple[torch.Tensor, Event]] = []

    @property
    def engine(self) -> _native.Engine:
        """Native threads that plan."""
        assert self._engine is not None
        return self._engine

    @property
    def images(self) -> ImageCache:
        """Decoded images, where they are read when needed."""
        assert self._images is not None
        return self._images

    @property
    def transforms(self) -> bool:
        """Whether Albumentations changes some samples."""
        return self._pool is not None

    def batch_memory(self, count: int) -> torch.Tensor:
        """Returns page-locked memory for the tasks of a batch and, most likely, its labels."""
        return self.staging.take(render_task_bytes(count) + count * _LIKELY_OBJECTS * _OBJECT)

    def keep_images(self, lease: Lease, event: Event) -> None:
        """Keeps images until the device has read them."""
        self._leases.append((lease, event))

    def keep_memory(self, memory: torch.Tensor, event: Event) -> None:
        """Keeps page-locked memory until the device has read it."""
        self._memory.append((memory, event))

    def transform(
        self, tasks: Bytes, uploaded: torch.Tensor, seeds: Sequence[int], pictures: torch.Tensor
    ) -> HostTransformJob | None:
        """Enqueues what Albumentations changes in a batch that is being rendered.

        Args:
            tasks: of the batch, uint8 (B * RENDER_TASK_BYTES,) in host memory.
            uploaded: the same on the device, with the masks that they point to.
            seeds: B numbers that the transforms draw from.
            pictures: where the batch is being rendered to, (B, 3, H, W).

        Returns:
            samples that go to the CPU and back, if there are any.

        Raises:
            torch.OutOfMemoryError: the device has no memory for it.
        """
        assert self._pool is not None
        assert self._on_device is not None
        assert self._on_host is not None
        found = self._pool.decisions(seeds)
        here = {at: filters for at, filters in found.items() if filters is not None}
        away = {at: seeds[at] for at, filters in found.items() if filters is None}
        if here:
            self._on_device.enqueue(tasks, here, pictures)
        return self._on_host.begin(tasks, uploaded, away, pictures) if away else None

    def empty_cache(self) -> None:
        """Frees what nobody uses any more; waits for the device."""
        self.stream.record_event().synchronize()
        self.sweep()
        self.stream.empty_cache()

    def sweep(self) -> None:
        """Gives back what the device has read."""
        self._memory = [(memory, event) for memory, event in self._memory if not event.query()]
        reading = []
        for lease, event in self._leases:
            if event.query():
                self.images.release(lease)
            else:
                reading.append((lease, event))
        self._leases = reading
        if self._on_host is not None:
            self._on_host.sweep()

    def close(self) -> None:
        """Stops the threads, and waits for the device."""
        if self._images is not None:
            self._images.close()
        if self._engine is not None:
            self._engine.close()
        if self._on_host is not None:
            self._on_host.close()
        self.stream.record_event().synchronize()  # it may be reading images and tasks

    def forget(self) -> None:
        """Frees the memory, after `close`."""
        if self._images is not None:
            self._images.forget()
        if self._on_host is not None:
            self._on_host.forget()
        if self._on_device is not None:
            self._on_device.forget()
        self._leases.clear()
        self._memory.clear()
        self.staging.clear()
