"""The threads, the queue and the memory of a loader on a device: the counterpart of `Workshop`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.dali import release_unused_memory
from yolodata.pipeline.detour import Detour, Detours
from yolodata.pipeline.device import Mark, Output, Queue, Staging
from yolodata.pipeline.device_work import DeviceWork, Rendered, Uploaded, render_task_bytes
from yolodata.pipeline.filtering import Filtering
from yolodata.pipeline.pixels import BatchLoad, Lease, Load, Pictures
from yolodata.pipeline.retouch import Bytes, Retoucher, seeds
from yolodata.pipeline.selection import Selection
from yolodata.pipeline.tiers import Resident
from yolodata.pipeline.work import Work, Workshop
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata import _native

_OBJECT = 4 * (1 + 4 + 1)  # bytes of labels of one object, without keypoints and masks
_LIKELY_OBJECTS = 64  # of a picture; more only cost a larger piece of memory


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
        hw_decoder_load: share of JPEG files that the GPU's engine decodes; None without DALI.
        host_load: how CPU threads that render read pictures (see `Workshop`).
        retoucher: what is done to some pictures between their warp and their colours.

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
        hw_decoder_load: float | None = None,
        retoucher: Retoucher | None = None,
    ) -> None:
        from yolodata import _native

        self.selection, self.queue, self.output = selection, queue, output
        self.staging = Staging(queue)
        self.hw_decoder_load = hw_decoder_load
        self.resident = resident
        self.resident_bad = frozenset(resident.bad) if resident is not None else frozenset()
        self._load = Pictures(load, telemetry) if load is not None else None
        self._inner: Workshop | None = None
        self._native: _native.Engine | None = None
        self._retoucher = retoucher
        self._detours: Detours | None = None
        self._filtering: Filtering | None = None
        if resident is None and load is None:
            self._inner = Workshop(
                selection,
                threads=threads,
                pin_memory=False,
                allocate=lambda nbytes: queue.pinned(nbytes).numpy(),
                load=host_load,
                telemetry=telemetry,
                retoucher=retoucher,
            )
        else:
            self._native = _native.Engine(threads)
            if retoucher is not None:
                self._detours = Detours(retoucher, queue, output, telemetry)
                self._filtering = Filtering(queue, output, telemetry)
        self._lent: list[tuple[Lease, Mark]] = []
        self._uploading: list[tuple[torch.Tensor, Mark]] = []
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
        config: _native.PlanConfig,
        seed: int,
        epoch: int,
        positions: npt.NDArray[np.int64],
        age: int,
    ) -> DeviceWork:
        """Work augmented pictures of `config.imgsz` for positions (B,) of an epoch."""
        self._sweep()
        count, size = len(positions), config.imgsz
        work: DeviceWork
        if self._inner is not None:
            inner = self._inner.planned(config, seed, epoch, positions, age)
            work = Uploaded(self, inner, count)
        else:
            index, memory = self.selection.index(), None
            shape = (count, 3, size, size)
            if self.resident is None:
                plan = self.engine.submit_plan(index, config, seed, epoch, positions)
            else:
                memory = self.batch_memory(count)
                render_tasks = memory[: render_task_bytes(count)].numpy()
                plan = self.engine.submit(
                    index, config, seed, epoch, positions, render_tasks,
                    self.resident.shard, self.resident.offset, self.resident.base,
                )  # fmt: skip
            drawn = seeds(seed, epoch, positions) if self._retoucher is not None else ()
            work = Rendered(self, plan, shape, age, memory, drawn)
        return work

    def change(
        self,
        render_tasks: Bytes,
        uploaded: torch.Tensor,
        seeds: Sequence[int],
        pictures: torch.Tensor,
    ) -> Detour | None:
        """Enqueue what transforms change in a batch that is being rendered.

        Args:
            render_tasks: of the batch, uint8 (B * RENDER_TASK_BYTES,) in host memory.
            uploaded: the same on the device, with the masks that they point to.
            seeds: B numbers that the transforms draw from.
            pictures: where the batch is being rendered to, (B, 3, H, W).

        Returns:
            samples that go to the CPU and back, if there are any.

        Raises:
            torch.OutOfMemoryError: the device has no memory for it.
        """
        if self._retoucher is None or self._detours is None or self._filtering is None:
            return None
        found = self._retoucher.firing(seeds)
        here = {at: filters for at, filters in found.items() if filters is not None}
        away = {at: seeds[at] for at, filters in found.items() if filters is None}
        if here:
            self._filtering.enqueue(render_tasks, here, pictures)
        return self._detours.begin(render_tasks, uploaded, away, pictures) if away else None

    def make_room(self) -> None:
        """Free what nobody uses any more; waits for the device."""
        self.queue.mark().wait()
        self._sweep()
        self.queue.make_room()

    def batch_memory(self, count: int) -> torch.Tensor:
        """Page-locked memory for the render tasks of a batch and, most likely, its labels."""
        return self.staging.take(render_task_bytes(count) + count * _LIKELY_OBJECTS * _OBJECT)

    def lend(self, lease: Lease, mark: Mark) -> None:
        """Keep pictures until the device has read them."""
        self._lent.append((lease, mark))

    def keep(self, memory: torch.Tensor, mark: Mark) -> None:
        """Keep page-locked memory until the device has read it."""
        self._uploading.append((memory, mark))

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
        self._uploading = [(memory, mark) for memory, mark in self._uploading if not mark.done()]
        reading = []
        for lease, mark in self._lent:
            if mark.done():
                self.pictures.release(lease)
            else:
                reading.append((lease, mark))
        self._lent = reading
        if self._detours is not None:
            self._detours.sweep()

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
        if self._detours is not None:
            self._detours.close()
        self.queue.mark().wait()  # the device may be reading pictures and render tasks
        if self._load is not None:
            self._load.forget()
        if self._detours is not None:
            self._detours.forget()
        if self._filtering is not None:
            self._filtering.forget()
        self._lent.clear()
        self._uploading.clear()
        self._dropped.clear()
        self.staging.clear()
        release_unused_memory()
        if self.resident is not None:
            self.resident.close()
