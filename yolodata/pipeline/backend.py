"""What makes a loader's batches: CPU threads, or a GPU. Nothing here knows epochs or ranks.

A `Backend` belongs to one loader. It owns its native threads, its memory and its decoded images. A
`PendingBatch` is one batch that is being planned, read and rendered there in the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.albumentations.pool import TransformPool
from yolodata.pipeline.image_cache import ImageSource
from yolodata.pipeline.image_reader import image_source
from yolodata.pipeline.options import DeviceOptions
from yolodata.pipeline.samples import LabelsOf
from yolodata.pipeline.subset import Subset
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata import _native


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
        """Returns thread-seconds of "plan", "render" and, where there is any, "transform"."""


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
        config: dict[str, Any],
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

    @property
    def capacity(self) -> int:
        """Decoded images that are kept where they are decoded when needed."""
        return min(self.subset.images, (self.window or 1024) + self.in_flight)

    def transform_pool(self, on_device: bool = False) -> TransformPool | None:
        """Returns who applies the transforms; on a device, those that it cannot apply."""
        if self.transforms is None:
            return None
        return TransformPool(self.transforms, self.threads, self.telemetry, on_device)

    def image_source(self) -> ImageSource | None:
        """Returns how CPU threads read images."""
        return image_source(
            self.subset,
            threads=self.threads,
            check=self.check,
            window=self.window,
            in_flight=self.in_flight,
            always=self.transforms is not None,
            shrink=self.shrink,
        )
