"""Validation batches: a whole epoch from both loaders, to the bit."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yolodata
from yolodata.parity import upstream
from yolodata.parity.dataset import Dataset
from yolodata.parity.kinds import VALIDATION
from yolodata.pipeline.options import LabelOptions


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


def upstream_dataset(
    data: Path | dict[str, Any],
    split: str,
    imgsz: int,
    mode: str,
    batch_size: int,
    **settings: Any,
) -> Any:
    """Builds Ultralytics' own dataset of a split.

    Args:
        data: its YAML, or what `check_det_dataset` made of it. Nothing is written beside it.
        split: "train", "val" or "test".
        imgsz: side of the pictures, in pixels.
        mode: "train" or "val".
        batch_size: pictures that get one shape, with `rect`.
        settings: Ultralytics' arguments, `task` among them; `rect` is on in validation.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    rect = settings.pop("rect", mode == "val")
    args = get_cfg(overrides={"task": "detect", "imgsz": imgsz, **settings})
    with upstream.leaves_the_source_alone():
        info = data if isinstance(data, dict) else check_det_dataset(str(data), autodownload=False)
        return build_yolo_dataset(args, info[split], batch_size, info, mode=mode, rect=rect)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names what differs in two batches: "keys" (or their order), and each key whose value does.

    Values have the same types, dtypes, shapes and bits, with one exception: upstream's masks become
    float32 in a batch that holds a picture without objects; see `pipeline.batch.assemble`.
    """
    import torch

    found = [] if list(ours) == list(theirs) else ["keys"]
    for key, reference in theirs.items():
        mine = ours.get(key)
        if not isinstance(reference, torch.Tensor):
            same = repr(mine) == repr(reference)  # tells int from numpy.int64 as well
        elif not isinstance(mine, torch.Tensor):
            same = False
        else:
            became_float = key == "masks" and reference.dtype == torch.float32
            if became_float and not mine.is_floating_point() and _has_a_background(theirs):
                mine = mine.to(torch.float32)
            same = mine.dtype == reference.dtype and torch.equal(mine, reference)
        if not same:
            found.append(key)
    return found


def _has_a_background(batch: dict[str, Any]) -> bool:
    """Whether a picture of the batch is without objects."""
    return len(batch["batch_idx"].unique()) < len(batch["img"])


def _compared(
    data: Dataset, shards: Path, task: str, batch_size: int, settings: dict[str, Any]
) -> dict[str, Any]:
    from ultralytics.data import build_dataloader

    dataset = upstream_dataset(
        data.yaml, "val", data.imgsz, "val", batch_size, task=task, **settings
    )
    theirs = build_dataloader(dataset, batch_size, workers=0, shuffle=False, rank=-1)
    differing: Counter[str] = Counter()
    batches = pictures = 0
    with yolodata.ValidationLoader(
        shards, batch_size, imgsz=data.imgsz, labels=LabelOptions(task, **settings)
    ) as ours:
        if len(ours) != len(theirs):
            differing["number of batches"] = 1
        for mine, reference in zip(ours, theirs, strict=False):
            batches += 1
            pictures += len(reference["img"])
            differing.update(differences(mine, reference))
    return {"batches": batches, "pictures": pictures, "differing": dict(differing)}
