"""Batches of noise of any size, and how many objects those of the dataset have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ultralytics.data.utils import img2label_paths

from yolodata.doctor.setup import Setup
from yolodata.doctor.step import drawn_batch
from yolodata.files import read_regular
from yolodata.ingest.yolo import open_yolo
from yolodata.shards import open as open_shards

_LOOKED_AT = 400  # label files
_DRAWN = 8  # pictures of noise; larger batches repeat them


class Batches:
    """Makes batches of noise with as many objects as a batch of the dataset has at most.

    Memory of the loss grows with the fullest picture of a batch, which all others are padded to.

    Args:
        setup: gives the size of pictures.
        data: what `check_det_dataset` returned.
    """

    def __init__(self, setup: Setup, data: Mapping[str, Any]) -> None:
        self.side = setup.imgsz
        self.objects = most_objects(_counts(setup, data), setup)
        self._setup = setup
        self._of_side: dict[int, dict[str, Any]] = {}

    def __call__(self, images: int, side: int | None = None) -> dict[str, Any]:
        """Returns a batch as `drawn_batch` does, of `images` pictures of `side` pixels."""
        side = self.side if side is None else side
        if side not in self._of_side:
            arguments = {**self._setup.arguments, "imgsz": side}
            setup = replace(self._setup, arguments=arguments)
            self._of_side[side] = drawn_batch(setup, _DRAWN, self.objects)
        drawn = self._of_side[side]
        turns = -(-images // _DRAWN)
        rows = images * self.objects
        batch = {
            "img": drawn["img"].repeat(turns, 1, 1, 1)[:images],
            "cls": drawn["cls"].repeat(turns, 1)[:rows],
            "bboxes": drawn["bboxes"].repeat(turns, 1)[:rows],
            "batch_idx": torch.arange(images).repeat_interleave(self.objects).float(),
        }
        return {**drawn, **batch}


def most_objects(counts: npt.NDArray[np.int64], setup: Setup) -> int:
    """Returns how many objects the fullest picture of a batch has, as augmentation mixes them.

    Args:
        counts: objects of single images, (N,).
        setup: gives batch, augmentation and seed.
    """
    if not len(counts):
        return 1
    args = setup.train
    tiles = 4 if args.mosaic else 1
    tiles *= 2 if args.copy_paste else 1
    tiles *= 1 + (args.mixup > 0) + (args.cutmix > 0)
    rng = np.random.default_rng(setup.seed)
    met = rng.choice(counts, (20, setup.batch, tiles)).sum(2).max(1)  # of twenty batches
    return max(int(np.median(met)), 1)


def _counts(setup: Setup, data: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Objects of the images of "train", or of some of them."""
    if setup.of_shards:
        shards = open_shards(setup.data, split="train")
        try:
            ends = shards.object_offset.astype(np.int64)
            return np.asarray(ends[1:] - ends[:-1])
        finally:
            shards.close()
    images = [str(path) for path in open_yolo(dict(data), ["train"]).splits["train"].paths]
    rng = np.random.default_rng(setup.seed)
    chosen = rng.permutation(len(images))[:_LOOKED_AT]
    lines = []
    for file in img2label_paths([images[i] for i in chosen]):
        try:
            lines.append(sum(map(bool, read_regular(file, 1 << 30).split(b"\n"))))
        except OSError:  # an image without objects
            lines.append(0)
    return np.array(lines, np.int64)
