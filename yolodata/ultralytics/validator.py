"""`model.val(validator=yolodata.DetectionValidator)`: upstream's validator, our loader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ultralytics.cfg import get_cfg
from ultralytics.models import yolo
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK, YAML, colorstr

from yolodata.errors import ConfigError
from yolodata.pipeline.options import DeviceOptions, Ranks, ReadOptions
from yolodata.pipeline.validation import ValidationLoader
from yolodata.ultralytics.auto_pack import (
    describe_shards,
    for_our_loader,
    is_shards,
    refuse_unpacked,
)
from yolodata.ultralytics.dataset import label_options, loader_threads, open_split, shards_of
from yolodata.ultralytics.fallback import FAMILIES, VALIDATORS, check_sizes, why_not_validated
from yolodata.ultralytics.run_folder import RunFolder
from yolodata.ultralytics.settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Self
    from ultralytics.engine.trainer import BaseTrainer, Batches


class _FromShards(yolo.detect.DetectionValidator):
    """What our validators change in Ultralytics': where batches come from.

    Subclasses name the task and add upstream's validator of it.

    Raises:
        ConfigError: an argument or a setting is wrong, or the model is for another task.
    """

    settings: ClassVar[Settings] = Settings()
    for_task: ClassVar[str] = "detect"

    @classmethod
    def configure(cls, **values: Any) -> type[Self]:
        """Returns this validator with settings of its own.

        Args:
            values: settings by name, those of validation; the others stay as they are.

        Raises:
            ConfigError: a setting is unknown, of training alone, or out of range.
        """
        return type(cls.__name__, (cls,), {"settings": cls.settings.changed_for_validation(values)})

    def __init__(
        self,
        dataloader: Any = None,
        save_dir: Path | None = None,
        args: Any = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(args, dict):
            args = {**args, "data": shards_of(args.get("data"))}
            check_sizes(args.get("imgsz"))
            changed = self.settings.changed_for_validation(args.pop("yolodata", None) or {})
            self.settings = changed  # type: ignore[misc] # of this one, not of the class
            task = args.get("task") or self.for_task
            if task != self.for_task:
                right = f"yolodata.{VALIDATORS[task]}" if task in VALIDATORS else "none"
                raise ConfigError(
                    f"this validator is for task={self.for_task}, and the model for task={task}; "
                    f"give validator={right}"
                )
        self._shards: Any = None  # the folder of them that is validated on
        self._run_folder: RunFolder | None = None
        if save_dir is None and isinstance(args, dict):
            given = get_cfg(DEFAULT_CFG, args)  # it renames keys in place, once
            self._run_folder = RunFolder(given, locked=False)
            args["save_dir"] = given.save_dir
        with self._start():
            super().__init__(dataloader, save_dir, args, _callbacks)

    def _start(self) -> AbstractContextManager[None]:
        return self._run_folder.kept_if_begun() if self._run_folder else nullcontext()

    def __call__(
        self, trainer: BaseTrainer | None = None, model: Any = None, **kwargs: Any
    ) -> dict[str, float]:
        """Validates; a start that fails leaves no run folder behind.

        Raises:
            ConfigError: the model, or an argument, is one that shards do not serve.
        """
        layers = getattr(model, "model", None)
        head = type(layers[-1]).__name__ if layers is not None and len(layers) else ""
        if head in FAMILIES:
            raise ConfigError(
                f"the model is {FAMILIES[head][0]}, which Ultralytics' own validator is for; leave "
                "validator= out, and give the dataset itself as data="
            )
        with self._start(), self._described(trainer):
            return super().__call__(trainer, model, **kwargs)

    @contextmanager
    def _described(self, trainer: BaseTrainer | None) -> Iterator[None]:
        """Has upstream read the description of a folder of shards from a YAML, as it reads all."""
        given = self.args.data
        if trainer is not None or not is_shards(given):
            if trainer is None:
                refuse_unpacked(given)
            yield
            return
        data = describe_shards(given, [self.args.split or "val"])
        with tempfile.TemporaryDirectory(prefix="yolodata-") as folder:
            self._shards, self.args.data = given, str(Path(folder) / "data.yaml")
            YAML.save(self.args.data, {**data, "path": str(data["path"])})
            try:
                yield
            finally:
                self.args.data = given

    def run_callbacks(self, event: str) -> None:
        """Runs upstream's callbacks."""
        if event == "on_val_start" and self._run_folder is not None:
            self._run_folder.begin()
        super().run_callbacks(event)

    def get_dataloader(self, dataset_path: str, batch_size: int) -> Batches:
        """Returns our loader of the split that is validated on; upstream's where ours cannot serve.

        Raises:
            ConfigError: ours cannot serve, and upstream's cannot read shards.
        """
        if self._shards is not None:  # upstream has read their description
            self.args.data = self._shards
        reason = why_not_validated(self.args, self.data)
        if reason is not None:
            if self._shards is not None:
                raise for_our_loader(self._shards, f"but {reason}; or give the dataset's YAML")
            LOGGER.warning(f"yolodata: validating with Ultralytics' own loader: {reason}.")
            return super().get_dataloader(dataset_path, batch_size)
        split = self.args.split or "val"
        shards = open_split(self.args, self.data, split, self.settings, self.for_task)
        loader = ValidationLoader(
            shards,
            batch_size,
            imgsz=int(self.args.imgsz),
            stride=int(self.stride),
            rect=bool(self.args.rect),
            labels=label_options(self.args, self.data, split, self.for_task),
            ranks=Ranks(0, 1),
            device=DeviceOptions(pin_memory=self.device.type == "cuda"),
            reading=ReadOptions(
                loader_threads(self.settings, self.device.type, int(self.args.workers), 1),
                None,
                self.settings.check,
                self.settings.max_unreadable,
                self.settings.pin,
            ),
        )
        if RANK in {-1, 0}:
            LOGGER.info(
                f"{colorstr('val: ')}{len(loader.dataset)} images from {shards.path} "
                f"({shards.meta.codec} shards, {loader.num_workers} threads)"
            )
        return loader


class DetectionValidator(_FromShards):
    """Ultralytics' detection validator with batches from yolodata.

        YOLO("best.pt").val(data="coco.shards", validator=yolodata.DetectionValidator)

    `data` is a folder that `yolodata shard` wrote, or what Ultralytics takes, which is packed as
    for `DetectionTrainer`. Metrics are upstream's on the original dataset, to the bit, but with
    `reencode` and for what upstream does for COCO and LVIS alone (docs/training.md). Settings (see
    `Settings`) are given by `configure`, or as an argument `yolodata={…}`.

    Attributes:
        settings: of this validator.
    """


class SegmentationValidator(_FromShards, yolo.segment.SegmentationValidator):
    """Ultralytics' segmentation validator with batches from yolodata.

        YOLO("best.pt").val(data="coco.shards", validator=yolodata.SegmentationValidator)

    As `DetectionValidator`.
    """

    for_task = "segment"


class OBBValidator(_FromShards, yolo.obb.OBBValidator):
    """Ultralytics' validator of oriented boxes with batches from yolodata.

        YOLO("best.pt").val(data="dota.shards", validator=yolodata.OBBValidator)

    As `DetectionValidator`.
    """

    for_task = "obb"


class PoseValidator(_FromShards, yolo.pose.PoseValidator):
    """Ultralytics' pose validator with batches from yolodata.

        YOLO("best.pt").val(data="coco-pose.shards", validator=yolodata.PoseValidator)

    As `DetectionValidator`.
    """

    for_task = "pose"


BY_TASK: dict[str, type[_FromShards]] = {
    kind.for_task: kind
    for kind in (DetectionValidator, SegmentationValidator, OBBValidator, PoseValidator)
}
