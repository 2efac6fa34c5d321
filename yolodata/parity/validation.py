"""Validation of `parity.py`: batches to the bit, metrics to the last digit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.parity import upstream
from yolodata.parity.kinds import VALIDATION

TRAINED: dict[str, Any] = {
    "imgsz": 128, "epochs": 60, "batch": 4, "nbs": 4, "optimizer": "AdamW", "lr0": 0.002,
    "warmup_epochs": 0.0, "seed": 0, "mosaic": 0.0, "fliplr": 0.0, "scale": 0.0, "translate": 0.0,
    "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0,
}  # fmt: skip
"""How a model learns a few pictures by heart."""
QUIET: dict[str, Any] = {
    "device": "cpu", "amp": False, "workers": 0, "plots": False, "verbose": False,
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, whatever holds the numbers."""
    import torch

    if isinstance(a, torch.Tensor):
        # Upstream's masks become float32 in a batch that holds a picture without objects.
        if a.dtype == torch.float32 and b.dtype == torch.uint8:
            a = a.to(torch.uint8)
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.all(np.asarray(a) == np.asarray(b)))


def validation(data: Path, task: str, imgsz: int, batch_size: int) -> dict[str, Any]:
    """By kind, a whole validation epoch from both loaders.

    Returns:
        counts of batches and pictures, and "differing": in how many batches which keys differ.
    """
    import yolodata

    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        yolodata.pack(data, shards, imgsz=imgsz, splits=["val"], task=task, progress=False)
        return {
            kind: _compared(data, shards / "val", task, imgsz, batch_size, settings)
            for kind, settings in VALIDATION.items()
            if task == "segment" or not settings
        }


def _compared(
    data: Path, shards: Path, task: str, imgsz: int, batch_size: int, settings: dict[str, Any]
) -> dict[str, Any]:
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    import yolodata

    args = get_cfg(overrides={"task": task, "imgsz": imgsz, **settings})
    with upstream.leaves_the_source_alone():
        info = check_det_dataset(str(data))
        dataset = build_yolo_dataset(args, info["val"], batch_size, info, mode="val", rect=True)
        theirs = build_dataloader(dataset, batch_size, workers=0, shuffle=False, rank=-1)
    differing: dict[str, int] = {}
    batches = pictures = 0
    with yolodata.ValidationLoader(shards, batch_size, imgsz=imgsz, task=task, **settings) as ours:
        if len(ours) != len(theirs):
            differing["number of batches"] = 1
        for mine, reference in zip(ours, upstream.in_stable_order(theirs), strict=False):
            batches += 1
            pictures += len(reference["img"])
            if list(mine) != list(reference):
                differing["keys"] = differing.get("keys", 0) + 1
            for key in reference:
                if key not in mine or not same(reference[key], mine[key]):
                    differing[key] = differing.get(key, 0) + 1
    return {"batches": batches, "pictures": pictures, "differing": differing}


def metrics(data: Path, task: str, batch_size: int, pictures: int = 4) -> dict[str, Any]:
    """Metrics of the same weights over the validation split, from both loaders.

    The weights are a nano model's that has learnt so many of those very pictures by heart, so that
    metrics are above zero.

    Returns:
        "upstream" and "yolodata": name to value; "equal"; "trained": how; and "failed", sentences.
    """
    import yolodata

    size = {"imgsz": TRAINED["imgsz"], "task": task}
    with tempfile.TemporaryDirectory() as temporary, upstream.leaves_the_source_alone():
        folder = Path(temporary)
        yolodata.pack(data, folder / "shards", splits=["val"], progress=False, **size)
        with yolodata.ValidationLoader(folder / "shards" / "val", batch_size, **size) as ours:
            few = _with_large_objects(ours.dataset, pictures)
            weights = _learnt_by_heart(data, task, few, folder)
            theirs, mine = (_validated(weights, data, batch_size, it) for it in (None, ours))
    failed = []
    if theirs != mine:
        names = [name for name in theirs if mine.get(name) != theirs[name]]
        failed.append(f"metrics: not the same: {', '.join(names)}")
    for kind in sorted({name[-3:] for name in theirs if name.endswith(")")}):
        if not any(value for name, value in theirs.items() if name.endswith(kind)):
            failed.append(f"metrics: all of {kind} are zero, which proves nothing")
    return {
        "upstream": theirs, "yolodata": mine, "equal": theirs == mine,
        "trained": {"model": _model(task), "pictures": len(few), **TRAINED}, "failed": failed,
    }  # fmt: skip


def _with_large_objects(dataset: Any, count: int) -> list[str]:
    """Files of the pictures whose objects are the largest on average."""
    sizes = [np.prod(label["bboxes"][:, 2:], axis=1) for label in dataset.labels]
    means = np.array([size.mean() if len(size) else 0 for size in sizes])
    return [dataset.im_files[i] for i in np.argsort(-means, kind="stable")[:count].tolist()]


def _model(task: str) -> str:
    suffix = {"segment": "-seg", "pose": "-pose", "obb": "-obb"}.get(task, "")
    return f"yolo11n{suffix}.yaml"


def _learnt_by_heart(data: Path, task: str, files: list[str], folder: Path) -> Path:
    """Trains with upstream's loader on these pictures as they are; the file of the weights."""
    import torch
    import yaml
    from ultralytics import YOLO

    (folder / "few.txt").write_text("\n".join(files))
    description = yaml.safe_load(data.read_text())
    few = {"train": str(folder / "few.txt"), "val": str(folder / "few.txt")}
    (folder / "few.yaml").write_text(yaml.safe_dump({**description, **few}))

    def follow(trainer: Any) -> None:
        """Running statistics arrive within so few steps."""
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.3

    model = YOLO(_model(task))
    model.add_callback("on_train_start", follow)
    model.train(
        data=str(folder / "few.yaml"),
        project=str(folder),
        name="run",
        val=False,
        **TRAINED,
        **QUIET,
    )
    return model.trainer.last


def _validated(weights: Path, data: Path, batch_size: int, loader: Any) -> dict[str, float]:
    """What upstream's validator finds, from this loader or its own."""
    from ultralytics import YOLO

    model = YOLO(str(weights))
    settings = {
        "data": str(data), "imgsz": TRAINED["imgsz"], "batch": batch_size, "rect": True,
        "mode": "val", "project": str(weights.parent), **QUIET,
    }  # fmt: skip
    validator = model._smart_load("validator")(
        dataloader=loader, args={**model.overrides, **settings}
    )
    return {name: float(value) for name, value in validator(model=model.model).items()}
