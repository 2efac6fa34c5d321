"""Batches that end up in GPU memory.

The host only plans. What it made for a batch, render tasks and labels, goes to the device in one
piece of page-locked memory; then the renderer and an event are enqueued. The consumer's stream
waits for the event. The consumer and the prefetch thread wait for nothing but plans and, with
JPEG shards, decoded images.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import is_out_of_memory
from yolodata.pipeline.backend import Job, PendingBatch, Samples, total_seconds, wait_for
from yolodata.pipeline.gpu.context import GpuContext
from yolodata.pipeline.gpu.host_transforms import HostTransformJob
from yolodata.pipeline.gpu.stream import Event, render_task_bytes
from yolodata.pipeline.image_cache import Lease

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 16
_TYPES = {"f": "float32", "B": "uint8", "i": "int32"}  # of labels; asking NumPy for a name is slow


class GpuBatch:
    """`PendingBatch` whose pictures and labels end up on the device.

    Subclasses say in `_begin` when what they need is there, and in `_render` how it becomes
    pictures.
    """

    image: torch.Tensor
    unreadable: frozenset[int] = frozenset()
    _stage = "kernel"  # what `_render` has the device do

    def __init__(self, context: GpuContext, count: int) -> None:
        self._context = context
        self._count = count
        self._memory: torch.Tensor | None = None  # page-locked: tasks, then labels
        self._labels: GpuLabels | None = None
        self._event: Event | None = None
        self._short = False  # the device had no memory for it

    def start(self) -> None:
        """Enqueues the batch if nothing is missing; never waits for images.

        Where the device has no memory for it, `wait` tries again: until then others may have given
        theirs back.
        """
        if self._event is None and not self._short and self._begin(False):
            self._try()

    def wait(self) -> None:
        """Enqueues the batch, and makes the consumer's stream wait for it.

        Raises:
            torch.OutOfMemoryError: the device has no memory for it, even after everything that
                nobody uses was freed. It may be waited for again.
        """
        if self._event is None and not self._short:
            self._begin(True)
            self._try()
        if self._event is None:
            self._context.empty_cache()  # also waits for what the last attempt enqueued
            self._again()
            self._begin(True)
            self._enqueue()
        assert self._labels is not None
        times = self._context.times
        waited = self._finished().make_consumer_wait([self.image, self._labels.memory])
        times.add("device_wait", *waited)
        times.count()

    def _finished(self) -> Event:
        """Returns when the pictures are finished; waits for threads that still enqueue some."""
        assert self._event is not None
        return self._event

    def ready(self) -> bool:
        """See `PendingBatch`."""
        return self._event is not None

    def done(self) -> bool:
        """See `PendingBatch`."""
        raise NotImplementedError

    def cancel(self) -> None:
        """See `PendingBatch`."""
        raise NotImplementedError

    def first_images(self) -> npt.NDArray[np.int64]:
        """See `PendingBatch`."""
        raise NotImplementedError

    def seconds(self) -> dict[str, float]:
        """See `PendingBatch`."""
        raise NotImplementedError

    def _try(self) -> None:
        try:
            self._enqueue()
        except Exception as error:  # DALI's are of many types
            if not is_out_of_memory(error):
                raise
            self._short = True

    def _begin(self, wait: bool) -> bool:
        """Returns whether everything needed is there; with `wait`, makes it so."""
        raise NotImplementedError

    def _again(self) -> None:
        """Begins anew what failed for want of memory."""

    def _render(self, uploaded: torch.Tensor) -> torch.Tensor:
        """Enqueues what makes the pictures; what was uploaded begins with the render tasks."""
        raise NotImplementedError

    def _host_labels(self) -> Mapping[str, npt.NDArray[Any]]:
        raise NotImplementedError

    def _task_bytes(self) -> int:
        """Returns bytes of render tasks, which come first in the memory that is uploaded."""
        return 0

    def _mask_bytes(self) -> int:
        """Returns bytes of the masks that follow them."""
        return 0

    def _move_masks(self, memory: npt.NDArray[np.uint8], address: int) -> None:
        """Puts the masks behind the tasks in `memory`, which will be read at `address`."""

    def _enqueue(self) -> None:
        stream, staging = self._context.stream, self._context.staging
        labels = self._host_labels()
        tasks, masks = self._task_bytes(), self._mask_bytes()
        before = tasks + masks
        places, end = {}, _aligned(before)
        for name, values in labels.items():
            places[name] = (end, values.shape, values.dtype)
            end = _aligned(end + values.nbytes)
        end = max(end, _ALIGNMENT)  # also of pictures without objects
        memory = self._memory
        if memory is None or memory.numel() < end:
            larger = staging.take(end + end // 4)
            if memory is not None:
                larger[:tasks] = memory[:tasks]
                staging.give(memory, None)
            memory = self._memory = larger
        uploaded = stream.empty(end)
        host = memory.numpy()
        if masks:
            self._move_masks(host[:before], uploaded.data_ptr())
        for name, values in labels.items():
            at = places[name][0]
            np.copyto(host[at : at + values.nbytes].view(values.dtype), values.ravel())
        times, begun = self._context.times, stream.now()
        stream.copy(memory[:end], uploaded)
        copied = stream.now()
        self._labels = GpuLabels(uploaded, places)
        self.image = self._render(uploaded)
        self._event = stream.record_event()
        times.add("copy", begun, copied)
        times.add(self._stage, copied, stream.now())
        self._memory = None  # not before: the tasks in it are needed should anything have failed
        staging.give(memory, self._event)

    def labels(self) -> dict[str, torch.Tensor]:
        """See `PendingBatch`; on the device."""
        assert self._labels is not None
        return self._labels.views()

    def release(self) -> None:
        """See `PendingBatch`."""
        if self._memory is not None:  # which an attempt that failed may have begun to upload
            self._context.staging.give(self._memory, self._context.stream.record_event())
            self._memory = None


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class GpuLabels:
    """Labels of a batch in the memory that was uploaded: where each is, its shape and dtype."""

    memory: torch.Tensor
    places: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]]

    def views(self) -> dict[str, torch.Tensor]:
        """Returns tensors by name."""
        import torch

        found, whole = {}, {}
        for name, (at, shape, dtype) in self.places.items():
            if dtype not in whole:
                whole[dtype] = self.memory.view(getattr(torch, _TYPES[dtype.char]))
            items = whole[dtype].narrow(0, at // dtype.itemsize, math.prod(shape))
            found[name] = items.view(shape)
        return found


class RenderedOnGpu(GpuBatch):
    """The device renders, from images that are there or are being decoded.

    Args:
        context: of the loader.
        samples: what is shown.
        shape: (B, 3, H, W) of the pictures.
        age: place of the batch in the stream.
        memory: page-locked, if `writing` puts the render tasks into it; else images are read first.
        writing: a job.
        cached_unreadable: of images that are there already, those that cannot be read.
        seeds: what Albumentations' transforms draw from (B,); empty without transforms.
    """

    def __init__(
        self,
        context: GpuContext,
        samples: Samples,
        shape: tuple[int, int, int, int],
        age: int,
        *,
        memory: torch.Tensor | None = None,
        writing: Job | None = None,
        cached_unreadable: frozenset[int] = frozenset(),
        seeds: Sequence[int] = (),
    ) -> None:
        super().__init__(context, shape[0])
        self._samples, self._shape, self._age = samples, shape, age
        self._memory = memory
        self._writing = writing
        self._cached_unreadable = cached_unreadable
        self._seeds = seeds
        self._on_host: HostTransformJob | None = None
        self._lease: Lease | None = None
        self._ready = threading.Event()

    def _task_bytes(self) -> int:
        return render_task_bytes(self._count)

    def _mask_bytes(self) -> int:
        return self._samples.mask_bytes()

    def _move_masks(self, memory: npt.NDArray[np.uint8], address: int) -> None:
        self._samples.move_masks(memory, address)

    def _begin(self, wait: bool) -> bool:
        if self._writing is not None:
            if wait:
                wait_for(self._writing)
            return self._writing.done()
        if self._lease is None:
            images = self._samples.images()  # waits for the plan, which is short
            self._context.images.ask(lambda: self._acquire(images))
        while wait and not self._settled():
            self._ready.wait(0.2)  # looks at signals (Ctrl-C) in between
        return self._settled()

    def _settled(self) -> bool:
        lease = self._lease
        if lease is None or not self._ready.is_set():
            return False
        if not self._context.images.settled(lease):
            self._ready.clear()
            if self._context.images.settled(lease):  # since then
                self._ready.set()
        return self._ready.is_set()

    def _acquire(self, images: npt.NDArray[np.int64]) -> None:
        if self._lease is None:
            self._lease = self._context.images.acquire(
                images,
                lambda lease: self._ready.set(),
                age=self._age,
                bases=self._samples.bases(),
            )

    def _again(self) -> None:
        lease = self._lease
        if lease is not None and lease.error is not None:
            self._ready.clear()
            self._context.images.ask(lambda: self._context.images.again(lease))

    def _render(self, uploaded: torch.Tensor) -> torch.Tensor:
        context = self._context
        pictures = context.stream.render(uploaded, self._shape, context.output)
        if self._seeds:
            assert self._memory is not None
            tasks = self._memory[: self._task_bytes()].numpy()
            self._on_host = context.transform(tasks, uploaded, self._seeds, pictures)
        return pictures

    def _finished(self) -> Event:
        if self._on_host is None:
            return super()._finished()
        wait_for(self._on_host)
        assert self._on_host.event is not None
        return self._on_host.event

    def _enqueue(self) -> None:
        context = self._context
        if self._writing is not None:
            wait_for(self._writing)  # raises what went wrong
        if self._lease is not None:
            if self._lease.error is not None:
                raise self._lease.error
            self.unreadable = frozenset(self._lease.unreadable)
            if self._memory is None:
                self._memory = context.batch_memory(self._count)
            wait_for(
                context.engine.submit_render(
                    self._samples.renderable(),
                    self._lease.images,
                    context.images.pointers(self._lease),
                    self._memory[: self._task_bytes()].numpy(),
                )
            )
        elif self._cached_unreadable:
            self.unreadable = self._cached_unreadable & frozenset(self._samples.images().tolist())
        super()._enqueue()
        if self._lease is not None:
            assert self._event is not None
            context.keep_images(self._lease, self._event)
            self._lease = None

    def _host_labels(self) -> Mapping[str, npt.NDArray[Any]]:
        return self._samples.labels(self.unreadable)

    def first_images(self) -> npt.NDArray[np.int64]:
        """See `PendingBatch`."""
        return self._samples.first_images()

    def seconds(self) -> dict[str, float]:
        """See `PendingBatch`."""
        return total_seconds(self._samples.jobs())

    def cancel(self) -> None:
        """See `PendingBatch`."""
        for job in self._samples.jobs():
            job.cancel()
        if self._on_host is not None:
            self._on_host.cancel()

    def done(self) -> bool:
        """See `PendingBatch`."""
        if self._on_host is not None and not self._on_host.done():
            return False
        if self._writing is not None and not self._writing.done():
            return False
        return self._samples.planned() and (self._lease is None or self._settled())

    def release(self) -> None:
        """See `PendingBatch`."""
        super().release()
        lease, self._lease = self._lease, None
        if lease is not None:
            self._context.images.release(lease)


class RenderedOnCpu(GpuBatch):
    """CPU threads render; the device gets the pictures.

    Args:
        context: of the loader.
        rendering: the batch of a CPU backend, into page-locked memory.
        count: B, pictures.
    """

    _stage = "copy"

    def __init__(self, context: GpuContext, rendering: PendingBatch, count: int) -> None:
        super().__init__(context, count)
        self._rendering: PendingBatch | None = rendering
        self._first_images = np.zeros(0, np.int64)
        self._seconds: dict[str, float] = {}

    @property
    def _batch(self) -> PendingBatch:
        assert self._rendering is not None
        return self._rendering

    def _begin(self, wait: bool) -> bool:
        if wait:
            self._batch.wait()
            return True
        self._batch.start()
        return self._batch.done()

    def _enqueue(self) -> None:
        batch = self._batch
        batch.wait()
        self.unreadable = batch.unreadable
        super()._enqueue()
        assert self._event is not None
        self._first_images, self._seconds = batch.first_images(), batch.seconds()
        self._context.keep_memory(batch.image, self._event)
        self._rendering = None  # its memory is needed for other batches, long before this is

    def _render(self, uploaded: torch.Tensor) -> torch.Tensor:
        stream, output = self._context.stream, self._context.output
        host = self._batch.image
        device = stream.empty(host.numel())
        stream.copy(host.view(-1), device)
        return stream.convert(device.view(host.shape), output)

    def _host_labels(self) -> Mapping[str, npt.NDArray[Any]]:
        return self._batch.labels()

    def first_images(self) -> npt.NDArray[np.int64]:
        """See `PendingBatch`."""
        return self._first_images

    def seconds(self) -> dict[str, float]:
        """See `PendingBatch`."""
        return self._seconds

    def cancel(self) -> None:
        """See `PendingBatch`."""
        if self._rendering is not None:
            self._rendering.cancel()

    def done(self) -> bool:
        """See `PendingBatch`."""
        return self._rendering is None or self._rendering.done()

    def release(self) -> None:
        """See `PendingBatch`."""
        super().release()
        if self._rendering is not None:
            event = self._context.stream.record_event()
            self._context.keep_memory(self._rendering.image, event)
