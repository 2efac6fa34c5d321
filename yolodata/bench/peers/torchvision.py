"""A mosaic of torchvision's functions, then its v2 transforms."""

from __future__ import annotations

import random
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from yolodata.bench.peers.files import GREY, Files, MosaicDataset, Sample


def colours_and_flip() -> list[Any]:
    """The end of the recipe, as torchvision has it."""
    return [v2.ColorJitter(brightness=0.4, saturation=0.7, hue=0.015), v2.RandomHorizontalFlip()]


class Mosaics(MosaicDataset):
    """Made of tensors."""

    def __init__(self, files: Files, imgsz: int) -> None:
        super().__init__(files, imgsz)
        # The canvas has twice the side. Scales from 0.5 to 1.5 show all of it to a ninth.
        self.transform = v2.Compose([
            v2.RandomResizedCrop(imgsz, scale=(1 / 9, 1.0), ratio=(1.0, 1.0)), *colours_and_flip(),
            v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2),
        ])  # fmt: skip

    def __getitem__(self, image: int) -> Sample:
        side = self.imgsz
        canvas = torch.full((3, 2 * side, 2 * side), GREY, dtype=torch.uint8)
        middle_x, middle_y = (int(random.uniform(0.5, 1.5) * side) for _ in range(2))
        boxes, labels = [], []
        for number, at in enumerate(self.tiles(image)):
            self.files.count()
            tile = fitted(decode_image(self.files.images[at], ImageReadMode.RGB), side)
            height, width = tile.shape[1:]
            left = middle_x - (width if number % 2 == 0 else 0)
            top = middle_y - (height if number < 2 else 0)
            x, y = max(left, 0), max(top, 0)
            part = tile[:, y - top : 2 * side - top, x - left : 2 * side - left]
            canvas[:, y : y + part.shape[1], x : x + part.shape[2]] = part
            objects = torch.from_numpy(self.files.objects[at])
            scaled = objects[:, 1:] * torch.tensor([width, height, width, height])
            boxes.append(scaled + torch.tensor([left, top, 0, 0]))
            labels.append(objects[:, 0])
        found = tv_tensors.BoundingBoxes(
            functional.convert_bounding_box_format(
                torch.cat(boxes), tv_tensors.BoundingBoxFormat.CXCYWH,
                tv_tensors.BoundingBoxFormat.XYXY,
            ), format="XYXY", canvas_size=(2 * side, 2 * side),
        )  # fmt: skip
        made = self.transform(
            {"image": tv_tensors.Image(canvas), "boxes": found, "labels": torch.cat(labels)}
        )
        objects = torch.cat([made["labels"][:, None], made["boxes"] / side], 1)
        return made["image"].as_subclass(torch.Tensor), objects.as_subclass(torch.Tensor)


open_loader = Mosaics.in_torch_loader


def fitted(picture: torch.Tensor, side: int) -> torch.Tensor:
    """A picture (3, H, W), resized so that its longer side is `side`."""
    height, width = picture.shape[1:]
    scale = side / max(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    resized: torch.Tensor = functional.resize(picture, size, antialias=False)
    return resized
