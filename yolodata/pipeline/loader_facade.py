"""What Ultralytics' trainer and validator look up on a loader: `loader.dataset`, `loader.sampler`.

A torch DataLoader has lists there; these are views that make an item when it is asked for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError
from yolodata.pipeline.schedule import Schedule
from yolodata.pipeline.subset import Subset

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class _Lazy(Sequence[Any]):
    """A sequence whose items are made when they are asked for."""

    def __init__(self, length: int, item: Callable[[int], Any]) -> None:
        self._length = length
        self._item = item

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> list[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return [self._item(i) for i in range(*at.indices(self._length))]
        i = at + self._length if at < 0 else at
        if not 0 <= i < self._length:
            raise IndexError(f"index {at} is outside a sequence of {self._length}")
        return self._item(i)

    def __iter__(self) -> Iterator[Any]:
        return map(self._item, range(self._length))


class DatasetView:
    """What Ultralytics reads from `loader.dataset`, without a list of every label in memory.

    Attributes:
        labels: sequence of dicts with "im_file", "shape" (height, width), "cls" (n, 1) float32,
            "bboxes" (n, 4) float32 centre x, centre y, width, height in 0-1, "segments" (list of
            (k, 2) float32 in 0-1), "keypoints" (n, K, 3) or None, "normalized" True,
            "bbox_format" "xywh".
        im_files: sequence of the paths that the images were packed from.
        ni: number of images; also `len()`.
        names: class number to name.
        rect, batch_shapes, batch: as upstream's validation dataset has them; batch_shapes is None
            where every batch has the same shape.
    """

    def __init__(
        self,
        subset: Subset,
        *,
        order: Int64 | None = None,
        batch_shapes: Int64 | None = None,
        batch: Int64 | None = None,
        close_mosaic: Callable[[], None] | None = None,
    ) -> None:
        self.subset = subset
        self.ni = subset.images
        self.imgsz = subset.imgsz
        self.names = dict(subset.shards.meta.names)
        self.rect = batch_shapes is not None
        self.batch_shapes = batch_shapes
        self.batch = batch
        self._order = order
        self._close_mosaic = close_mosaic
        self.labels: Sequence[dict[str, Any]] = _Lazy(self.ni, self._label)
        self.im_files: Sequence[str] = _Lazy(self.ni, self._name)

    def __len__(self) -> int:
        return self.ni

    def close_mosaic(self, hyp: object = None) -> None:
        """Stops mosaic, mixup and cutmix from the next batch on; upstream's trainer calls this."""
        if self._close_mosaic is not None:
            self._close_mosaic()

    def _image(self, i: int) -> int:
        return i if self._order is None else int(self._order[i])

    def _name(self, i: int) -> str:
        return self.subset.shards.name(self._image(i))

    def _label(self, i: int) -> dict[str, Any]:
        subset, image = self.subset, self._image(i)
        rows = subset.objects(image)
        segments: list[Float32] = []
        if subset.polygon_offset is not None and subset.polygon is not None:
            ends = subset.polygon_offset[rows.start : rows.stop + 1].astype(np.int64)
            segments = [subset.polygon[a:b].copy() for a, b in pairwise(ends.tolist())]
        shards, keypoints = subset.shards, subset.keypoints
        return {
            "im_file": shards.name(image),
            "shape": (int(shards.label_height[image]), int(shards.label_width[image])),
            "cls": subset.cls[rows, None].copy(),
            "bboxes": subset.box[rows].copy(),
            "segments": segments,
            "keypoints": None if keypoints is None else keypoints[rows].copy(),
            "normalized": True,
            "bbox_format": "xywh",
        }


class EpochSampler:
    """This rank's share of the epoch that comes next, as `loader.sampler` of a torch DataLoader.

    Args:
        schedule: how positions are dealt out.
        order: dataset indexes of some positions of that epoch.
        set_epoch: chooses the epoch.
    """

    def __init__(
        self,
        schedule: Schedule,
        order: Callable[[Int64], Int64],
        set_epoch: Callable[[int], None],
    ) -> None:
        self._schedule = schedule
        self._order = order
        self._set_epoch = set_epoch

    def __len__(self) -> int:
        return self._schedule.samples

    def __iter__(self) -> Iterator[int]:
        """Yields dataset indexes of the images that this rank's pictures are made around."""
        schedule = self._schedule
        positions = np.arange(schedule.samples, dtype=np.int64) * schedule.world_size
        yield from self._order((positions + schedule.rank) % schedule.images).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that comes next."""
        self._set_epoch(epoch)


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a method that does not keep its object alive: a loader must not own itself."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        bound = reference()
        if bound is None:
            raise ConfigError("the loader this belongs to is gone; keep a reference to the loader")
        return bound(*arguments)

    return call
