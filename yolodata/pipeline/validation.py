"""`yolodata.ValidationLoader`: the batches of Ultralytics' validation loader, bit for bit."""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolodata.checks import number, whole, wholes
from yolodata.errors import ConfigError
from yolodata.pipeline import letterbox
from yolodata.pipeline.batch import Batch, assemble, original_shapes
from yolodata.pipeline.cpu.backend import Work, Workshop
from yolodata.pipeline.fork_safety import check_process, finalize
from yolodata.pipeline.image_cache import Bytes, Load
from yolodata.pipeline.image_reader import reading
from yolodata.pipeline.letterbox import Placement
from yolodata.pipeline.loader_facade import DatasetView
from yolodata.pipeline.schedule import Schedule, usable_threads
from yolodata.pipeline.subset import Selection, open_shards
from yolodata.pipeline.unreadable import report_bad
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    from yolodata.shards.reader import ShardDataset


class ValidationLoader:
    """Every image once, unaugmented, in batches of similar aspect ratio.

    Order, shapes, padding and labels are those of upstream's validation loader: images are sorted
    by height over width, a batch is as small as its images allow (a multiple of `stride`), images
    are centred in grey padding and never enlarged. Each iteration starts from the beginning.

    With several ranks each gets a run of whole batches, the first ones one more where they do not
    divide evenly; then `len()` differs between ranks.

    Args:
        shards: a dataset directory, or one opened with `yolodata.shards.open`.
        batch_size: pictures per batch and rank.
        imgsz: longer side of the pictures; None takes the dataset's.
        stride: sides of a batch are multiples of it; the model's largest stride.
        pad: margin around the longer side, in strides.
        rect: False makes every batch square and keeps the dataset's order.
        split: which split to open when `shards` is a folder of several.
        task: "detect"; "segment" for batches with masks, "pose" with keypoints, "obb" with
            oriented boxes.
        rank, world_size: this process among those that validate together.
        threads: native threads; None shares the machine's cores among its ranks.
        prefetch: batches ready or in the making ahead of the consumer.
        single_cls, classes, fraction, mask_ratio, overlap_mask, pin_memory, check, max_bad: as for
            `yolodata.Loader`.

    Attributes:
        telemetry: as for `yolodata.Loader`.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
        ShardError: the dataset is missing or damaged; while iterating: more than `max_bad` of the
            images cannot be read.
    """

    drop_last = False

    def __init__(
        self,
        shards: str | Path | ShardDataset,
        batch_size: int,
        *,
        imgsz: int | None = None,
        stride: int = 32,
        pad: float = 0.5,
        rect: bool = True,
        split: str | None = None,
        task: str = "detect",
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        prefetch: int = 2,
        single_cls: bool = False,
        classes: Sequence[int] | None = None,
        fraction: float | int = 1.0,
        mask_ratio: int = 4,
        overlap_mask: bool = True,
        pin_memory: bool = False,
        check: bool = False,
        max_bad: float = 0.01,
    ) -> None:
        dataset = open_shards(shards, split, "val")
        number("fraction", fraction)
        classes = None if classes is None else wholes("classes", classes)
        self._selection = selection = Selection(
            dataset,
            task=task,
            imgsz=imgsz,
            fraction=fraction,
            classes=classes,
            single_cls=single_cls,
            mask_ratio=mask_ratio,
            overlap_mask=overlap_mask,
        )
        images = selection.images
        Schedule(images, batch_size, rank, world_size)  # checks these settings
        whole("stride", stride, 1)
        whole("prefetch", prefetch, 1)
        number("pad", pad, 0)
        number("max_bad", max_bad, 0, 1)
        self.batch_size = min(batch_size, images)
        threads = usable_threads(world_size) if threads is None else threads
        self.num_workers = whole("threads", threads, 1)
        self._prefetch, self._check, self._max_bad = prefetch, check, max_bad
        self._pin_memory = pin_memory

        order = np.arange(images, dtype=np.int64)
        self._shapes: Sequence[Sequence[Any]]
        if rect:
            height, width = dataset.label_height[:images], dataset.label_width[:images]
            order = letterbox.aspect_order(height, width)
            shapes = letterbox.batch_shapes(
                height[order], width[order], batch_size, selection.imgsz, stride, pad
            )
            self._shapes = shapes  # type: ignore[assignment]
            self.dataset = DatasetView(
                selection, order=order, batch_shapes=shapes, batch=np.arange(images) // batch_size
            )
        else:
            self._shapes = [(selection.imgsz,) * 2] * math.ceil(images / batch_size)
            self.dataset = DatasetView(selection)
        self._order = order
        self._first, self._last = _contiguous(images, batch_size, rank, world_size)
        self.sampler = range(self._first, self._last)
        self._shrunk = self._too_large()
        self._workshop: Workshop | None = None
        self._stop_workshop: weakref.finalize[Any, Any] | None = None
        self._closed = False
        self._pid = os.getpid()
        self._reported: set[int] = set()
        self.telemetry = Telemetry()

    def __len__(self) -> int:
        """Batches of this rank."""
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self._closed:
            raise ConfigError("the loader is closed; make a new one")
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        check_process(self._pid)
        workshop = self._open_workshop()
        starts = deque(range(self._first, self._last, self.batch_size))
        ahead: deque[tuple[int, Work]] = deque()
        try:
            while starts or ahead:
                while starts and len(ahead) <= self._prefetch:
                    start = starts.popleft()
                    work = self._start(workshop, start)
                    work.start()
                    ahead.append((start, work))
                start, work = ahead[0]
                with self.telemetry.time("wait"):
                    work.wait()
                ahead.popleft()
                report_bad(self._selection, workshop.bad, self._reported, self._max_bad)
                with self.telemetry.time("collate"):
                    batch = self._collate(start, work)
                for stage, seconds in work.seconds().items():
                    self.telemetry.add(stage, seconds)
                self.telemetry.count("batches")
                self.telemetry.count("samples", len(batch["im_file"]))
                del work
                yield batch
        finally:
            if os.getpid() == self._pid:  # also called when a forked child forgets this
                for _, work in ahead:
                    workshop.drop(work)

    def _images(self, start: int) -> letterbox.Int64:
        return self._order[start : min(start + self.batch_size, self._last)]

    def _shape(self, start: int) -> Sequence[Any]:
        return self._shapes[start // self.batch_size]

    def _place(self, image: int, shape: Sequence[Any]) -> Placement:
        selection = self._selection
        return letterbox.place(int(selection.height[image]), int(selection.width[image]), shape)

    def _start(self, workshop: Workshop, start: int) -> Work:
        from yolodata import _native

        shape, images = self._shape(start), self._images(start)
        recipes = [
            _native.Recipe.from_dict(letterbox.recipe(i, self._place(i, shape), shape))
            for i in images.tolist()
        ]
        return workshop.fixed(recipes, np.sort(images), age=start)

    def _collate(self, start: int, work: Work) -> Batch:
        selection, shape, images = self._selection, self._shape(start), self._images(start)
        original = original_shapes(selection, images)
        cls, boxes, keypoints, ratio_pad = [], [], [], []
        for image, (height0, width0) in zip(images.tolist(), original, strict=True):
            size = int(selection.height[image]), int(selection.width[image])
            placement = letterbox.place(*size, shape)
            rows = slice(0, 0) if image in work.bad else selection.objects(image)
            cls.append(selection.cls[rows])
            boxes.append(letterbox.padded_boxes(selection.box[rows], size, placement, shape))
            if selection.keypoints is not None:
                keypoints.append(
                    letterbox.padded_keypoints(selection.keypoints[rows], size, placement, shape)
                )
            gain = size[0] / height0 * placement.ratio, size[1] / width0 * placement.ratio
            ratio_pad.append((gain, (placement.left, placement.top)))
        labels = {
            "cls": np.concatenate(cls)[:, None],
            "bboxes": np.concatenate(boxes),
            "batch_idx": np.repeat(np.arange(len(cls), dtype=np.float32), [len(c) for c in cls]),
        }
        if selection.keypoints is not None:
            labels["keypoints"] = np.concatenate(keypoints)
        if selection.mask_ratio or selection.oriented:
            labels = self._drawn(images, shape, work.bad, labels)
        return assemble(
            image=work.image,
            labels=labels,
            im_file=tuple(selection.shards.name(i) for i in images.tolist()),
            ori_shape=original,
            ratio_pad=tuple(ratio_pad),
            resized_shape=(shape,) * len(original),
        )

    def _drawn(
        self,
        images: letterbox.Int64,
        shape: Sequence[Any],
        bad: frozenset[int],
        labels: dict[str, Any],
    ) -> dict[str, Any]:
        """Labels with oriented boxes, or with masks and in the order of these."""
        from yolodata import _native

        selection = self._selection
        ids = images.tolist()
        index, numbers = selection.index(), images
        if bad:
            index, numbers = selection.excerpt(ids, bad), np.arange(len(ids), dtype=np.int64)
        rows = []
        for image in ids:
            height, width = int(selection.height[image]), int(selection.width[image])
            placement = letterbox.place(height, width, shape)
            rows.append((width, height, placement.ratio, placement.left, placement.top))
        placed = index, numbers, np.array(rows, np.float64)
        if selection.oriented:
            outlines = _native.letterbox_outlines(*placed)
            return {**labels, "bboxes": letterbox.oriented_boxes(outlines, shape)}
        masks = _native.letterbox_masks(
            *placed, int(shape[0]), int(shape[1]), selection.mask_ratio, selection.overlap_mask
        )
        order = masks.pop("order")
        return {**{name: values[order] for name, values in labels.items()}, **masks}

    def _too_large(self) -> dict[int, Placement]:
        """Images of this rank that must shrink to fit their batch: the label's size was wrong."""
        found: dict[int, Placement] = {}
        for start in range(self._first, self._last, self.batch_size):
            shape, images = self._shape(start), self._images(start)
            over = (self._selection.height[images] > shape[0]) | (
                self._selection.width[images] > shape[1]
            )
            found.update((i, self._place(i, shape)) for i in images[over].tolist())
        return found

    def _open_workshop(self) -> Workshop:
        if self._workshop is None:
            import torch

            in_flight = (self._prefetch + 2) * self.batch_size
            load = reading(
                self._selection,
                threads=self.num_workers,
                check=self._check,
                window=1,
                in_flight=in_flight,
                always=bool(self._shrunk),
            )
            self._workshop = Workshop(
                self._selection,
                threads=self.num_workers,
                pin_memory=self._pin_memory and torch.cuda.is_available(),
                load=self._shrinking(load) if load is not None and self._shrunk else load,
                telemetry=self.telemetry,
            )
            self._stop_workshop = finalize(self, self._workshop.close)
        return self._workshop

    def _shrinking(self, load: Load) -> Load:
        """The same, but pictures too large for their batch are resized as upstream does."""
        shrunk, size, read = self._shrunk, load.size, load.read

        def new_size(image: int) -> tuple[int, int]:
            placement = shrunk.get(image)
            return size(image) if placement is None else (placement.height, placement.width)

        def new_read(image: int, memory: Bytes | None) -> Bytes:
            pixels = read(image, memory)
            if image not in shrunk:
                return pixels
            import cv2

            (height, width), (new_height, new_width) = size(image), new_size(image)
            picture = pixels[: height * width * 3].reshape(height, width, 3)
            small: Bytes = cv2.resize(
                picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR
            )
            return small.reshape(-1)

        return replace(load, read=new_read, size=new_size, recycle=False)

    def reset(self) -> None:
        """Nothing to do; upstream's loaders have it."""

    def close(self) -> None:
        """Stop the threads and free the memory; batches handed out stay valid."""
        if not self._closed and os.getpid() == self._pid:
            self._closed = True
            if self._stop_workshop is not None:
                self._stop_workshop()

    def __enter__(self) -> ValidationLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _contiguous(images: int, batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and past-the-last place of a rank in the sorted order: whole batches, in runs.

    Where one batch would hold everything, images are dealt out one by one instead.
    """
    unit = 1 if batch_size >= images else batch_size
    batches = math.ceil(images / unit)
    each, rest = divmod(batches, world_size)
    first = rank * each + min(rank, rest)
    last = first + each + (rank < rest)
    return min(first * unit, images), min(last * unit, images)
