"""LitData: JPEG files in its chunks, streamed, with torchvision's transforms."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import litdata
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from yolodata.bench.peers.files import GREY, Files, subject, workers
from yolodata.bench.peers.torchvision import colours_and_flip, fitted
from yolodata.bench.subject import Row, Subject, Task


class Stream(litdata.StreamingDataset):  # type: ignore[misc]
    """Decodes, fits into a square, changes colours, flips."""

    files: Files
    imgsz: int
    transform: Any

    def __getitem__(self, index: Any) -> Any:
        image, jpeg = super().__getitem__(index)
        self.files.count()
        data = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        picture = fitted(decode_image(data, ImageReadMode.RGB), self.imgsz)
        down, across = self.imgsz - picture.shape[1], self.imgsz - picture.shape[2]
        padding = [across // 2, down // 2, across - across // 2, down - down // 2]
        objects = torch.from_numpy(self.files.objects[image])
        return self.transform(v2.functional.pad(picture, padding, fill=GREY)), objects


def open_loader(row: Row, task: Task) -> Subject:
    """Chunks are written to a temporary folder first, which is not part of what is timed."""
    files = Files(task)
    folder = Path(tempfile.mkdtemp(prefix="yolodata-litdata-"))
    litdata.optimize(
        _stored, list(enumerate(files.images)), str(folder), chunk_bytes="64MB", num_workers=1
    )
    dataset = Stream(str(folder), shuffle=True, seed=task.seed)
    dataset.files, dataset.imgsz = files, task.imgsz
    dataset.transform = v2.Compose(colours_and_flip())
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=task.batch, drop_last=True, **workers(row)
    )
    made = subject(loader, row, task, files)
    made.close = lambda: shutil.rmtree(folder, ignore_errors=True)
    return made


def _stored(image: tuple[int, str]) -> tuple[int, bytes]:
    number, path = image
    return number, Path(path).read_bytes()
