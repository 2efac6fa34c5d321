"""Which images and objects of a shard dataset take part, and what upstream's trainer looks up.

Ultralytics narrows a dataset while building it (`fraction`, `classes`, `single_cls`, all polygons
or none) and its trainer reads `dataset.labels` and `dataset.im_files` back. Here the columns are
narrowed once, without copies where nothing changes, and those attributes are lazy views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError

if TYPE_CHECKING:
    from yolodata import _native
    from yolodata.shards.reader import ShardDataset

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
UInt32 = npt.NDArray[np.uint32]


class Selection:
    """The first images of a dataset and, of their objects, those of the wanted classes.

    Columns are laid out like the dataset's (see docs/shard-format.md): `height`, `width`
    (pixels of the picture at `imgsz`), `object_offset`, `cls` (M,) float32, `box` (M, 4) float32
    centre x, centre y, width, height in 0-1, and `polygon_offset`, `polygon`, or None.

    Polygons are kept only when every object of the selected images has one, before classes are
    filtered: like upstream, a mixed dataset is treated as boxes.

    Args:
        shards: an open dataset directory.
        imgsz: longer side of the pictures; None takes the dataset's own. Only original JPEG files
            can be read at another size than they were packed for.
        fraction: share of the images (float up to 1.0), or how many (int above 1); the first ones.
        classes: class numbers whose objects are kept; images without any stay, as background.
        single_cls: turn every class into 0.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        shards: ShardDataset,
        *,
        imgsz: int | None = None,
        fraction: float | int = 1.0,
        classes: Sequence[int] | None = None,
        single_cls: bool = False,
    ) -> None:
        self.shards = shards
        self.imgsz = shards.meta.imgsz if imgsz is None else imgsz
        self.images = _image_count(len(shards), fraction)
        self.height, self.width = self._sizes()
        images = self.images
        objects = int(shards.object_offset[images])
        self.object_offset: UInt64 = shards.object_offset[: images + 1]
        self.cls: Float32 = shards.cls[:objects]
        self.box: Float32 = shards.box[:objects]
        self.polygon_offset: UInt64 | None = None
        self.polygon: Float32 | None = None
        offsets = shards.polygon_offset[: objects + 1]
        if objects and bool((offsets[1:] > offsets[:-1]).all()):
            self.polygon_offset = offsets
            self.polygon = shards.polygon[: int(offsets[-1])]
        if classes is not None:
            self._keep_classes(classes)
        if single_cls:
            self.cls = np.zeros_like(self.cls)
        self._index: _native.Index | None = None

    def _sizes(self) -> tuple[UInt32, UInt32]:
        shards, images = self.shards, self.images
        if self.imgsz == shards.meta.imgsz:
            return shards.height[:images], shards.width[:images]
        if shards.meta.codec != "jpeg":
            raise ConfigError(
                f"imgsz={self.imgsz} was asked for, but the {shards.meta.codec} shards in "
                f"{shards.path} hold pictures of imgsz={shards.meta.imgsz}; use that size, or pack "
                f"again with --imgsz {self.imgsz} (original JPEG shards serve any size)"
            )
        return fitted_size(shards.orig_height[:images], shards.orig_width[:images], self.imgsz)

    def _keep_classes(self, classes: Sequence[int]) -> None:
        wanted = [int(c) for c in classes]
        names = self.shards.meta.names
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise ConfigError(
                f"classes={list(classes)} names {unknown}, which the dataset does not have; it has "
                f"0 to {max(names, default=-1)}"
            )
        keep = np.isin(self.cls, np.asarray(wanted, dtype=np.float32))
        if keep.all():
            return
        before = np.concatenate(([0], np.cumsum(keep, dtype=np.uint64))).astype(np.uint64)
        self.object_offset = before[self.object_offset.astype(np.int64)]
        if self.polygon_offset is not None and self.polygon is not None:
            lengths = np.diff(self.polygon_offset).astype(np.int64)
            self.polygon = self.polygon[np.repeat(keep, lengths)]
            self.polygon_offset = np.concatenate(([0], np.cumsum(lengths[keep]))).astype(np.uint64)
        self.cls, self.box = self.cls[keep], self.box[keep]

    def index(self) -> _native.Index:
        """The label table as the native planner reads it."""
        if self._index is None:
            from yolodata import _native

            self._index = _native.Index(
                self.height,
                self.width,
                self.object_offset,
                self.cls,
                self.box,
                self.polygon_offset,
                self.polygon,
            )
        return self._index

    def objects(self, image: int) -> slice:
        """The rows of `cls` and `box` that belong to an image."""
        return slice(int(self.object_offset[image]), int(self.object_offset[image + 1]))

    def excerpt(self, images: Sequence[int], emptied: frozenset[int]) -> _native.Index:
        """A label table of a few images, numbered from 0; those in `emptied` have no objects."""
        from yolodata import _native

        rows = [
            np.zeros(0, np.int64)
            if i in emptied
            else np.arange(self.objects(i).start, self.objects(i).stop, dtype=np.int64)
            for i in images
        ]
        objects = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        offset = np.cumsum([0, *(len(r) for r in rows)]).astype(np.uint64)
        polygon_offset, polygon = None, None
        if self.polygon_offset is not None and self.polygon is not None:
            spans = [
                (int(self.polygon_offset[o]), int(self.polygon_offset[o + 1])) for o in objects
            ]
            polygon_offset = np.cumsum([0, *(b - a for a, b in spans)]).astype(np.uint64)
            points = [self.polygon[a:b] for a, b in spans]
            polygon = np.concatenate(points) if points else np.zeros((0, 2), np.float32)
        ids = np.asarray(images, dtype=np.int64)
        return _native.Index(
            np.ascontiguousarray(self.height[ids]),
            np.ascontiguousarray(self.width[ids]),
            offset,
            np.ascontiguousarray(self.cls[objects]),
            np.ascontiguousarray(self.box[objects]),
            polygon_offset,
            polygon,
        )


def _image_count(images: int, fraction: float | int) -> int:
    """How many images `fraction` stands for: upstream's rule, on the images that were packed."""
    if isinstance(fraction, bool) or not fraction > 0:
        raise ConfigError(
            f"fraction must be a share in (0, 1] or a number of images, got {fraction!r}"
        )
    if images == 0:
        raise ConfigError("the dataset has no images; pack a split that has some")
    if isinstance(fraction, int) and fraction != 1:
        return min(fraction, images)
    if fraction > 1:
        raise ConfigError(
            f"fraction={fraction!r} is above 1; give a share up to 1.0, or a whole number of images"
        )
    return min(max(1, round(images * fraction)), images)


def fitted_size(
    height: npt.NDArray[Any], width: npt.NDArray[Any], imgsz: int
) -> tuple[UInt32, UInt32]:
    """Sizes (N,), (N,) after the longer side became `imgsz`; the shorter side is rounded up."""
    ratio = imgsz / np.maximum(height, width).astype(np.float64)
    sides = [
        np.where(ratio == 1, side, np.minimum(np.ceil(side * ratio), imgsz)).astype(np.uint32)
        for side in (height, width)
    ]
    return sides[0], sides[1]


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
            (k, 2) float32 in 0-1), "keypoints" None, "normalized" True, "bbox_format" "xywh".
        im_files: sequence of the paths that the images were packed from.
        ni: number of images; also `len()`.
        names: class number to name.
        rect, batch_shapes, batch: as upstream's validation dataset has them; batch_shapes is None
            where every batch has the same shape.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        order: Int64 | None = None,
        batch_shapes: Int64 | None = None,
        batch: Int64 | None = None,
        close_mosaic: Callable[[], None] | None = None,
    ) -> None:
        self.selection = selection
        self.ni = selection.images
        self.imgsz = selection.imgsz
        self.names = dict(selection.shards.meta.names)
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
        """Stop mosaic, mixup and cutmix from the next batch on; upstream's trainer calls this."""
        if self._close_mosaic is not None:
            self._close_mosaic()

    def _image(self, i: int) -> int:
        return i if self._order is None else int(self._order[i])

    def _name(self, i: int) -> str:
        return self.selection.shards.name(self._image(i))

    def _label(self, i: int) -> dict[str, Any]:
        selection, image = self.selection, self._image(i)
        rows = selection.objects(image)
        segments: list[Float32] = []
        if selection.polygon_offset is not None and selection.polygon is not None:
            ends = selection.polygon_offset[rows.start : rows.stop + 1].astype(np.int64)
            segments = [
                selection.polygon[a:b].copy() for a, b in zip(ends[:-1], ends[1:], strict=True)
            ]
        shards = selection.shards
        return {
            "im_file": shards.name(image),
            "shape": (int(shards.label_height[image]), int(shards.label_width[image])),
            "cls": selection.cls[rows, None].copy(),
            "bboxes": selection.box[rows].copy(),
            "segments": segments,
            "keypoints": None,
            "normalized": True,
            "bbox_format": "xywh",
        }
