"""`yolodata.ValidationLoader`: the batches of Ultralytics' validation loader, bit for bit."""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolodata.checks import flag, number, whole
from yolodata.errors import ConfigError
from yolodata.machine import give_back_memory, usable_threads
from yolodata.pipeline import letterbox
from yolodata.pipeline.backend import Backend, BackendSpec, PendingBatch
from yolodata.pipeline.batch import Batch, assemble, original_shapes
from yolodata.pipeline.config import SIDES
from yolodata.pipeline.fork_safety import finalize
from yolodata.pipeline.letterbox import Placement
from yolodata.pipeline.loader import check_device, open_backend
from yolodata.pipeline.loader_facade import DatasetView
from yolodata.pipeline.misplaced import says_where
from yolodata.pipeline.options import DeviceOptions, LabelOptions, Ranks, ReadOptions
from yolodata.pipeline.owner import NotCopied, Owner
from yolodata.pipeline.pinning import pinning
from yolodata.pipeline.subset import Subset, open_shards
from yolodata.pipeline.unreadable import report_unreadable
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata.shards.reader import ShardDataset

_PREFETCH = 2
_MAX_SIDE = 1 << 15  # pixels of a batch


class ValidationLoader(NotCopied):
    """Every image once, unaugmented, in batches of similar aspect ratio.

    Order, shapes, padding and labels are those of upstream's validation loader. Images are resized
    so that the longer side is `imgsz`, smaller ones too, and sorted by height over width. A batch
    is as small as its images and `pad` allow (a multiple of `stride`). Images are centred in grey
    padding. Each iteration starts from the beginning.

    With several ranks each gets a run of whole batches, the first ones one more where they do not
    divide evenly; then `len()` differs between ranks. Images that fit into one batch are shared
    out among the ranks instead.

    Args:
        shards: a dataset directory, or one opened with `yolodata.open_shards`
            (`shards="coco.shards"`).
        batch_size: pictures per batch and rank; no more than images are taken (`batch_size=16`).
        imgsz: longer side of the pictures; None takes the dataset's (`imgsz=640`).
        stride: sides of a batch are multiples of it; the model's largest stride (`stride=64`).
        pad: added to each side of a batch before it is rounded up, in strides (`pad=0.0`).
        rect: False makes every batch a square of `imgsz`, whatever `stride` and `pad` are, and
            keeps the dataset's order (`rect=False`).
        shape_batch: pictures that have one shape, a multiple of `batch_size`, which None is. With
            `batch_size * world_size`, ranks make the pictures that one process makes in batches of
            this size, to the bit (`shape_batch=64`).
        labels: which images and objects take part, and as what; None is all, to detect
            (`labels=LabelOptions(task="segment")`).
        split: which split to open when `shards` is a folder of splits; None is "val"
            (`split="test"`).
        ranks: this process among those that validate together; None is alone
            (`ranks=Ranks.from_env()`).
        device: "cpu", a CUDA device, or `DeviceOptions`: where batches are made, and as what
            (`device="cuda"`).
        reading: threads, prefetch, checks; None chooses (`reading=ReadOptions(threads=4)`).

    Attributes:
        cache: as for `yolodata.Loader`.
        telemetry: as for `yolodata.Loader`, without "discarded" and "unreadable"; "wait" is until a
            batch is made, and collating it comes after that.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
        ShardError: the dataset is missing or damaged; while iterating: more than `max_unreadable`
            of the images cannot be read.
    """

    drop_last = False
    batch_sampler = None  # as a torch DataLoader may have it; Lightning reads it beside `sampler`

    @says_where
    def __init__(
        self,
        shards: str | Path | ShardDataset,
        batch_size: int,
        *,
        imgsz: int | None = None,
        stride: int = 32,
        pad: float = 0.5,
        rect: bool = True,
        shape_batch: int | None = None,
        labels: LabelOptions | None = None,
        split: str | None = None,
        ranks: Ranks | None = None,
        device: DeviceOptions | str | torch.device = "cpu",
        reading: ReadOptions | None = None,
    ) -> None:
        dataset = open_shards(shards, split, "val")
        self._own_shards = None if dataset is shards else dataset
        ranks, self._reading = ranks or Ranks(), reading or ReadOptions()
        if imgsz is not None:
            imgsz = whole("imgsz", imgsz, *SIDES, " pixels")
        self._subset = subset = Subset(dataset, labels, imgsz=imgsz)
        images = subset.images
        batch_size = whole("batch_size", batch_size, 1)
        shape_batch = batch_size if shape_batch is None else whole("shape_batch", shape_batch, 1)
        if shape_batch % batch_size:
            raise ConfigError(
                f"shape_batch must be a multiple of batch_size={batch_size}, got {shape_batch}"
            )
        self._shape_batch, self.batch_size = min(shape_batch, images), min(batch_size, images)
        stride = whole("stride", stride, 1, SIDES[1], " pixels")
        largest = stride * math.ceil(subset.imgsz / stride + number("pad", pad, 0, _MAX_SIDE))
        if flag("rect", rect) and largest > _MAX_SIDE:
            raise ConfigError(
                f"stride={stride} and pad={pad} make pictures of up to {largest} pixels a side for "
                f"imgsz={subset.imgsz}, at most {_MAX_SIDE} are made; use smaller ones, such as "
                "stride=32 and pad=0.5"
            )
        self.num_workers = self._reading.threads or usable_threads(ranks.world_size)
        self._prefetch = self._reading.prefetch or _PREFETCH
        self._device = DeviceOptions.of(device)
        check_device(self._device)
        self._ranks = ranks
        self.cache = self._device.cache

        order = np.arange(images, dtype=np.int64)
        self._shapes: Sequence[Sequence[Any]]
        if rect:
            height, width = dataset.label_height[:images], dataset.label_width[:images]
            order = letterbox.aspect_order(height, width)
            shapes = letterbox.batch_shapes(
                height[order], width[order], self._shape_batch, subset.imgsz, stride, pad
            )
            self._shapes = shapes  # type: ignore[assignment]
            self.dataset = DatasetView(
                subset,
                order=order,
                batch_shapes=shapes,
                batch=np.arange(images) // self._shape_batch,
            )
        else:
            self._shapes = [(subset.imgsz,) * 2] * math.ceil(images / self._shape_batch)
            self.dataset = DatasetView(subset)
        self._order = order
        self._first, self._last = _contiguous(images, self.batch_size, ranks)
        self.sampler = range(self._first, self._last)
        self._shrunk = self._too_large()
        self._backend: Backend | None = None
        self._close_backend: weakref.finalize[Any, Any] | None = None
        self._closed = False
        self._owner = Owner()
        self._reported: set[int] = set()
        self.telemetry = Telemetry()

    def __repr__(self) -> str:
        """Returns what it makes batches of, and how."""
        return (
            f"<ValidationLoader of {self._subset.shards.path}: {self._subset.images} images for "
            f"{self._subset.task}, batch_size={self.batch_size}, imgsz={self._subset.imgsz}, "
            f"device={self._device.device}, cache={self.cache}, "
            f"rank={self._ranks.rank} of {self._ranks.world_size}"
            f"{', closed' if self._closed else ''}>"
        )

    def __len__(self) -> int:
        """Batches of this rank."""
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self._refuse_closed()
        return self._batches()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigError("the loader is closed; make a new one")

    def _batches(self) -> Iterator[Batch]:
        with self._owner:
            backend = self._open_backend()
        starts = deque(range(self._first, self._last, self.batch_size))
        prefetched: deque[tuple[int, PendingBatch]] = deque()
        try:
            while starts or prefetched:
                with self._owner:
                    self._refuse_closed()
                    batch = self._next_batch(backend, starts, prefetched)
                yield batch
        finally:
            if os.getpid() == self._owner.process:  # also called when a forked child forgets this
                for _, pending in prefetched:
                    backend.discard(pending)

    def _next_batch(
        self, backend: Backend, starts: deque[int], prefetched: deque[tuple[int, PendingBatch]]
    ) -> Batch:
        while starts and len(prefetched) <= self._prefetch:
            start = starts.popleft()
            prefetched.append((start, self._submit(backend, start)))
        for _, pending in prefetched:
            pending.start()
        start, pending = prefetched[0]
        with self.telemetry.time("wait"):
            pending.wait()
        prefetched.popleft()
        share = self._reading.max_unreadable
        report_unreadable(self._subset, backend.unreadable, self._reported, share)
        with self.telemetry.time("collate"):
            batch = self._collate(start, pending)
        for stage, seconds in pending.seconds().items():
            self.telemetry.add(stage, seconds)
        self.telemetry.count("batches")
        self.telemetry.count("samples", len(batch["im_file"]))
        return batch

    def _images(self, start: int) -> letterbox.Int64:
        return self._order[start : min(start + self.batch_size, self._last)]

    def _shape(self, start: int) -> Sequence[Any]:
        return self._shapes[start // self._shape_batch]

    def _place(self, image: int, shape: Sequence[Any]) -> Placement:
        subset = self._subset
        return letterbox.place(int(subset.height[image]), int(subset.width[image]), shape)

    def _submit(self, backend: Backend, start: int) -> PendingBatch:
        from yolodata import _native

        shape, images = self._shape(start), self._images(start)
        recipes = [
            _native.Recipe.from_dict(letterbox.recipe(i, self._place(i, shape), shape))
            for i in images.tolist()
        ]
        return backend.submit_recipes(recipes, images, partial(self._labels, start), age=start)

    def _labels(self, start: int, unreadable: frozenset[int]) -> dict[str, Any]:
        """Returns the labels of a batch, as if the images in `unreadable` had no objects."""
        subset, shape, images = self._subset, self._shape(start), self._images(start)
        cls, boxes, keypoints = [], [], []
        for image in images.tolist():
            size = int(subset.height[image]), int(subset.width[image])
            placement = letterbox.place(*size, shape)
            rows = slice(0, 0) if image in unreadable else subset.objects(image)
            cls.append(subset.cls[rows])
            boxes.append(letterbox.padded_boxes(subset.box[rows], size, placement, shape))
            if subset.keypoints is not None:
                keypoints.append(
                    letterbox.padded_keypoints(subset.keypoints[rows], size, placement, shape)
                )
        labels = {
            "cls": np.concatenate(cls)[:, None],
            "bboxes": np.concatenate(boxes),
            "batch_idx": np.repeat(np.arange(len(cls), dtype=np.float32), [len(c) for c in cls]),
        }
        if subset.keypoints is not None:
            labels["keypoints"] = np.concatenate(keypoints)
            subset.shards.check_finite(labels["keypoints"])
        if subset.mask_ratio or subset.oriented:
            labels = self._drawn(images, shape, unreadable, labels)
        return labels

    def _collate(self, start: int, pending: PendingBatch) -> Batch:
        subset, shape, images = self._subset, self._shape(start), self._images(start)
        original = original_shapes(subset, images)
        ratio_pad = []
        for image, (height0, width0) in zip(images.tolist(), original, strict=True):
            size = int(subset.height[image]), int(subset.width[image])
            placement = letterbox.place(*size, shape)
            gain = size[0] / height0 * placement.ratio, size[1] / width0 * placement.ratio
            ratio_pad.append((gain, (placement.left, placement.top)))
        return assemble(
            image=pending.image,
            labels=pending.labels(),
            im_file=tuple(subset.shards.name(i) for i in images.tolist()),
            ori_shape=original,
            ratio_pad=tuple(ratio_pad),
            resized_shape=(shape,) * len(original),
        )

    def _drawn(
        self,
        images: letterbox.Int64,
        shape: Sequence[Any],
        unreadable: frozenset[int],
        labels: dict[str, Any],
    ) -> dict[str, Any]:
        """Returns labels with oriented boxes, or with masks and in the order of these."""
        from yolodata import _native

        subset = self._subset
        ids = images.tolist()
        index, numbers = subset.index(), images
        if unreadable:
            index, numbers = subset.excerpt(ids, unreadable), np.arange(len(ids), dtype=np.int64)
        rows = []
        for image in ids:
            height, width = int(subset.height[image]), int(subset.width[image])
            placement = letterbox.place(height, width, shape)
            rows.append((width, height, placement.ratio, placement.left, placement.top))
        placed = index, numbers, np.array(rows, np.float64)
        if subset.oriented:
            outlines = _native.letterbox_outlines(*placed)
            return {**labels, "bboxes": letterbox.oriented_boxes(outlines, shape)}
        masks = _native.letterbox_masks(
            *placed, int(shape[0]), int(shape[1]), subset.mask_ratio, subset.overlap_mask
        )
        order = masks.pop("order")
        return {**{name: values[order] for name, values in labels.items()}, **masks}

    def _too_large(self) -> dict[int, Placement]:
        """Returns images of this rank that must shrink: the size in their label was wrong."""
        found: dict[int, Placement] = {}
        for start in range(self._first, self._last, self.batch_size):
            shape, images = self._shape(start), self._images(start)
            over = (self._subset.height[images] > shape[0]) | (
                self._subset.width[images] > shape[1]
            )
            found.update((i, self._place(i, shape)) for i in images[over].tolist())
        return found

    def _open_backend(self) -> Backend:
        if self._backend is None:
            ranks = self._ranks
            where = pinning(
                self._reading.pin, self.num_workers, self._device, ranks.rank, ranks.world_size
            )
            spec = BackendSpec(
                self._subset,
                self._device,
                threads=self.num_workers,
                check=self._reading.check,
                window=1,
                in_flight=(self._prefetch + 2) * self.batch_size,
                telemetry=self.telemetry,
                shrink={i: (p.height, p.width) for i, p in self._shrunk.items()},
                pinning=where,
            )
            self._backend = open_backend(spec)
            self.cache = self._backend.cache
            self._close_backend = finalize(self, _close, self._backend, self._own_shards)
        return self._backend

    def reset(self) -> None:
        """Does nothing; upstream's loaders have it."""

    def close(self) -> None:
        """Stops the threads, frees the memory, lets go of shards that it opened itself.

        Batches handed out stay valid.
        """
        if self._closed or os.getpid() != self._owner.process:
            return
        with self._owner:
            self._closed = True
            if self._close_backend is not None:
                self._close_backend()

    def __enter__(self) -> ValidationLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(backend: Backend, own_shards: ShardDataset | None) -> None:
    backend.close()
    if own_shards is not None:
        own_shards.close()
    give_back_memory()


def _contiguous(images: int, batch_size: int, ranks: Ranks) -> tuple[int, int]:
    """Returns first and past-the-last place of a rank in the sorted order: whole batches, in runs.

    Where one batch would hold everything, images are dealt out one by one instead.
    """
    unit = 1 if batch_size >= images else batch_size
    batches = math.ceil(images / unit)
    each, rest = divmod(batches, ranks.world_size)
    first = ranks.rank * each + min(ranks.rank, rest)
    last = first + each + (ranks.rank < rest)
    return min(first * unit, images), min(last * unit, images)
