"""What peers need to read a dataset and to be measured."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from yolodata.bench.subject import Batch, Row, Subject, Task
from yolodata.telemetry import Reading

GREY = 114
"""Of what no picture covers."""
Sample = tuple[torch.Tensor, torch.Tensor]
"""A picture, uint8 (3, S, S) RGB, and its objects, float32 (n, 5): class, then a box."""


class Files:
    """Pictures and labels of a YOLO dataset; counts what is decoded, in all worker processes."""

    def __init__(self, task: Task) -> None:
        assert task.data is not None
        folder = task.data.parent
        images = sorted((folder / "images" / "train").iterdir())
        self.images = [str(path) for path in images]
        self.objects = [_objects(folder / "labels" / "train" / f"{p.stem}.txt") for p in images]
        self.decodes: Any = multiprocessing.Value("q", 0)

    def __len__(self) -> int:
        return len(self.images)

    def count(self, decodes: int = 1) -> None:
        """Say that pictures were decoded."""
        with self.decodes.get_lock():
            self.decodes.value += decodes

    def read(self) -> Reading:
        """What was counted so far."""
        return Reading(counts={"decodes": self.decodes.value})


def _objects(path: Any) -> npt.NDArray[np.float32]:
    """Class, x, y, width and height (n, 5) as a label file has them, also of polygons."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        values = [float(word) for word in line.split()]
        if len(values) > 5:
            points = np.array(values[1:]).reshape(-1, 2)
            low, high = points.min(0), points.max(0)
            values = [values[0], *(low + high) / 2, *(high - low)]
        rows.append(values)
    return np.array(rows, np.float32).reshape(-1, 5)


def collate(samples: list[Sample]) -> Batch:
    """A batch as Ultralytics' trainer wants it."""
    images, objects = zip(*samples, strict=True)
    numbers = [torch.full((len(o),), float(i)) for i, o in enumerate(objects)]
    every = torch.cat(list(objects))
    return {"img": torch.stack(list(images)), "cls": every[:, :1], "bboxes": every[:, 1:],
            "batch_idx": torch.cat(numbers)}  # fmt: skip


def workers(row: Row) -> dict[str, Any]:
    """How a DataLoader makes batches of samples."""
    return {"num_workers": row.threads, "persistent_workers": row.threads > 0,
            "collate_fn": collate, "worker_init_fn": _one_thread}  # fmt: skip


def _one_thread(_: int) -> None:
    """In a worker: OpenCV works with one thread, as torch does there by itself."""
    cv2.setNumThreads(0)


class MosaicDataset(torch.utils.data.Dataset[Sample]):
    """Each image in a mosaic with three others: four decoded files a picture."""

    def __init__(self, files: Files, imgsz: int) -> None:
        self.files, self.imgsz = files, imgsz

    def __len__(self) -> int:
        return len(self.files)

    def tiles(self, image: int) -> list[int]:
        """The images of a mosaic."""
        return [image, *(random.randrange(len(self)) for _ in range(3))]

    @classmethod
    def in_torch_loader(cls, row: Row, task: Task) -> Subject:
        """The dataset in torch's DataLoader."""
        torch.manual_seed(task.seed)
        files = Files(task)
        whole = len(files) >= task.batch
        loader: Any = torch.utils.data.DataLoader(
            cls(files, task.imgsz), task.batch, shuffle=True, drop_last=whole, **workers(row)
        )
        return subject(loader, row, task, files)


def subject(
    loader: Any, row: Row, task: Task, files: Files, batch_of: Callable[[Any], Batch] = dict
) -> Subject:
    """What is measured of an iterable over the batches of an epoch, like a DataLoader."""

    def batches() -> Iterator[Batch]:
        while True:
            yield from map(batch_of, loader)

    prefetched = row.threads * (getattr(loader, "prefetch_factor", None) or 0)
    return Subject(batches(), prefetched=prefetched, warm_up=task.batch * 2, read=files.read)
