"""Batches in the making: native jobs, and the pictures that must be read before them.

A `Workshop` belongs to one loader and owns its native threads, output memory and decoded pictures.
A `Work` is one batch that is being planned, read and rendered there in the background. Nothing
here knows about epochs or ranks.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.bad import Labels, labels_without
from yolodata.pipeline.pixels import BatchBuffers, Bytes, Lease, Load, Pictures
from yolodata.pipeline.retouch import Retoucher, seeds
from yolodata.pipeline.selection import Selection
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata import _native

_TICK = 0.2  # seconds between looks at signals (Ctrl-C) while native code is waited for


class Work:
    """A batch on its way.

    Attributes:
        image: uint8 tensor (B, 3, H, W); filled once `wait` has returned.
        bad: images of the batch that cannot be read; they were rendered grey.
    """

    image: torch.Tensor
    bad: frozenset[int] = frozenset()

    def start(self) -> None:
        """Begin reading, where that was put off; waits for the plan, which is short."""

    def wait(self) -> None:
        """Block until the batch is rendered; raises what went wrong in the background."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the batch can be collated already; raises what went wrong in the background."""
        raise NotImplementedError

    def done(self) -> bool:
        """Whether native threads are through with the memory of the batch."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Drop what has not begun."""
        raise NotImplementedError

    def first_images(self) -> npt.NDArray[np.int64]:
        """Dataset index (B,) of the image each picture was made around."""
        raise NotImplementedError

    def labels(self) -> Any:
        """Labels as `yolodata.pipeline.batch.assemble` takes them: arrays, or device tensors."""
        raise NotImplementedError

    def seconds(self) -> dict[str, float]:
        """Thread-seconds of "plan", "render" and, where there is any, "retouch"."""
        return {}


class Waitable(Protocol):
    """What goes on in the background."""

    def wait(self, timeout: float | None = None) -> bool:
        """Whether all is done; raises what went wrong."""


class Pending(Waitable, Protocol):
    """A native job, or what is used like one."""

    def done(self) -> bool:
        """Whether nothing goes on any more."""

    def cancel(self) -> None:
        """Drop what has not begun."""

    def seconds(self) -> dict[str, float]:
        """Thread-seconds by stage."""


class Together:
    """Several of them as one."""

    def __init__(self, jobs: Sequence[Pending]) -> None:
        self._jobs = jobs

    def wait(self, timeout: float | None = None) -> bool:
        """See `Pending`."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        for job in self._jobs:
            left = end - time.monotonic()
            if not job.wait(None if math.isinf(left) else max(0.0, left)):
                return False
        return True

    def done(self) -> bool:
        """See `Pending`."""
        return all(job.done() for job in self._jobs)

    def cancel(self) -> None:
        """See `Pending`."""
        for job in self._jobs:
            job.cancel()

    def seconds(self) -> dict[str, float]:
        """See `Pending`."""
        return _sums(self._jobs)


def _sums(jobs: Iterable[Pending]) -> dict[str, float]:
    total: dict[str, float] = {}
    for job in jobs:
        for stage, seconds in job.seconds().items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def wait_for(job: Waitable) -> None:
    """Block until a job is done; raises what went wrong in it."""
    while not job.wait(_TICK):
        pass


class _Direct(Work):
    """Pixels are in memory already: one native job plans and renders."""

    def __init__(self, job: _native.Job, image: torch.Tensor) -> None:
        self._job = job
        self.image = image

    def wait(self) -> None:
        wait_for(self._job)

    def ready(self) -> bool:
        return self._job.wait(0)

    def done(self) -> bool:
        return self._job.done()

    def cancel(self) -> None:
        self._job.cancel()

    def first_images(self) -> npt.NDArray[np.int64]:
        return self._job.first_image_ids()

    def labels(self) -> Labels:
        return self._job.labels()

    def seconds(self) -> dict[str, float]:
        return self._job.seconds()


class _Read(Work):
    """Plan, then read the pictures of the plan, then render.

    Reading begins with `start`, so that several plans can be waiting while nothing blocks. The
    thread that reads the last picture submits the rendering.
    """

    def __init__(
        self,
        workshop: Workshop,
        image: torch.Tensor,
        age: int,
        plan: _native.Job | None = None,
        recipes: Sequence[_native.Recipe] = (),
        images: npt.NDArray[np.int64] | None = None,
        seeds: Sequence[int] = (),
    ) -> None:
        self.image = image
        self._workshop = workshop
        self._age = age
        self._plan = plan
        self._recipes = recipes
        self._images = images
        self._seeds = seeds
        self._started = False
        self._lease: Lease | None = None
        self._render: Pending | None = None
        self._error: BaseException | None = None
        self._submitted = threading.Event()
        self._dropped = False

    def start(self) -> None:
        if self._started:
            return
        images, bases = self._images, frozenset[int]()
        if images is None:
            plan = self._planned()
            wait_for(plan)
            images = plan.image_ids()
            bases = frozenset(plan.first_image_ids().tolist())
        self._workshop.pictures.ask(lambda: self._acquire(images, bases))

    def _acquire(self, images: npt.NDArray[np.int64], bases: frozenset[int]) -> None:
        if self._started:
            return
        pictures = self._workshop.pictures
        self._lease = pictures.acquire(images, self._ready, age=self._age, bases=bases)
        self._started = True

    def _planned(self) -> _native.Job:
        assert self._plan is not None, "this batch was given as recipes"
        return self._plan

    def _ready(self, lease: Lease) -> None:
        try:
            if not self._dropped:
                self._render = self._workshop.rendered(
                    self._plan or self._recipes, lease, self.image.numpy(), self._seeds
                )
        except BaseException as error:  # surfaces in the consumer
            self._error = error
        finally:
            self._submitted.set()

    def wait(self) -> None:
        self.start()
        while not self._submitted.wait(_TICK):
            pass
        while not self.ready():
            assert self._render is not None
            self._render.wait(_TICK)

    def ready(self) -> bool:
        if not self._submitted.is_set():
            return False
        if self._error is not None:
            raise self._error
        if self._render is not None and not self._render.wait(0):
            return False
        self._release()
        return True

    def done(self) -> bool:
        if not self._started:
            return True
        if not self._submitted.is_set():
            return False
        if self._render is not None and not self._render.done():
            return False
        self._release()
        return True

    def cancel(self) -> None:
        self._dropped = True
        if self._render is not None:
            self._render.cancel()

    def _release(self) -> None:
        lease, self._lease = self._lease, None  # also ends the circle of references
        if lease is not None:
            self.bad = frozenset(lease.bad)
            self._workshop.pictures.release(lease)

    def first_images(self) -> npt.NDArray[np.int64]:
        return self._planned().first_image_ids()

    def labels(self) -> Labels:
        plan = self._planned()
        if not self.bad:
            return plan.labels()
        return labels_without(self._workshop.selection, plan.recipes(), self.bad)

    def seconds(self) -> dict[str, float]:
        return _sums(job for job in (self._plan, self._render) if job is not None)


def _between(some: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Where the numbers below `count` that are not in `some`, which ascend, begin and end."""
    begin = 0
    for number in [*some, count]:
        if begin < number:
            yield begin, number
        begin = number + 1


class Workshop:
    """The threads and the memory of one loader.

    Args:
        selection: the images and objects that take part.
        threads: native threads.
        pin_memory: page-locked output.
        allocate: makes other memory for the output; see `BatchBuffers`.
        load: how pictures are read; None when the shards hold pixels that need no checking.
        telemetry: counts what reading costs.
        retoucher: what is done to pictures that are planned, between their warp and their colours;
            needs `load`.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        threads: int,
        pin_memory: bool,
        load: Load | None,
        telemetry: Telemetry,
        retoucher: Retoucher | None = None,
        allocate: Callable[[int], Bytes] | None = None,
    ) -> None:
        from yolodata import _native

        assert retoucher is None or load is not None
        self._retoucher = retoucher
        self.selection = selection
        self.engine = _native.Engine(threads)
        self._planner = _native.Engine(1) if load is not None else None
        self._buffers = BatchBuffers(2, pin_memory, allocate)
        self._pictures = Pictures(load, telemetry) if load is not None else None
        self._dropped: list[Work] = []
        self._closed = False
        if load is None:
            shards, images = selection.shards, selection.images
            self._maps = [shards.shard_data(s) for s in range(len(shards.meta.shards))]
            self._base = np.array([m.ctypes.data for m in self._maps], dtype=np.uint64)
            self._shard = np.ascontiguousarray(shards.shard[:images])
            self._offset = np.ascontiguousarray(shards.offset[:images])

    @property
    def pictures(self) -> Pictures:
        """Source pictures, where they have to be read."""
        assert self._pictures is not None
        return self._pictures

    @property
    def bad(self) -> dict[int, str]:
        """Images that cannot be read, and why."""
        return self._pictures.bad if self._pictures is not None else {}

    def planned(
        self,
        config: _native.PlanConfig,
        seed: int,
        epoch: int,
        positions: npt.NDArray[np.int64],
        age: int,
    ) -> Work:
        """Work augmented pictures of `config.imgsz` for positions (B,) of an epoch."""
        self._sweep()
        size = config.imgsz
        image = self._buffers.take(len(positions), size, size)
        index = self.selection.index()
        if self._planner is not None:
            plan = self._planner.submit_plan(index, config, seed, epoch, positions)
            drawn = seeds(seed, epoch, positions) if self._retoucher is not None else ()
            return _Read(self, image, age, plan=plan, seeds=drawn)
        job = self.engine.submit(
            index,
            config,
            seed,
            epoch,
            positions,
            image.numpy(),
            self._shard,
            self._offset,
            self._base,
        )
        return _Direct(job, image)

    def fixed(
        self, recipes: Sequence[_native.Recipe], images: npt.NDArray[np.int64], age: int
    ) -> Work:
        """Work pictures of given recipes, which show `images` (sorted, unique)."""
        self._sweep()
        height, width = recipes[0].to_dict()["size"]
        image = self._buffers.take(len(recipes), height, width)
        if self._pictures is not None:
            return _Read(self, image, age, recipes=recipes, images=images)
        pointers = self._base[self._shard[images]] + self._offset[images]
        job = self.engine.submit_render(recipes, images, pointers, image.numpy())
        return _Direct(job, image)

    def rendered(
        self,
        samples: _native.Job | Sequence[_native.Recipe],
        lease: Lease,
        out: Bytes,
        seeds: Sequence[int],
    ) -> Pending:
        """Start rendering pictures into `out`; with `seeds`, some of them are retouched."""
        images, pointers = lease.images, self.pictures.pointers(lease)
        retoucher = self._retoucher if seeds else None
        firing = list(retoucher.firing(seeds)) if retoucher is not None else []
        if retoucher is None or not firing:
            return self.engine.submit_render(samples, images, pointers, out)
        assert not isinstance(samples, Sequence)
        recipes = samples.recipes()
        retouching = retoucher.submit(
            [recipes[i] for i in firing],
            self._by_image(lease),
            [out[i] for i in firing],
            [seeds[i] for i in firing],
        )
        others = [
            self.engine.submit_render(recipes[begin:end], images, pointers, out[begin:end])
            for begin, end in _between(firing, len(recipes))
        ]
        return Together([*others, retouching])

    def _by_image(self, lease: Lease) -> dict[int, Bytes]:
        pictures = {}
        for image, pixels in zip(lease.images.tolist(), self.pictures.pixels(lease), strict=True):
            shape = (int(self.selection.height[image]), int(self.selection.width[image]), 3)
            pictures[image] = pixels[: shape[0] * shape[1] * 3].reshape(shape)
        return pictures

    def drop(self, work: Work) -> None:
        """Forget a batch; its memory is kept until native threads are through with it."""
        work.cancel()
        self._dropped.append(work)
        self._sweep()

    def _sweep(self) -> None:
        self._dropped = [work for work in self._dropped if not work.done()]

    def close(self) -> None:
        """Stop everything and wait for what is running. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._pictures is not None:
            self._pictures.close()
        if self._planner is not None:
            self._planner.close()
        self.engine.close()
        if self._retoucher is not None:
            self._retoucher.close()
        if self._pictures is not None:
            self._pictures.forget()
        self._dropped.clear()
        self._buffers.clear()
