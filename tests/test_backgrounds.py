"""Pictures without a single object: batches are upstream's for every task, empty as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from loading import draw_dataset, grouped, packed
from test_pose import with_keypoints
from test_segment import with_outlines

from yolodata import AugmentConfig, Loader, ValidationLoader
from yolodata.parity.validation import differences, upstream_dataset

LABELLED = {"detect": with_outlines, "segment": with_outlines, "obb": with_outlines,
            "pose": with_keypoints}  # fmt: skip


def dataset(root: Path, task: str) -> Path:
    """Objects in the last pictures of "train" alone: a share of it, and "val", have none."""
    yaml = LABELLED[task](draw_dataset(root, {"train": 6, "val": 3}))
    for file in (*sorted(root.glob("labels/train/*"))[:4], *root.glob("labels/val/*")):
        file.write_text("")
    return yaml


def alike(mine: dict[str, Any], batch: dict[str, Any], drawn: bool = False) -> None:
    """The same batches, but for the type of masks (see `assemble`), and `drawn` pixels."""
    if "masks" in batch:
        assert mine["masks"].dtype == torch.uint8
    if drawn:
        assert (mine["img"].shape, mine["img"].dtype) == (batch["img"].shape, batch["img"].dtype)
        mine = {**mine, "img": batch["img"]}
    assert not len(mine["cls"])
    assert differences(mine, batch) == []


@pytest.mark.parametrize(
    ("task", "settings"),
    [*((task, {}) for task in LABELLED), ("segment", {"overlap_mask": False})],
)
def test_batches_without_objects_are_upstreams(
    tmp_path: Path, task: str, settings: dict[str, Any]
) -> None:
    yaml = dataset(tmp_path / "set", task)
    out = packed(yaml, tmp_path / "out", "raw", 64, task="pose" if task == "pose" else "detect")
    chosen = {"task": task, "fraction": 4, **settings}
    theirs = upstream_dataset(yaml, "train", 64, "train", 4, copy_paste=0.5, **chosen)
    augment = AugmentConfig(imgsz=64, copy_paste=0.5)
    with Loader(out, 4, **grouped(augment=augment, shuffle=False, **chosen)) as loader:
        alike(next(iter(loader)), theirs.collate_fn([theirs[i] for i in range(4)]), drawn=True)

    theirs = upstream_dataset(yaml, "val", 64, "val", 2, task=task, **settings)
    with ValidationLoader(
        out, 2, **grouped(imgsz=64, split="val", task=task, **settings)
    ) as loader:
        for images, mine in zip(([0, 1], [2]), loader, strict=True):
            alike(mine, theirs.collate_fn([theirs[i] for i in images]))
