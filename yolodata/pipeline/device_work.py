"""Batches in the making on a device: the counterpart of work.py.

The host only plans. What it made for a batch, shots and labels, goes to the device in one piece of
page-locked memory; then the renderer and a mark are enqueued. The consumer's stream waits for the
mark, the host waits for nothing but plans and, with JPEG shards, for decoded pictures.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.bad import Labels, labels_without
from yolodata.pipeline.device import Mark, Output, Queue, Staging
from yolodata.pipeline.pixels import BatchLoad, Lease, Load, Pictures
from yolodata.pipeline.selection import Selection
from yolodata.pipeline.tiers import Resident
from yolodata.pipeline.work import Work, Workshop, wait_for
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata import _native

_OBJECT = 4 * (1 + 4 + 1)  # bytes of labels of one object, without keypoints and masks
_LIKELY_OBJECTS = 64  # of a picture; more only cost a larger piece of memory
_ALIGNMENT = 16


def shot_bytes(count: int) -> int:
    """Size of the shots of a batch."""
    from yolodata import _native

    return count * int(_native.SHOT_BYTES)


class DeviceWork(Work):
    """A batch whose pictures and labels end up on the device.

    Subclasses say in `_begin` when what they need is there, and in `_pictures` how it becomes
    pictures.
    """

    def __init__(self, workshop: DeviceWorkshop, count: int) -> None:
        self._workshop = workshop
        self._count = count
        self._memory: torch.Tensor | None = None  # page-locked: shots, then labels
        self._labels: DeviceLabels | None = None
        self._mark: Mark | None = None

    def start(self) -> None:
        """Enqueue the batch if nothing is missing; never waits for pictures."""
        if self._mark is None and self._begin(False):
            self._enqueue()

    def wait(self) -> None:
        """Enqueue the batch, and let the consumer's stream wait for it."""
        if self._mark is None:
            self._begin(True)
            self._enqueue()
        assert self._mark is not None
        assert self._labels is not None
        self._mark.hand_over([self.image, self._labels.memory])

    def _begin(self, wait: bool) -> bool:
        """Whether everything needed is there; with `wait`, make it so."""
        raise NotImplementedError

    def _pictures(self, shots: torch.Tensor) -> torch.Tensor:
        """Enqueue what makes the pictures; `shots` is the beginning of what was uploaded."""
        raise NotImplementedError

    def _host_labels(self) -> Labels:
        raise NotImplementedError

    def _shot_bytes(self) -> int:
        """Bytes of shots and masks, which come first in the memory that is uploaded."""
        return 0

    def _move_masks(self, memory: torch.Tensor, address: int) -> None:
        """Put the masks behind the shots in `memory`, which will be read at `address`."""

    def _enqueue(self) -> None:
        workshop = self._workshop
        queue, staging = workshop.queue, workshop.staging
        labels = self._host_labels()
        shots = self._shot_bytes()
        places, end = {}, _aligned(shots)
        for name, values in labels.items():
            places[name] = (end, values.shape, str(values.dtype))
            end = _aligned(end + values.nbytes)
        memory, self._memory = self._memory, None
        if memory is None or memory.numel() < end:
            larger = staging.take(end + end // 4)
            if memory is not None:
                kept = min(shots, memory.numel())
                larger[:kept] = memory[:kept]
                staging.give(memory, None)
            memory = larger
        uploaded = queue.memory(end)
        if shots:
            self._move_masks(memory[:shots], uploaded.data_ptr())
        for name, values in labels.items():
            at = places[name][0]
            target = memory[at : at + values.nbytes].numpy().view(values.dtype)
            np.copyto(target, values.ravel())
        queue.copy(memory[:end], uploaded)
        self._labels = DeviceLabels(uploaded, places)
        self.image = self._pictures(uploaded[:shots])
        self._mark = queue.mark()
        staging.give(memory, self._mark)

    def labels(self) -> dict[str, torch.Tensor]:
        """See `Work.labels`; on the device."""
        assert self._labels is not None
        return self._labels.views()

    def abandon(self) -> None:
        """Give back what was lent, for a batch that was dropped and is `done`."""
        if self._memory is not None:
            self._workshop.staging.give(self._memory, None)
            self._memory = None


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class DeviceLabels:
    """Labels of a batch in the memory that was uploaded: where each is, its shape and dtype."""

    memory: torch.Tensor
    places: dict[str, tuple[int, tuple[int, ...], str]]

    def views(self) -> dict[str, torch.Tensor]:
        """Tensors by name."""
        import torch

        found = {}
        for name, (at, shape, dtype) in self.places.items():
            kind: torch.dtype = getattr(torch, dtype)
            nbytes = kind.itemsize * math.prod(shape)
            found[name] = self.memory[at : at + nbytes].view(kind).view(shape)
        return found


class _Rendered(DeviceWork):
    """The device renders, from pictures that are there or are being decoded."""

    def __init__(
        self,
        workshop: DeviceWorkshop,
        plan: _native.Job,
        shape: tuple[int, int, int, int],
        age: int,
        memory: torch.Tensor | None,
    ) -> None:
        super().__init__(workshop, shape[0])
        self._plan, self._shape, self._age = plan, shape, age
        self._memory = memory  # given: the plan writes the shots into it
        self._planned_shots = memory is not None
        self._lease: Lease | None = None
        self._ready = threading.Event()

    def _shot_bytes(self) -> int:
        return shot_bytes(self._count) + self._plan.mask_bytes()

    def _move_masks(self, memory: torch.Tensor, address: int) -> None:
        self._plan.move_masks(memory.numpy(), address)

    def _begin(self, wait: bool) -> bool:
        if self._planned_shots:
            if wait:
                wait_for(self._plan)
            return self._plan.done()
        if self._lease is None:
            wait_for(self._plan)  # short; reading begins with it
            self._workshop.pictures.ask(self._acquire)
        if not wait:
            return self._ready.is_set()
        while not self._ready.wait(0.2):  # looks at signals (Ctrl-C) in between
            pass
        return True

    def _acquire(self) -> None:
        if self._lease is None:
            self._lease = self._workshop.pictures.acquire(
                self._plan.image_ids(),
                lambda lease: self._ready.set(),
                age=self._age,
                bases=frozenset(self._plan.first_image_ids().tolist()),
            )

    def _pictures(self, shots: torch.Tensor) -> torch.Tensor:
        return self._workshop.queue.render(shots, self._shape, self._workshop.output)

    def _enqueue(self) -> None:
        workshop = self._workshop
        wait_for(self._plan)  # raises what went wrong
        if self._lease is not None:
            if self._lease.error is not None:
                raise self._lease.error
            self.bad = frozenset(self._lease.bad)
            size = shot_bytes(self._count)
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
        return self._plan.first_image_ids()

    def seconds(self) -> dict[str, float]:
        return self._plan.seconds()

    def cancel(self) -> None:
        self._plan.cancel()

    def done(self) -> bool:
        return self._plan.done() and (self._lease is None or self._ready.is_set())

    def abandon(self) -> None:
        """See `DeviceWork`."""
        super().abandon()
        lease, self._lease = self._lease, None
        if lease is not None:
            self._workshop.pictures.release(lease)


class _Uploaded(DeviceWork):
    """CPU threads render; the device gets the pictures."""

    def __init__(self, workshop: DeviceWorkshop, work: Work, count: int) -> None:
        super().__init__(workshop, count)
        self._work = work

    def _begin(self, wait: bool) -> bool:
        if wait:
            self._work.wait()
            return True
        self._work.start()
        return self._work.done()

    def _enqueue(self) -> None:
        self._work.wait()
        self.bad = self._work.bad
        super()._enqueue()

    def _pictures(self, shots: torch.Tensor) -> torch.Tensor:
        queue, output = self._workshop.queue, self._workshop.output
        host = self._work.image
        device = queue.memory(host.numel())
        queue.copy(host.view(-1), device)
        return queue.scale(device.view(host.shape), output)

    def _host_labels(self) -> Labels:
        labels: Labels = self._work.labels()
        return labels

    def first_images(self) -> npt.NDArray[np.int64]:
        return self._work.first_images()

    def seconds(self) -> dict[str, float]:
        return self._work.seconds()

    def cancel(self) -> None:
        self._work.cancel()

    def done(self) -> bool:
        return self._work.done()


class DeviceWorkshop:
    """The threads, the queue and the memory of a loader that delivers on a device.

    Args:
        selection: the images and objects that take part.
        queue: of the device.
        output: what pictures are made as.
        threads: native threads.
        telemetry: counts what reading costs.
        resident: pictures that are there already.
        load: how pictures are brought to the device when they are needed.
        host_load: how CPU threads that render read pictures (see `Workshop`).

    Of `resident` and `load`, at most one is given; without both, CPU threads render.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        queue: Queue,
        output: Output,
        threads: int,
        telemetry: Telemetry,
        resident: Resident | None = None,
        load: BatchLoad | None = None,
        host_load: Load | None = None,
    ) -> None:
        from yolodata import _native

        self.selection, self.queue, self.output = selection, queue, output
        self.staging = Staging(queue)
        self.resident = resident
        self.resident_bad = frozenset(resident.bad) if resident is not None else frozenset()
        self._load = Pictures(load, telemetry) if load is not None else None
        self._inner: Workshop | None = None
        self._native: _native.Engine | None = None
        if resident is None and load is None:
            self._inner = Workshop(
                selection,
                threads=threads,
                pin_memory=queue.device.type == "cuda",
                load=host_load,
                telemetry=telemetry,
            )
        else:
            self._native = _native.Engine(threads)
        self._lent: list[tuple[Lease, Mark]] = []
        self._dropped: list[DeviceWork] = []
        self._closed = False

    @property
    def engine(self) -> _native.Engine:
        """Threads that plan."""
        assert self._native is not None
        return self._native

    @property
    def pictures(self) -> Pictures:
        """Source pictures, where they are decoded when needed."""
        assert self._load is not None
        return self._load

    @property
    def bad(self) -> dict[int, str]:
        """Images that cannot be read, and why."""
        if self.resident is not None:
            return self.resident.bad
        if self._inner is not None:
            return self._inner.bad
        return self.pictures.bad

    def planned(
        self,
        config: dict[str, Any],
        seed: int,
        epoch: int,
        positions: npt.NDArray[np.int64],
        age: int,
    ) -> DeviceWork:
        """Work augmented pictures of `config["imgsz"]` for positions (B,) of an epoch."""
        self._sweep()
        count, size = len(positions), int(config["imgsz"])
        work: DeviceWork
        if self._inner is not None:
            inner = self._inner.planned(config, seed, epoch, positions, age)
            work = _Uploaded(self, inner, count)
        else:
            index, memory = self.selection.index(), None
            shape = (count, 3, size, size)
            if self.resident is None:
                plan = self.engine.submit_plan(index, config, seed, epoch, positions)
            else:
                memory = self.batch_memory(count)
                plan = self.engine.submit(
                    index, config, seed, epoch, positions, memory[: shot_bytes(count)].numpy(),
                    self.resident.shard, self.resident.offset, self.resident.base,
                )  # fmt: skip
            work = _Rendered(self, plan, shape, age, memory)
        return work

    def batch_memory(self, count: int) -> torch.Tensor:
        """Page-locked memory for the shots of a batch and, most likely, its labels."""
        return self.staging.take(shot_bytes(count) + count * _LIKELY_OBJECTS * _OBJECT)

    def lend(self, lease: Lease, mark: Mark) -> None:
        """Keep pictures until the device has read them."""
        self._lent.append((lease, mark))

    def drop(self, work: Work) -> None:
        """Forget a batch; its memory is kept until threads and device are through with it."""
        assert isinstance(work, DeviceWork)
        work.cancel()
        self._dropped.append(work)
        self._sweep()

    def _sweep(self) -> None:
        for work in [work for work in self._dropped if work.done()]:
            self._dropped.remove(work)
            work.abandon()
        reading = []
        for lease, mark in self._lent:
            if mark.done():
                self.pictures.release(lease)
            else:
                reading.append((lease, mark))
        self._lent = reading

    def close(self) -> None:
        """Stop everything, wait for what is running, and free the memory. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._load is not None:
            self._load.close()
        for engine in (self._inner, self._native):
            if engine is not None:
                engine.close()
        self.queue.mark().wait()  # the device may be reading pictures and shots
        if self._load is not None:
            self._load.forget()
        self._lent.clear()
        self._dropped.clear()
        if self.resident is not None:
            self.resident.close()
