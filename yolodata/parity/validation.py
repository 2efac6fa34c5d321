"""Validation batches: a whole epoch from both loaders, to the bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import yolodata
from yolodata.parity import upstream
from yolodata.parity.dataset import Dataset
from yolodata.parity.kinds import VALIDATION
from yolodata.pipeline.options import LabelOptions


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal to the bit, whatever holds the numbers."""
    import torch

    if isinstance(a, torch.Tensor):
        # Upstream's masks become float32 in a batch that holds a picture without objects.
        if a.dtype == torch.float32 and b.dtype == torch.uint8:
            a = a.to(torch.uint8)
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.all(np.asarray(a) == np.asarray(b)))


def validation(data: Dataset, task: str, batch_size: int) -> tuple[dict[str, Any], list[str]]:
    """Compares a whole validation epoch of each kind.

    The split is packed into a temporary folder, unless its shards are given.

    Returns:
        by kind, counts of "batches" and "pictures", and "differing": in how many batches which
        keys differ; and what differs, in sentences.
    """
    with packed_validation(data, task, data.imgsz) as shards:
        found = {
            kind: _compared(data, shards, task, batch_size, settings)
            for kind, settings in VALIDATION.items()
            if task == "segment" or not settings
        }
    return found, [
        f"validation, {kind}: differ in {report['differing']}"
        for kind, report in found.items()
        if report["differing"]
    ]


@contextmanager
def packed_validation(data: Dataset, task: str, imgsz: int) -> Iterator[Path]:
    """Yields the folder of the validation split's shards, for pictures of this size."""
    if data.val is not None and data.val.meta.imgsz == imgsz:
        yield data.val.path
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "shards"
        yolodata.pack(
            data.yaml,
            packed,
            yolodata.PackSettings(imgsz=imgsz, task=task),
            splits=["val"],
            progress=False,
        )
        yield packed / "val"


def _compared(
    data: Dataset, shards: Path, task: str, batch_size: int, settings: dict[str, Any]
) -> dict[str, Any]:
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    imgsz = data.imgsz
    args = get_cfg(overrides={"task": task, "imgsz": imgsz, **settings})
    with upstream.leaves_the_source_alone():
        info = check_det_dataset(str(data.yaml), autodownload=False)
        dataset = build_yolo_dataset(args, info["val"], batch_size, info, mode="val", rect=True)
        theirs = build_dataloader(dataset, batch_size, workers=0, shuffle=False, rank=-1)
    differing: dict[str, int] = {}
    batches = pictures = 0
    with yolodata.ValidationLoader(
        shards, batch_size, imgsz=imgsz, labels=LabelOptions(task, **settings)
    ) as ours:
        if len(ours) != len(theirs):
            differing["number of batches"] = 1
        for mine, reference in zip(ours, theirs, strict=False):
            batches += 1
            pictures += len(reference["img"])
            if list(mine) != list(reference):
                differing["keys"] = differing.get("keys", 0) + 1
            for key in reference:
                if key not in mine or not same(reference[key], mine[key]):
                    differing[key] = differing.get(key, 0) + 1
    return {"batches": batches, "pictures": pictures, "differing": differing}
