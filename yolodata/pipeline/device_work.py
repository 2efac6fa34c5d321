"""Batches in the making on a device: the counterpart of work.py.

The host only plans. What it made for a batch, render tasks and labels, goes to the device in one
piece of page-locked memory; then the renderer and a mark are enqueued. The consumer's stream waits
for the mark, the host waits for nothing but plans and, with JPEG shards, for decoded pictures.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import is_out_of_memory
from yolodata.pipeline.bad import Labels, labels_without
from yolodata.pipeline.device import Mark
from yolodata.pipeline.pixels import Lease
from yolodata.pipeline.work import Work, wait_for

if TYPE_CHECKING:
    import torch

    from yolodata import _native
    from yolodata.pipeline.detour import Detour
    from yolodata.pipeline.device_workshop import DeviceWorkshop

_ALIGNMENT = 16
_TYPES = {"f": "float32", "B": "uint8", "i": "int32"}  # of labels; asking NumPy for a name is slow


def render_task_bytes(count: int) -> int:
    """Size of the render tasks of a batch."""
    from yolodata import _native

    return count * int(_native.RENDER_TASK_BYTES)


class DeviceWork(Work):
    """A batch whose pictures and labels end up on the device.

    Subclasses say in `_begin` when what they need is there, and in `_pictures` how it becomes
    pictures.
    """

    def __init__(self, workshop: DeviceWorkshop, count: int) -> None:
        self._workshop = workshop
        self._count = count
        self._memory: torch.Tensor | None = None  # page-locked: render tasks, then labels
        self._labels: DeviceLabels | None = None
        self._mark: Mark | None = None
        self._short = False  # the device had no memory for it

    def start(self) -> None:
        """Enqueue the batch if nothing is missing; never waits for pictures.

        Where the device has no memory for it, `wait` tries again: until then others may have given
        theirs back.
        """
        if self._mark is None and not self._short and self._begin(False):
            self._try()

    def wait(self) -> None:
        """Enqueue the batch, and let the consumer's stream wait for it.

        Raises:
            torch.OutOfMemoryError: the device has no memory for it, even after everything that
                nobody uses was freed. It may be waited for again.
        """
        if self._mark is None and not self._short:
            self._begin(True)
            self._try()
        if self._mark is None:
            self._workshop.make_room()  # also waits for what the last attempt enqueued
            self._again()
            self._begin(True)
            self._enqueue()
        assert self._labels is not None
        self._finished().hand_over([self.image, self._labels.memory])

    def _finished(self) -> Mark:
        """The moment when the pictures are finished; waits for threads that still enqueue some."""
        assert self._mark is not None
        return self._mark

    def ready(self) -> bool:
        """See `Work`."""
        return self._mark is not None

    def _try(self) -> None:
        try:
            self._enqueue()
        except Exception as error:  # DALI's are of many types
            if not is_out_of_memory(error):
                raise
            self._short = True

    def _begin(self, wait: bool) -> bool:
        """Whether everything needed is there; with `wait`, make it so."""
        raise NotImplementedError

    def _again(self) -> None:
        """Begin anew what failed for want of memory."""

    def _pictures(self, render_tasks: torch.Tensor) -> torch.Tensor:
        """Enqueue what makes the pictures; what was uploaded begins with the render_tasks."""
        raise NotImplementedError

    def _host_labels(self) -> Labels:
        raise NotImplementedError

    def _render_task_bytes(self) -> int:
        """Bytes of render tasks, which come first in the memory that is uploaded."""
        return 0

    def _mask_bytes(self) -> int:
        """Bytes of the masks that follow them."""
        return 0

    def _move_masks(self, memory: npt.NDArray[np.uint8], address: int) -> None:
        """Put the masks behind the render tasks in `memory`, which will be read at `address`."""

    def _enqueue(self) -> None:
        workshop = self._workshop
        queue, staging = workshop.queue, workshop.staging
        labels = self._host_labels()
        render_tasks, masks = self._render_task_bytes(), self._mask_bytes()
        before = render_tasks + masks
        places, end = {}, _aligned(before)
        for name, values in labels.items():
            places[name] = (end, values.shape, values.dtype)
            end = _aligned(end + values.nbytes)
        memory = self._memory
        if memory is None or memory.numel() < end:
            larger = staging.take(end + end // 4)
            if memory is not None:
                larger[:render_tasks] = memory[:render_tasks]
                staging.give(memory, None)
            memory = self._memory = larger
        uploaded = queue.memory(end)
        host = memory.numpy()
        if masks:
            self._move_masks(host[:before], uploaded.data_ptr())
        for name, values in labels.items():
            at = places[name][0]
            np.copyto(host[at : at + values.nbytes].view(values.dtype), values.ravel())
        queue.copy(memory[:end], uploaded)
        self._labels = DeviceLabels(uploaded, places)
        self.image = self._pictures(uploaded)
        self._mark = queue.mark()
        self._memory = (
            None  # not before: the render tasks in it are needed should anything have failed
        )
        staging.give(memory, self._mark)

    def labels(self) -> dict[str, torch.Tensor]:
        """See `Work.labels`; on the device."""
        assert self._labels is not None
        return self._labels.views()

    def abandon(self) -> None:
        """Give back what was lent, for a batch that was dropped and is `done`."""
        if self._memory is not None:  # which an attempt that failed may have begun to upload
            self._workshop.staging.give(self._memory, self._workshop.queue.mark())
            self._memory = None


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class DeviceLabels:
    """Labels of a batch in the memory that was uploaded: where each is, its shape and dtype."""

    memory: torch.Tensor
    places: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]]

    def views(self) -> dict[str, torch.Tensor]:
        """Tensors by name."""
        import torch

        found, whole = {}, {}
        for name, (at, shape, dtype) in self.places.items():
            if dtype not in whole:
                whole[dtype] = self.memory.view(getattr(torch, _TYPES[dtype.char]))
            items = whole[dtype].narrow(0, at // dtype.itemsize, math.prod(shape))
            found[name] = items.view(shape)
        return found


class Rendered(DeviceWork):
    """The device renders, from pictures that are there or are being decoded."""

    def __init__(
        self,
        workshop: DeviceWorkshop,
        plan: _native.Job,
        shape: tuple[int, int, int, int],
        age: int,
        memory: torch.Tensor | None,
        seeds: Sequence[int],
    ) -> None:
        super().__init__(workshop, shape[0])
        self._plan, self._shape, self._age = plan, shape, age
        self._memory = memory  # given: the plan writes the render tasks into it
        self._planned_tasks = memory is not None
        self._seeds = seeds  # of transforms; none without any
        self._detour: Detour | None = None
        self._lease: Lease | None = None
        self._ready = threading.Event()

    def _render_task_bytes(self) -> int:
        return render_task_bytes(self._count)

    def _mask_bytes(self) -> int:
        return self._plan.mask_bytes()

    def _move_masks(self, memory: npt.NDArray[np.uint8], address: int) -> None:
        self._plan.move_masks(memory, address)

    def _begin(self, wait: bool) -> bool:
        if self._planned_tasks:
            if wait:
                wait_for(self._plan)
            return self._plan.done()
        if self._lease is None:
            wait_for(self._plan)  # short; reading begins with it
            self._workshop.pictures.ask(self._acquire)
        while wait and not self._settled():
            self._ready.wait(0.2)  # looks at signals (Ctrl-C) in between
        return self._settled()

    def _settled(self) -> bool:
        lease = self._lease
        if lease is None or not self._ready.is_set():
            return False
        if not self._workshop.pictures.settled(lease):
            self._ready.clear()
            if self._workshop.pictures.settled(lease):  # since then
                self._ready.set()
        return self._ready.is_set()

    def _acquire(self) -> None:
        if self._lease is None:
            self._lease = self._workshop.pictures.acquire(
                self._plan.image_ids(),
                lambda lease: self._ready.set(),
                age=self._age,
                bases=frozenset(self._plan.first_image_ids().tolist()),
            )

    def _again(self) -> None:
        lease = self._lease
        if lease is not None and lease.error is not None:
            self._ready.clear()
            self._workshop.pictures.ask(lambda: self._workshop.pictures.again(lease))

    def _pictures(self, render_tasks: torch.Tensor) -> torch.Tensor:
        workshop = self._workshop
        pictures = workshop.queue.render(render_tasks, self._shape, workshop.output)
        if self._seeds:
            assert self._memory is not None
            here = self._memory[: render_task_bytes(self._count)].numpy()
            self._detour = workshop.change(here, render_tasks, self._seeds, pictures)
        return pictures

    def _finished(self) -> Mark:
        if self._detour is None:
            return super()._finished()
        wait_for(self._detour)
        assert self._detour.mark is not None
        return self._detour.mark

    def _enqueue(self) -> None:
        workshop = self._workshop
        wait_for(self._plan)  # raises what went wrong
        if self._lease is not None:
            if self._lease.error is not None:
                raise self._lease.error
            self.bad = frozenset(self._lease.bad)
            size = render_task_bytes(self._count)
            if self._memory is None:
                self._memory = workshop.batch_memory(self._count)
            wait_for(
                workshop.engine.submit_render(
                    self._plan,
                    self._lease.images,
                    workshop.pictures.pointers(self._lease),
                    self._memory[:size].numpy(),
                )
            )
        elif workshop.resident_bad:
            self.bad = workshop.resident_bad & frozenset(self._plan.image_ids().tolist())
        super()._enqueue()
        if self._lease is not None:
            assert self._mark is not None
            workshop.lend(self._lease, self._mark)
            self._lease = None

    def _host_labels(self) -> Labels:
        if not self.bad:
            return self._plan.labels()
        return labels_without(self._workshop.selection, self._plan.recipes(), self.bad)

    def first_images(self) -> npt.NDArray[np.int64]:
        """See `Work`."""
        return self._plan.first_image_ids()

    def seconds(self) -> dict[str, float]:
        """See `Work`."""
        return self._plan.seconds()

    def cancel(self) -> None:
        """See `Work`."""
        self._plan.cancel()
        if self._detour is not None:
            self._detour.cancel()

    def done(self) -> bool:
        """See `Work`."""
        if self._detour is not None and not self._detour.done():
            return False
        return self._plan.done() and (self._lease is None or self._settled())

    def abandon(self) -> None:
        """See `DeviceWork`."""
        super().abandon()
        lease, self._lease = self._lease, None
        if lease is not None:
            self._workshop.pictures.release(lease)


class Uploaded(DeviceWork):
    """CPU threads render; the device gets the pictures."""

    def __init__(self, workshop: DeviceWorkshop, work: Work, count: int) -> None:
        super().__init__(workshop, count)
        self._rendering: Work | None = work
        self._first_images = np.zeros(0, np.int64)
        self._seconds: dict[str, float] = {}

    @property
    def _work(self) -> Work:
        assert self._rendering is not None
        return self._rendering

    def _begin(self, wait: bool) -> bool:
        if wait:
            self._work.wait()
            return True
        self._work.start()
        return self._work.done()

    def _enqueue(self) -> None:
        work = self._work
        work.wait()
        self.bad = work.bad
        super()._enqueue()
        assert self._mark is not None
        self._first_images, self._seconds = work.first_images(), work.seconds()
        self._workshop.keep(work.image, self._mark)
        self._rendering = None  # its memory is needed for other batches, long before this is

    def _pictures(self, render_tasks: torch.Tensor) -> torch.Tensor:
        queue, output = self._workshop.queue, self._workshop.output
        host = self._work.image
        device = queue.memory(host.numel())
        queue.copy(host.view(-1), device)
        return queue.scale(device.view(host.shape), output)

    def _host_labels(self) -> Labels:
        labels: Labels = self._work.labels()
        return labels

    def first_images(self) -> npt.NDArray[np.int64]:
        """See `Work`."""
        return self._first_images

    def seconds(self) -> dict[str, float]:
        """See `Work`."""
        return self._seconds

    def cancel(self) -> None:
        """See `Work`."""
        if self._rendering is not None:
            self._rendering.cancel()

    def done(self) -> bool:
        """See `Work`."""
        return self._rendering is None or self._rendering.done()

    def abandon(self) -> None:
        """See `DeviceWork`."""
        super().abandon()
        if self._rendering is not None:
            self._workshop.keep(self._rendering.image, self._workshop.queue.mark())
