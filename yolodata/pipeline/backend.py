"""What makes a loader's batches: CPU threads, or a GPU. Nothing here knows epochs or ranks.

A `Backend` belongs to one loader. It owns its native threads, its memory and its decoded images. A
`PendingBatch` is one batch that is being planned, read and rendered there in the background. Its
`Samples` are what it shows. A `Job` is what goes on for it, in native threads or in others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.albumentations.pool import TransformPool
from yolodata.pipeline.image_cache import ImageSource
from yolodata.pipeline.image_reader import image_source
from yolodata.pipeline.options import DeviceOptions
from yolodata.pipeline.subset import Subset
from yolodata.pipeline.unreadable import labels_without
from yolodata.telemetry import Telemetry
from yolodata.topology import Pinning

if TYPE_CHECKING:
    import torch

    from yolodata import _native

Bytes = npt.NDArray[np.uint8]
LabelsOf = Callable[[frozenset[int]], Mapping[str, npt.NDArray[Any]]]
"""Labels of a batch, given its images that cannot be read."""

TICK = 0.2  # seconds between looks at signals (Ctrl-C) while other threads are waited for


class PendingBatch(Protocol):
    """A batch in the making.

    Attributes:
        image: tensor (B, 3, H, W); filled once `wait` has returned.
        unreadable: images of the batch that cannot be read; they are rendered grey.
    """

    @property
    def image(self) -> torch.Tensor:
        """Pictures."""

    @property
    def unreadable(self) -> frozenset[int]:
        """Images."""

    def start(self) -> None:
        """Begins reading, where that was put off; waits for the plan, which is short."""

    def wait(self) -> None:
        """Blocks until the batch can be used; raises what went wrong in the background."""

    def ready(self) -> bool:
        """Returns whether the batch can be collated; raises what went wrong in the background."""

    def done(self) -> bool:
        """Returns whether native threads are through with the memory of the batch."""

    def cancel(self) -> None:
        """Drops what has not begun."""

    def release(self) -> None:
        """Gives back what was lent to a batch that was discarded and is `done`."""

    def first_images(self) -> npt.NDArray[np.int64]:
        """Returns the dataset index (B,) of the image that each picture was made around."""

    def labels(self) -> Mapping[str, Any]:
        """Returns labels as `yolodata.pipeline.batch.assemble` takes them: arrays or tensors."""

    def seconds(self) -> dict[str, float]:
        """Returns thread-seconds of "plan", "render" and, where there are any, other stages."""


class Backend(Protocol):
    """Makes batches.

    Attributes:
        cache: where decoded images are.
        cache_reason: why there; "" where there is no choice.
        hw_decoder_load: share of JPEG files that a GPU's engine decodes; None where none does.
        unreadable: images that cannot be read, and why.
    """

    cache: str
    cache_reason: str
    hw_decoder_load: float | None

    @property
    def unreadable(self) -> dict[int, str]:
        """Images."""

    def submit(
        self,
        config: _native.PlanConfig,
        seed: int,
        epoch: int,
        positions: npt.NDArray[np.int64],
        age: int,
    ) -> PendingBatch:
        """Begins a batch of augmented pictures.

        Args:
            config: settings of the planner.
            seed, epoch: of the stream.
            positions: (B,) of the epoch.
            age: place of the batch in the stream; larger is younger.
        """

    def submit_recipes(
        self,
        recipes: Sequence[_native.Recipe],
        images: npt.NDArray[np.int64],
        labels: LabelsOf,
        age: int,
    ) -> PendingBatch:
        """Begins a batch of given recipes, all of one size.

        Args:
            recipes: one for each picture.
            images: dataset index (B,) of the only image that each picture shows.
            labels: makes the labels.
            age: place of the batch in the stream; larger is younger.
        """

    def discard(self, batch: PendingBatch) -> None:
        """Forgets a batch; its memory is kept until all who use it are through with it."""

    def close(self) -> None:
        """Stops everything, waits for what is running, frees the memory. May be called twice."""


@dataclass(frozen=True)
class BackendSpec:
    """What a loader wants of its backend.

    Attributes:
        subset: the images and objects that take part.
        device: where batches are made, and as what.
        threads: native threads.
        check: compare samples with their checksums.
        window: images that may be asked for again, 0 for any image of the dataset.
        in_flight: images of the batches being prepared.
        telemetry: counts what reading costs.
        transforms: from `yolodata.pipeline.albumentations.transforms.composed`; None for none.
        shrink: (height, width) of images that are to be made smaller before they are used.
        pinning: where the threads run.
    """

    subset: Subset
    device: DeviceOptions
    threads: int
    check: bool
    window: int
    in_flight: int
    telemetry: Telemetry
    transforms: Any = None
    shrink: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    pinning: Pinning = field(default_factory=Pinning)

    @property
    def capacity(self) -> int:
        """Decoded images that are kept where they are decoded when needed."""
        return min(self.subset.images, (self.window or 1024) + self.in_flight)

    def transform_pool(self, on_device: bool = False) -> TransformPool | None:
        """Returns who applies the transforms; on a device, those that it cannot apply."""
        if self.transforms is None:
            return None
        begin = self.pinning.initializer()
        return TransformPool(self.transforms, self.threads, self.telemetry, on_device, begin)

    def image_source(self) -> ImageSource | None:
        """Returns how CPU threads read images."""
        return image_source(
            self.subset,
            threads=self.threads,
            check=self.check,
            window=self.window,
            in_flight=self.in_flight,
            telemetry=self.telemetry,
            always=self.transforms is not None,
            shrink=self.shrink,
            begin=self.pinning.initializer(),
        )


class Samples(Protocol):
    """What a batch shows."""

    def renderable(self) -> _native.Job | Sequence[_native.Recipe]:
        """Returns what the native renderer takes; waits for the plan."""

    def recipes(self) -> Sequence[_native.Recipe]:
        """Returns the recipes, in order; waits for the plan."""

    def images(self) -> npt.NDArray[np.int64]:
        """Returns the images that are shown (U,), sorted, unique; waits for the plan."""

    def bases(self) -> frozenset[int]:
        """Returns the images whose turn it is in the epoch."""

    def first_images(self) -> npt.NDArray[np.int64]:
        """Returns the dataset index (B,) of the image that each picture was made around."""

    def labels(self, unreadable: frozenset[int]) -> Mapping[str, npt.NDArray[Any]]:
        """Returns the labels, as if the images in `unreadable` had no objects."""

    def planned(self) -> bool:
        """Returns whether the plan is there."""

    def jobs(self) -> list[Job]:
        """Returns the jobs that plan."""

    def mask_bytes(self) -> int:
        """Returns bytes of the masks of what is pasted, for a device."""

    def move_masks(self, memory: Bytes, address: int) -> None:
        """Puts the masks behind the render tasks in `memory`, which is read at `address`."""


class PlannedSamples:
    """`Samples` that a native job plans."""

    def __init__(self, job: _native.Job, subset: Subset) -> None:
        self._job, self._subset = job, subset

    def renderable(self) -> _native.Job:
        """See `Samples`."""
        wait_for(self._job)
        return self._job

    def recipes(self) -> Sequence[_native.Recipe]:
        """See `Samples`."""
        wait_for(self._job)
        return self._job.recipes()

    def images(self) -> npt.NDArray[np.int64]:
        """See `Samples`."""
        wait_for(self._job)
        return self._job.image_ids()

    def bases(self) -> frozenset[int]:
        """See `Samples`."""
        return frozenset(self._job.first_image_ids().tolist())

    def first_images(self) -> npt.NDArray[np.int64]:
        """See `Samples`."""
        return self._job.first_image_ids()

    def labels(self, unreadable: frozenset[int]) -> Mapping[str, npt.NDArray[Any]]:
        """See `Samples`."""
        if not unreadable:
            return self._job.labels()
        return labels_without(self._subset, self._job.recipes(), unreadable)

    def planned(self) -> bool:
        """See `Samples`."""
        return self._job.done()

    def jobs(self) -> list[Job]:
        """See `Samples`."""
        return [self._job]

    def mask_bytes(self) -> int:
        """See `Samples`."""
        return self._job.mask_bytes()

    def move_masks(self, memory: Bytes, address: int) -> None:
        """See `Samples`."""
        self._job.move_masks(memory, address)


class GivenSamples:
    """`Samples` whose recipes are given; nothing is pasted in them.

    Args:
        recipes: one for each picture.
        images: dataset index (B,) of the only image that each picture shows.
        labels: makes the labels.
    """

    def __init__(
        self,
        recipes: Sequence[_native.Recipe],
        images: npt.NDArray[np.int64],
        labels: LabelsOf,
    ) -> None:
        self._recipes, self._first = recipes, images
        self.labels = labels

    def renderable(self) -> Sequence[_native.Recipe]:
        """See `Samples`."""
        return self._recipes

    def recipes(self) -> Sequence[_native.Recipe]:
        """See `Samples`."""
        return self._recipes

    def images(self) -> npt.NDArray[np.int64]:
        """See `Samples`."""
        return np.unique(self._first)

    def bases(self) -> frozenset[int]:
        """See `Samples`."""
        return frozenset()

    def first_images(self) -> npt.NDArray[np.int64]:
        """See `Samples`."""
        return self._first

    def planned(self) -> bool:
        """See `Samples`."""
        return True

    def jobs(self) -> list[Job]:
        """See `Samples`."""
        return []

    def mask_bytes(self) -> int:
        """See `Samples`."""
        return 0

    def move_masks(self, memory: Bytes, address: int) -> None:
        """See `Samples`."""


class Waitable(Protocol):
    """Something that will be done."""

    def wait(self, timeout: float | None = None) -> bool:
        """Returns whether all is done after `timeout` seconds; raises what went wrong."""


class Job(Waitable, Protocol):
    """A native job, or what is used like one."""

    def done(self) -> bool:
        """Returns whether nothing goes on any more."""

    def cancel(self) -> None:
        """Drops what has not begun."""

    def seconds(self) -> dict[str, float]:
        """Returns thread-seconds by stage."""


class JobGroup:
    """Several jobs as one."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    def wait(self, timeout: float | None = None) -> bool:
        """See `Job`."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        for job in self._jobs:
            left = end - time.monotonic()
            if not job.wait(None if math.isinf(left) else max(0.0, left)):
                return False
        return True

    def done(self) -> bool:
        """See `Job`."""
        return all(job.done() for job in self._jobs)

    def cancel(self) -> None:
        """See `Job`."""
        for job in self._jobs:
            job.cancel()

    def seconds(self) -> dict[str, float]:
        """See `Job`."""
        return total_seconds(self._jobs)


def total_seconds(jobs: Iterable[Job]) -> dict[str, float]:
    """Returns thread-seconds by stage of several jobs."""
    total: dict[str, float] = {}
    for job in jobs:
        for stage, seconds in job.seconds().items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def wait_for(job: Waitable) -> None:
    """Blocks until a job is done; raises what went wrong in it."""
    while not job.wait(TICK):
        pass
