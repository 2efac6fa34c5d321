"""The samples of one batch: planned by a native job, or given as recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.jobs import Job, wait_for
from yolodata.pipeline.subset import Subset
from yolodata.pipeline.unreadable import labels_without

if TYPE_CHECKING:
    from yolodata import _native

Bytes = npt.NDArray[np.uint8]
LabelsOf = Callable[[frozenset[int]], Mapping[str, npt.NDArray[Any]]]
"""Labels of a batch, given its images that cannot be read."""


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
