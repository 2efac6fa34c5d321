"""Ultralytics' own training loader, built by its own functions with its own defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolodata.bench.gpu import Pace
from yolodata.bench.rows import Row
from yolodata.bench.subject import Subject, Task
from yolodata.errors import ConfigError


class UltralyticsLoader(Subject):
    """What `YOLO(...).train(data=..., imgsz=..., batch=..., cache=..., workers=...)` iterates over.

    Args:
        row: `codec` "ram" caches decoded pictures, "files" does not; `threads` is `workers`.
        task: `data` is a dataset YAML; batches are moved to a `device` other than the CPU, and
            scaled to 0-1 there, as Ultralytics' trainer does.

    Raises:
        ConfigError: Ultralytics did not cache although it was asked to.
    """

    def __init__(self, row: Row, task: Task) -> None:
        import torch
        from ultralytics.cfg import get_cfg
        from ultralytics.data.build import build_dataloader, build_yolo_dataset
        from ultralytics.data.utils import check_det_dataset
        from ultralytics.utils import DEFAULT_CFG

        torch.manual_seed(task.seed)
        self._device = torch.device(task.device)
        overrides = {
            "task": task.task,
            "mode": "train",
            "data": str(task.data),
            "imgsz": task.imgsz,
            "batch": task.batch,
            "workers": row.threads,
            "cache": "ram" if row.codec == "ram" else False,
            "augmentations": [],  # nothing of Albumentations, if it is installed; nor in our rows
            **task.augment,
        }
        args = get_cfg(DEFAULT_CFG, overrides)
        data = check_det_dataset(str(task.data), autodownload=False)
        dataset = build_yolo_dataset(args, data["train"], task.batch, data, mode="train", stride=32)
        if row.codec == "ram" and getattr(dataset, "cache", None) != "ram":
            raise ConfigError(
                "not enough free memory for Ultralytics' cache=ram; use fewer --images"
            )
        files = len(getattr(dataset, "im_files", []))
        if any(Path(f).with_suffix(".npy").exists() for f in dataset.im_files[:8]):
            raise ConfigError(f"{task.data} has .npy files, which Ultralytics would read instead")
        self._loader = build_dataloader(
            dataset, task.batch, row.threads, shuffle=True, rank=-1, device=self._device
        )
        self._pace = Pace(self._device)
        workers = self._loader.num_workers
        self.ahead = workers * (self._loader.prefetch_factor or 0)
        # Mosaic partners come from a buffer of the last pictures, which must be full.
        self.warm_up = task.batch * 2 if row.codec == "ram" else min(files, task.batch * 8)

    def batches(self) -> Iterator[dict[str, Any]]:
        """See `Subject`."""
        if self._device.type == "cpu":
            while True:
                yield from self._loader
        while True:
            for batch in self._loader:
                for name, value in batch.items():
                    if hasattr(value, "to"):
                        batch[name] = value.to(self._device, non_blocking=True)
                batch["img"] = batch["img"].float() / 255
                self._pace.keep()
                yield batch

    def finish(self) -> None:
        """See `Subject`."""
        self._pace.finish()

    def close(self) -> None:
        """See `Subject`."""
        self._loader.close()
