"""Ultralytics' own training loader, built by its own functions with its own defaults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from multiprocessing import Value
from pathlib import Path
from typing import Any

import torch

from yolodata.bench.burst import Pace
from yolodata.bench.subject import Batch, Row, Subject, Task, whole_batches
from yolodata.errors import ConfigError
from yolodata.telemetry import Reading


class _CountedImages(list[Any]):
    """The pictures that a dataset holds, in all its processes: counts those that are put in.

    Without a cache Ultralytics puts in each picture that it decodes, and takes it out later.
    """

    def __init__(self, images: Iterable[Any], decodes: Any) -> None:
        super().__init__(images)
        self._decodes = decodes

    def __setitem__(self, at: Any, image: Any) -> None:
        if image is not None:
            with self._decodes.get_lock():
                self._decodes.value += 1
        super().__setitem__(at, image)


def open_loader(row: Row, task: Task) -> Subject:
    """What `YOLO(...).train(data=..., imgsz=..., batch=..., cache=..., workers=...)` iterates over.

    Args:
        row: `codec` "ram" caches decoded pictures, "files" does not; `threads` is `workers`.
        task: `data` is a dataset YAML; batches are moved to a `device` other than the CPU, and
            scaled to 0-1 there, as Ultralytics' trainer does.

    Raises:
        ConfigError: Ultralytics did not cache although it was asked to.
    """
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import DEFAULT_CFG

    torch.manual_seed(task.seed)
    device, cached = torch.device(task.device), row.codec == "ram"
    overrides = {
        "task": task.task, "mode": "train", "data": str(task.data), "imgsz": task.imgsz,
        "batch": task.batch, "workers": row.threads, "cache": "ram" if cached else False,
        "augmentations": [],  # nothing of Albumentations, if it is installed; nor in our rows
        **task.augment,
    }  # fmt: skip
    data = check_det_dataset(str(task.data), autodownload=False)
    dataset = build_yolo_dataset(
        get_cfg(DEFAULT_CFG, overrides), data["train"], task.batch, data, mode="train", stride=32
    )
    if cached and getattr(dataset, "cache", None) != "ram":
        raise ConfigError("not enough free memory for Ultralytics' cache=ram; use fewer --images")
    if any(Path(f).with_suffix(".npy").exists() for f in dataset.im_files[:8]):
        raise ConfigError(
            f"{task.data}: has .npy files, which Ultralytics would read instead; remove them"
        )
    decodes = Value("q", 0)
    if not cached:
        dataset.ims = _CountedImages(dataset.ims, decodes)
    loader = build_dataloader(
        dataset, task.batch, row.threads, shuffle=True, rank=-1, device=device
    )  # fmt: skip
    pace = Pace(device)

    def batches() -> Iterator[Batch]:
        while True:
            for batch in loader:
                if device.type != "cpu":
                    for name, value in batch.items():
                        if hasattr(value, "to"):
                            batch[name] = value.to(device, non_blocking=True)
                    batch["img"] = batch["img"].float() / 255
                    pace.keep()
                yield batch

    return Subject(
        batches(), prefetched=loader.num_workers * (loader.prefetch_factor or 0),
        # Mosaic partners come from a buffer of the last pictures, which must be full.
        warm_up=task.batch * 2 if cached else min(len(dataset.im_files), task.batch * 8),
        finish=pace.finish, read=lambda: Reading(counts={"decodes": decodes.value}),
        close=loader.close,
    )  # fmt: skip


def open_in_trainer(row: Row, task: Task, trainer: Any) -> Subject:
    """The loader that Ultralytics' trainer makes for itself, and what it does with a batch."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    trainer.args.workers = row.threads
    loader = DetectionTrainer.get_dataloader(trainer, trainer.train_path, task.batch, -1, "train")
    workers = int(loader.num_workers)
    return Subject(
        whole_batches(loader),
        # The first batch of each worker; later ones are taken as soon as they are made.
        warm_up=max(workers, 1) * task.batch,
        finish=Pace(trainer.device).finish, about=lambda: f"{workers} worker processes",
        prepare=lambda batch: dict(DetectionTrainer.preprocess_batch(trainer, batch)),
        workers=lambda: getattr(getattr(loader, "iterator", None), "_workers", ()),
        dataset=loader.dataset, close=loader.close,
    )  # fmt: skip
