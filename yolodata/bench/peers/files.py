"""What peers need to read a dataset and to be measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from yolodata.bench.subject import Batch, Row, Subject, Task
from yolodata.telemetry import Reading

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


def one_thread(_: int) -> None:
    """In a worker: OpenCV works with one thread, as torch does there by itself."""
    cv2.setNumThreads(0)


def torch_loader(dataset: Any, row: Row, task: Task, files: Files) -> Subject:
    """A dataset of samples in torch's DataLoader."""
    torch.manual_seed(task.seed)
    loader: Any = torch.utils.data.DataLoader(
        dataset, task.batch, shuffle=True, num_workers=row.threads, collate_fn=collate,
        drop_last=len(dataset) >= task.batch, persistent_workers=row.threads > 0,
        worker_init_fn=one_thread,
    )  # fmt: skip
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
