"""The training loader that LibreYOLO makes for a YOLOv9, with its own defaults."""

from __future__ import annotations

from typing import Any

import torch
from libreyolo.data.dataset import YOLODataset, create_dataloader
from libreyolo.models.yolo9.transforms import YOLO9MosaicMixupDataset, YOLO9TrainTransform
from libreyolo.training.config import YOLO9Config

from yolodata.bench.peers.files import Files, subject
from yolodata.bench.subject import Batch, Row, Subject, Task


class Counted(YOLODataset):  # type: ignore[misc]
    """Counts the images that are asked for, each of which is decoded: there is no cache."""

    files: Files

    def pull_item(self, index: int) -> Any:
        """An image and its labels."""
        self.files.count()
        return super().pull_item(index)


def open_loader(row: Row, task: Task) -> Subject:
    """What its trainer iterates over."""
    assert task.data is not None
    torch.manual_seed(task.seed)
    config, size = YOLO9Config(), (task.imgsz, task.imgsz)
    transform = YOLO9TrainTransform(
        max_labels=config.max_labels, flip_prob=config.flip_prob, hsv_prob=config.hsv_prob
    )
    dataset = Counted(str(task.data.parent), "train", size, transform)
    dataset.files = Files(task)
    mosaics = YOLO9MosaicMixupDataset(
        dataset, size, preproc=transform, degrees=config.degrees, translate=config.translate,
        mosaic_scale=config.mosaic_scale, shear=config.shear, mosaic_prob=config.mosaic_prob,
        mixup_prob=config.mixup_prob,
    )  # fmt: skip
    loader = create_dataloader(mosaics, task.batch, row.threads, pin_memory=False)
    return subject(loader, row, task, dataset.files, _batch)


def _batch(made: Any) -> Batch:
    """Its batch has the same number of rows for every picture; those without a class are unused."""
    images, labels = made[:2]
    used = labels[..., 0] >= 0
    return {"img": images, "batch_idx": used.nonzero()[:, 0], "cls": labels[used][:, :1],
            "bboxes": labels[used][:, 1:]}  # fmt: skip
