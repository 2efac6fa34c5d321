"""Metrics: the same weights, validated by upstream from both loaders, to the last digit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import yolodata
from yolodata.ingest.dataset_yaml import read_yaml
from yolodata.parity import upstream
from yolodata.parity.dataset import Dataset
from yolodata.parity.validation import packed_validation
from yolodata.pipeline.options import LabelOptions

TRAINED: dict[str, Any] = {
    "imgsz": 128, "epochs": 60, "batch": 4, "nbs": 4, "optimizer": "AdamW", "lr0": 0.002,
    "warmup_epochs": 0.0, "seed": 0, "mosaic": 0.0, "fliplr": 0.0, "scale": 0.0, "translate": 0.0,
    "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0,
}  # fmt: skip
"""How a model learns a few pictures by heart."""
QUIET: dict[str, Any] = {
    "device": "cpu", "amp": False, "workers": 0, "plots": False, "verbose": False,
}  # fmt: skip


def metrics(data: Dataset, task: str, batch_size: int, pictures: int = 4) -> dict[str, Any]:
    """Compares metrics of the same weights over the validation split, from both loaders.

    The weights are a nano model's that has learnt so many of those very pictures by heart, so that
    metrics are above zero.

    Returns:
        "upstream" and "yolodata": name to value; "equal"; "trained": how; and "failed", sentences.
    """
    imgsz = TRAINED["imgsz"]
    with (
        tempfile.TemporaryDirectory() as folder,
        upstream.leaves_the_source_alone(),
        packed_validation(data, task, imgsz) as shards,
        yolodata.ValidationLoader(
            shards, batch_size, imgsz=imgsz, labels=LabelOptions(task)
        ) as ours,
    ):
        few = _with_large_objects(ours.dataset, pictures)
        weights = _learnt_by_heart(data.yaml, task, few, Path(folder))
        theirs, mine = (_validated(weights, data.yaml, batch_size, it) for it in (None, ours))
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

    (folder / "few.txt").write_text("\n".join(files), encoding="utf-8")
    few = {"train": str(folder / "few.txt"), "val": str(folder / "few.txt")}
    (folder / "few.yaml").write_text(yaml.safe_dump({**read_yaml(data), **few}), encoding="utf-8")

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
    return Path(model.trainer.last)


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
