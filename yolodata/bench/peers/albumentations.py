"""Albumentations' own mosaic and what comes after it, in torch's DataLoader."""

from __future__ import annotations

from typing import Any

import albumentations
import cv2
import numpy as np
import torch

from yolodata.bench.peers.files import GREY, Files, MosaicDataset, Sample


class Mosaics(MosaicDataset):
    """Made by its own transform."""

    def __init__(self, files: Files, imgsz: int) -> None:
        super().__init__(files, imgsz)
        size = (imgsz, imgsz)
        self.transform = albumentations.Compose(
            [
                albumentations.Mosaic(
                    target_size=size, cell_shape=size, center_range=(0.25, 0.75), fill=GREY, p=1.0
                ),
                albumentations.Affine(
                    scale=(0.5, 1.5), translate_percent=(-0.1, 0.1), fill=GREY, p=1.0
                ),
                albumentations.HueSaturationValue(3, 70, 40, p=1.0),
                albumentations.HorizontalFlip(p=0.5),
            ],
            bbox_params=albumentations.BboxParams("yolo", label_fields=["labels"], clip=True),
        )

    def __getitem__(self, image: int) -> Sample:
        first, *others = map(self._read, self.tiles(image))
        made = self.transform(**first, mosaic_metadata=others)
        picture = torch.from_numpy(np.ascontiguousarray(made["image"].transpose(2, 0, 1)))
        labels = np.asarray(made["labels"], np.float32)[:, None]
        boxes = np.asarray(made["bboxes"], np.float32).reshape(-1, 4)
        return picture, torch.from_numpy(np.concatenate([labels, boxes], 1))

    def _read(self, image: int) -> dict[str, Any]:
        self.files.count()
        picture = cv2.imread(self.files.images[image], cv2.IMREAD_COLOR_RGB)
        objects = self.files.objects[image]
        return {"image": picture, "bboxes": objects[:, 1:], "labels": objects[:, 0]}


open_loader = Mosaics.in_torch_loader
