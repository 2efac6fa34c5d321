"""`YOLO(...).train(..., trainer=yolodata.DetectionTrainer)`: upstream's trainer, our loaders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from ultralytics.cfg import get_cfg
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models import yolo
from ultralytics.utils import DEFAULT_CFG, LOGGER, RANK, colorstr
from ultralytics.utils.checks import check_imgsz
from ultralytics.utils.torch_utils import autocast, torch_distributed_zero_first, unwrap_model

from yolodata.checks import whole, wholes
from yolodata.errors import ConfigError
from yolodata.pipeline.albumentations.decisions import shares
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader
from yolodata.pipeline.options import DeviceOptions, EpochOptions, Ranks, ReadOptions
from yolodata.pipeline.subset import check_classes
from yolodata.pipeline.validation import ValidationLoader
from yolodata.provenance import weights
from yolodata.provenance.dataset_version import DatasetVersion
from yolodata.provenance.manifest import RunManifest, read
from yolodata.provenance.same_dataset import check_network_classes, check_same_dataset
from yolodata.redaction import refuse_secrets
from yolodata.shards import ShardDataset
from yolodata.shards.data_yaml import DATA_YAML, write_data_yaml
from yolodata.telemetry.step_range import profile_range
from yolodata.ultralytics.auto_pack import (
    describe_shards,
    for_our_loader,
    is_shards,
    refuse_unpacked,
)
from yolodata.ultralytics.dataset import label_options, loader_threads, open_split, shards_of
from yolodata.ultralytics.fallback import (
    TRAINERS,
    check_batch,
    check_distill_model,
    check_optimizer,
    check_quantize,
    check_sizes,
    upstream_trainer,
    upstream_transforms,
    warn_of_upstreams,
    why_not,
)
from yolodata.ultralytics.metrics import MetricsWatcher
from yolodata.ultralytics.profile import attach_profiler
from yolodata.ultralytics.run_folder import RunFolder, folders_of_resumed, made_in_run_folder
from yolodata.ultralytics.run_manifest import (
    manifest_of,
    note_upstreams,
    resumed,
    write_manifest,
)
from yolodata.ultralytics.settings import Settings
from yolodata.ultralytics.telemetry import StepWatcher, attach
from yolodata.ultralytics.trackers.calls import Trackers
from yolodata.ultralytics.validator import BY_TASK
from yolodata.ultralytics.versions import warn_of_untested_versions

if TYPE_CHECKING:
    from typing_extensions import Self
    from ultralytics.engine.trainer import Batches
    from ultralytics.engine.validator import BaseValidator

warn_of_untested_versions()

_NO_BATCH = "no batch"  # key of the reason
_OF_A_STEP = ("on_train_batch_start", "on_train_batch_end")


class ShardTrainer(yolo.detect.DetectionTrainer):
    """What our trainers change in Ultralytics': where batches come from.

    Subclasses name the task and add upstream's trainer of it.
    """

    settings: ClassVar[Settings] = Settings()
    for_task: ClassVar[str] = "detect"
    named: ClassVar[str] = "yolodata.{name}"  # how a trainer of this kind is asked for
    fallback: ClassVar[str] = "training with Ultralytics' own loader: {reason}."
    _run_folder: RunFolder | None = None

    @classmethod
    def configure(cls, **values: Any) -> type[Self]:
        """Returns this trainer with settings of its own.

        Args:
            values: settings by name; the others stay as they are.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        return type(cls.__name__, (cls,), {"settings": cls.settings.changed(values)})

    def __new__(
        cls,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> Any:
        """Our trainer; upstream's own (of another type) for what we have no loader for.

        Raises:
            ConfigError: the model is for another of our trainers, or nobody trains it.
        """
        overrides = dict(overrides or {})
        refuse_secrets(overrides)
        task = overrides.get("task") or cls.for_task
        upstreams = upstream_trainer(task, overrides.get("model"))
        if upstreams is not None:
            return cls._of_upstream(*upstreams, cfg, overrides, _callbacks)
        if task == cls.for_task:
            settings = cls._settings(overrides)
            # Upstream hands type(self) to the processes it starts for several GPUs.
            kind = cls if settings == cls.settings else cls.configure(**asdict(settings))
            return super().__new__(kind)
        right = cls.named.format(name=TRAINERS[task], task=task)
        raise ConfigError(
            f"this trainer is for task={cls.for_task}, and the model for task={task}; give "
            f"trainer={right}"
        )

    @classmethod
    def _settings(cls, overrides: Mapping[str, Any]) -> Settings:
        """Returns the settings of a trainer that is made with these arguments.

        Those given beside upstream's arguments change those of the run that is resumed, or of the
        class.
        """
        given: Mapping[str, Any] = overrides.get("yolodata") or {}
        kind = type(cls.settings)
        named = overrides.get("resume"), overrides.get("model")
        resumed = _settings_of_resumed(kind, *named, given)
        if given or (resumed is not None and cls.settings == kind()):
            return (resumed or cls.settings).changed(given)
        return cls.settings

    @classmethod
    def _of_upstream(
        cls,
        what: str,
        trainer: type[Any],
        cfg: Any,
        overrides: dict[str, Any],
        callbacks: dict[str, Any] | None,
    ) -> Any:
        """Upstream's own trainer of something, made with these arguments."""
        data = overrides.get("data")
        if data and is_shards(data):
            raise for_our_loader(data, f"which does not serve {what}; give the dataset itself")
        overrides.pop("yolodata", None)
        if RANK in {-1, 0}:
            warn_of_upstreams("training", "trainer", what)
        made = made_in_run_folder(trainer, cfg, overrides, callbacks)
        made.run_callbacks = partial(Trackers().run, made)
        if RANK in {-1, 0}:
            made.add_callback("on_train_start", partial(note_upstreams, what))
        return made

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        overrides = dict(overrides or {})
        overrides.pop("yolodata", None)  # they are part of the type
        if "data" in overrides:
            overrides["data"] = shards_of(overrides["data"])
        self._opened: dict[tuple[str, int], ShardDataset] = {}
        self._warned = False
        self._without_objects = self._dataset_not_asked = False
        self._told: Loader | None = None
        self.manifest: RunManifest | None = None
        args = get_cfg(cfg, overrides)  # it renames keys in place, once
        whole("seed", args.seed, 0, 2**32 - 1)
        if self._run_folder is None and not args.resume:
            self._run_folder = RunFolder(args)
            overrides["save_dir"] = args.save_dir
        self._trackers = Trackers(self.in_tracker)
        with self._starting():
            if self._run_folder is not None:
                self._run_folder.copy()
            super().__init__(cfg, overrides, _callbacks)
            self._check_arguments()
            if RANK in {-1, 0}:
                self.settings.save(self.save_dir)
            self.metrics_watcher, self.step_watcher = self._watchers()
            steps = profile_range(self.settings.profile)
            if steps is not None:
                attach_profiler(self, steps)

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """A start that fails leaves no run folder behind, and one that was there as it was."""
        try:
            yield
        except BaseException as error:
            if self._run_folder is not None:
                self._run_folder.give_up(error)
            raise

    def _watchers(self) -> tuple[MetricsWatcher | None, StepWatcher | None]:
        """Returns what watches the run, as far as settings ask for it."""
        if not self.settings.telemetry:
            return None, None
        if self.settings.metrics is None:
            return None, attach(self)
        metrics = MetricsWatcher(self.settings.metrics)
        steps = attach(self, listeners=[metrics.add_step])
        metrics.attach(self)
        return metrics, steps

    def _check_arguments(self) -> None:
        """Refuses what our loader would, before anything is packed."""
        check_batch(self.args.batch)
        check_sizes(self.args.imgsz)
        self.args.imgsz = check_imgsz(self.args.imgsz, max_dim=1)
        if type(self).build_optimizer.__module__.partition(".")[0] in ("ultralytics", "yolodata"):
            check_optimizer(self.args.optimizer)
        if self.args.amp == "bf16":
            autocast(torch.bfloat16, device=self.device.type)  # refuses what the first step would
        check_distill_model(self.args.distill_model)
        check_quantize(self.args.quantize)
        if self._fallback("train") is None:
            self._augmentation()
            options = label_options(self.args, self.data, "train", self.for_task)
            named = [] if self.args.single_cls else wholes("classes", options.classes or [])
            check_classes(named, self.data["nc"])

    def _augmentation(self) -> AugmentConfig:
        given = {**vars(self.args), "augmentations": None}
        for name, value in given.items():  # mosaic=False is 0 to upstream
            given[name] = int(value) if isinstance(value, bool) else value
        return AugmentConfig.from_ultralytics(given)

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Resumes as upstream does; its run folder may be another one than the arguments name.

        Raises:
            ConfigError: it is asked for what `yolodata.train` does.
        """
        if self.args.resume == "auto":  # a file that is not there is the newest run, to upstream
            raise ConfigError(
                "resume='auto' is for trainer=yolodata.train.trainer_for(…) and `yolodata train`; "
                "with this trainer, Ultralytics would go on with the newest run of any name; give "
                "that one, or resume='RUN/weights/last.pt'"
            )
        super().check_resume(overrides)
        if self.resume:
            self._run_folder = RunFolder(self.args)
            self._run_folder.copy()

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Upstream's, which takes a network for the dataset's classes, not for those it has."""
        network = None if ckpt is None else ckpt.get("ema") or ckpt.get("model")
        names = getattr(network, "names", None)
        if self.resume and names is not None:
            check_network_classes(names, self.data["names"])
        super().resume_training(ckpt)

    def train(self) -> None:
        """Trains; a start that fails leaves no run folder behind."""
        assert self._run_folder is not None
        if self.ddp:  # processes that upstream starts have begun, or not; this one cannot know
            self._run_folder.begin()
            self._run_folder.close()  # the first of them takes it
        try:
            with self._starting():
                super().train()
        finally:
            self._run_folder.close()

    # Data.

    def get_dataset(self) -> dict[str, Any]:
        """What is known of the dataset: upstream's dict, also for a folder of shards."""
        if not is_shards(self.args.data):
            refuse_unpacked(self.args.data)
            return super().get_dataset()
        data = describe_shards(self.args.data, ["train", self._split("val")])
        if RANK in {-1, 0}:
            self._say_where_files_are()
        if self.args.single_cls:
            LOGGER.info("Overriding class names with single class.")
            data["names"], data["nc"] = {0: "item"}, 1
        return data

    def _say_where_files_are(self) -> None:
        """Has upstream's own `val` find what is trained on, also in shards of older versions."""
        try:
            write_data_yaml(self.args.data)
        except OSError as error:
            LOGGER.warning(
                f"yolodata: {self.args.data} has no {DATA_YAML}, and cannot be written to ({error})"
                "; Ultralytics' own val() cannot read it, `yolodata val` can"
            )

    def _split(self, mode: str) -> str:
        return "train" if mode == "train" else self.args.split or "val"

    def _shards(self, mode: str) -> ShardDataset:
        split = self._split(mode)
        key = (split, int(self.args.imgsz))
        if key not in self._opened:
            self._opened[key] = open_split(
                self.args, self.data, split, self.settings, self.for_task
            )
        return self._opened[key]

    def _fallback(self, mode: str) -> str | None:
        """Why upstream's loader is needed for this mode, or None."""
        if mode != "train" and self.data.get("channels", 3) == 3:
            return None
        return why_not(self.args, self.data, transforms=self._transforms)

    @cached_property
    def _transforms(self) -> Any:
        return upstream_transforms(self.args)

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Batches:
        """Returns our loader for `mode` "train" or "val"; upstream's where ours cannot serve.

        Raises:
            YolodataError: ours cannot serve, and upstream's cannot read shards.
        """
        reason = self._fallback(mode)
        if reason is not None:
            if is_shards(self.args.data):
                raise for_our_loader(self.args.data, f"but {reason}; or give the dataset's YAML")
            if not self._warned:
                LOGGER.warning(f"yolodata: {self.fallback.format(reason=reason)}")
                self._warned = True
            return super().get_dataloader(dataset_path, batch_size, rank, mode)
        with torch_distributed_zero_first(rank):
            shards = self._shards(mode)
        self._say_what_is_not_asked()
        make = self._train_loader if mode == "train" else self._val_loader
        loader = make(shards, batch_size, rank)
        prefix = colorstr(f"{mode}: ")
        LOGGER.info(
            f"{prefix}{len(loader.dataset)} images from {shards.path} ({shards.meta.codec} shards, "
            f"{loader.num_workers} threads)"
        )
        return loader

    def _say_what_is_not_asked(self) -> None:
        """Warns once of a subclass whose own dataset upstream's loader would read from."""
        upstreams = yolo.detect.DetectionTrainer.build_dataset
        if type(self).build_dataset is upstreams or self._dataset_not_asked or RANK not in {-1, 0}:
            return
        self._dataset_not_asked = True
        LOGGER.warning(
            f"yolodata: build_dataset of {type(self).__qualname__} has no effect, because "
            "yolodata's loader makes the batches; change them in preprocess_batch or with "
            "augmentations=[…], or train with Ultralytics' own trainer"
        )

    def _common(self, rank: int, mode: str) -> dict[str, Any]:
        world_size = max(self.world_size, 1) if rank != -1 else 1
        return {
            "labels": label_options(self.args, self.data, self._split(mode), self.for_task),
            "ranks": Ranks(max(rank, 0), world_size),
            "reading": ReadOptions(
                self._threads(world_size),
                self.settings.prefetch if mode == "train" else None,
                self.settings.check,
                self.settings.max_unreadable,
                self.settings.pin,
            ),
        }

    def _threads(self, world_size: int) -> int:
        workers = int(self.args.workers)
        return loader_threads(self.settings, self.device.type, workers, world_size)

    def _train_loader(self, shards: ShardDataset, batch_size: int, rank: int) -> Loader:
        if self.args.cache and RANK in {-1, 0}:
            LOGGER.info(
                f"yolodata: cache={self.args.cache} is not needed, shards are mapped; on a GPU, "
                f"yolodata's own cache={self.settings.cache} decides"
            )
        if self._transforms is not None and self.device.type == "cuda" and RANK in {-1, 0}:
            changed, away = shares(self._transforms, on_device=True)
            LOGGER.info(
                f"yolodata: Albumentations changes about {changed:.1%} of the samples; about "
                f"{away:.1%} have to go to the CPU and back for it"
            )
        self._without_flips(shards)
        loader = Loader(
            shards,
            batch_size,
            augment=self._augmentation(),
            seed=int(self.args.seed),
            epochs=EpochOptions(drop_last=bool(self.args.compile)),
            transforms=self._transforms,
            device=self._delivery(),
            **self._common(rank, "train"),
        )
        loader.on_out_of_memory = _no_batch
        self._say_where_nothing_is_learned(loader)
        return loader

    def _say_where_nothing_is_learned(self, loader: Loader) -> None:
        """Warns once where no image has an object; upstream does so of empty label files."""
        if len(loader.dataset.subset.cls) or self._without_objects or RANK not in {-1, 0}:
            return
        self._without_objects = True
        kept = self.args.classes
        why = "all label files are empty" if kept is None else f"none is of classes={kept}"
        LOGGER.warning(
            f"yolodata: the {len(loader.dataset)} training images have no object ({why}); the "
            "model learns that there is nothing"
        )

    def _without_flips(self, shards: ShardDataset) -> None:
        """Poses are flipped only if it is known what is left and right; upstream says so, too."""
        flips = self.args.fliplr or self.args.flipud
        if self.for_task == "pose" and flips and not shards.meta.flip_idx:
            self.args.fliplr = self.args.flipud = 0.0
            LOGGER.warning(
                "yolodata: fliplr and flipud are turned off, because the dataset has no flip_idx."
            )

    def _delivery(self) -> DeviceOptions:
        """Where and as what training batches are made.

        On a GPU under AMP, as what autocast would turn them into before the first convolution, and
        in its order of memory; multi-scale training resizes them first, in single precision, as
        upstream does.
        """
        if self.device.type != "cuda":
            return DeviceOptions()
        output = "uint8"
        if getattr(self, "amp", False) and not self.args.multi_scale:
            output = "bfloat16" if self.args.amp == "bf16" else "float16"
        return DeviceOptions(
            device=self.device,
            cache=self.settings.cache,
            hw_decoder_load=self.settings.hw_decoder_load,
            output=output,
            channels_last=_channels_last(unwrap_model(self.model)),
            pin_memory=True,
        )

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Upstream's, unless the pictures are on the device and in 0-1 already.

        Raises:
            torch.OutOfMemoryError: for a batch that the device had no memory for: here upstream
                halves the batch size, and where batches are asked for it does not.
        """
        if _NO_BATCH in batch:
            raise batch[_NO_BATCH]
        if batch["img"].is_floating_point():
            return batch
        return super().preprocess_batch(batch)

    def _val_loader(self, shards: ShardDataset, batch_size: int, rank: int) -> ValidationLoader:
        return ValidationLoader(
            shards,
            batch_size,
            imgsz=int(self.args.imgsz),
            stride=max(int(unwrap_model(self.model).stride.max()), 32),
            shape_batch=self.validation_shapes(batch_size),
            device=DeviceOptions(pin_memory=self.device.type == "cuda"),
            **self._common(rank, "val"),
        )

    def validation_shapes(self, batch_size: int) -> int:
        """Returns how many pictures of validation have one shape; upstream's are a rank's batch.

        Args:
            batch_size: pictures of a rank's batch.
        """
        return batch_size

    def get_validator(self) -> BaseValidator:
        """Upstream's validator; for a folder of shards ours.

        The last validation of a run reads the dataset's description again, as a YAML.
        """
        if not is_shards(self.args.data):
            return super().get_validator()
        return BY_TASK[self.for_task](
            self.test_loader, self.save_dir, copy(self.args), self.callbacks
        )

    # What the run is made of.

    def _manifest_now(self) -> RunManifest:
        """What the run would be made of if it began now; data are packed."""
        reason = self._fallback("train")
        dataset: DatasetVersion | str = f"Ultralytics' own loader trains: {reason}"
        if reason is None:
            ours = [mode for mode in ("train", "val") if self._fallback(mode) is None]
            splits = {self._split(mode): self._shards(mode) for mode in ours}
            dataset = DatasetVersion.of(str(self.args.data), splits)
        return manifest_of(self.args, dataset, self.settings.as_given())

    def _note_manifest(self) -> None:
        """Writes it, once all that is known of a run that Ultralytics begins or resumes.

        Raises:
            ConfigError: the run is resumed with another dataset, or the disk is full.
        """
        self.manifest = self._manifest_now()
        if self.resume:
            before, run = read(self.save_dir), Path(self.save_dir)
            said = check_same_dataset(
                None if before is None else before.dataset,
                self.manifest.dataset,
                run,
                self.settings.other_data,
            )
            if said:
                LOGGER.warning(f"yolodata: {said}")
            self.manifest = resumed(self.manifest, before, int(self.start_epoch))
        write_manifest(self.manifest, self.save_dir)

    def save_model(self) -> bool:
        """Writes upstream's files of weights, with the manifest in each."""
        with weights.noting(self.wdir, self.manifest):
            return super().save_model()

    def final_eval(self) -> None:
        """Evaluates the best weights, as upstream does, which saves all of them anew before."""
        with weights.keeping([self.last, self.best] if RANK in {-1, 0} else []):
            super().final_eval()

    # Where upstream's trainer has to tell or ask our loader.

    def batches_done(self) -> int:
        """Batches of an epoch that were trained on before it goes on; upstream begins it anew."""
        return 0

    def run_callbacks(self, event: str) -> None:
        """Runs what upstream would; an epoch that starts is told to the loader first.

        Upstream leaves the epoch to the order of iteration on a single device, which a resumed run
        would begin anew. A tracker that fails ends no training (see `Trackers`).
        """
        if event == "on_train_start" and self.manifest is None and RANK in {-1, 0}:
            self._note_manifest()
        if event == "on_train_epoch_start" and isinstance(self.train_loader, Loader):
            self.train_loader.set_epoch(self.epoch)
        if event == "on_train_batch_end":
            self._say_preflight()
        if event not in _OF_A_STEP or self.step_watcher is None:
            self._trackers.run(self, event)
            if event == "on_train_start":  # nothing refuses to start any more
                assert self._run_folder is not None
                self._run_folder.begin()
            return
        before = self.step_watcher.enter("callbacks")
        self._trackers.run(self, event)
        self.step_watcher.enter(before)

    def in_tracker(self, name: str) -> AbstractContextManager[None]:
        """Returns what a call of a tracker happens in; see `Trackers`.

        Args:
            name: of the tracker.
        """
        return nullcontext()

    def _say_preflight(self) -> None:
        """Say once of each loader where a GPU's pictures come from, and where threads are kept."""
        loader = self.train_loader
        if isinstance(loader, Loader) and loader.preflight and self._told is not loader:
            self._told = loader
            if RANK in {-1, 0}:
                cache = "" if loader.device == "cpu" else f"cache={loader.cache}: "
                LOGGER.info(f"{colorstr('train: ')}{cache}{loader.preflight}")

    def auto_batch(self) -> int:  # type: ignore[override] # as upstream's own
        """Upstream's estimate of the batch size, from our label table."""
        if self._fallback("train") is not None:
            return super().auto_batch()
        shards = self._shards("train")
        counts = np.diff(shards.object_offset)
        most = int(counts.max()) if len(counts) else 0
        return BaseTrainer.auto_batch(self, most * 4, dataset_size=len(shards))


class DetectionTrainer(ShardTrainer):
    """Ultralytics' detection trainer with batches from yolodata.

        YOLO("yolo26n.yaml").train(data="coco8.yaml", trainer=yolodata.DetectionTrainer)

    `data` is what Ultralytics takes, packed into shards the first time (and again when it
    changed), or a folder that `yolodata shard` wrote. Model, losses, schedule, validation, plots,
    callbacks and checkpoints are upstream's; a checkpoint does not need yolodata to be loaded.

    Settings (see `Settings`) are given as `trainer=DetectionTrainer.configure(codec="jpeg")`, or
    as an argument `yolodata={"codec": "jpeg"}` beside upstream's. They reach the processes that
    Ultralytics starts for several GPUs, because they are part of the trainer's type. They reach a
    resumed run, because they are kept in the run folder (all but `other_data`).

    What our training loader cannot do (see `fallback.why_not`) is left to upstream's own, with one
    warning; with a folder of shards, which that cannot read, it is a ConfigError. Given a model of
    a task or family that we have no loader for (`fallback.upstream_trainer`), the class makes
    upstream's own trainer of it; given one of another task of ours, it raises ConfigError.
    """


class SegmentationTrainer(ShardTrainer, yolo.segment.SegmentationTrainer):
    """Ultralytics' segmentation trainer with batches from yolodata.

        YOLO("yolo26n-seg.yaml").train(data="coco8-seg.yaml", trainer=yolodata.SegmentationTrainer)

    Settings and data as for `DetectionTrainer`; every object needs an outline.
    """

    for_task = "segment"


class OBBTrainer(ShardTrainer, yolo.obb.OBBTrainer):
    """Ultralytics' trainer of oriented boxes with batches from yolodata.

        YOLO("yolo26n-obb.yaml").train(data="dota8.yaml", trainer=yolodata.OBBTrainer)

    Settings and data as for `DetectionTrainer`; every object needs its four corners, or an outline.
    """

    for_task = "obb"


class PoseTrainer(ShardTrainer, yolo.pose.PoseTrainer):
    """Ultralytics' pose trainer with batches from yolodata.

        YOLO("yolo26n-pose.yaml").train(data="coco8-pose.yaml", trainer=yolodata.PoseTrainer)

    Settings and data as for `DetectionTrainer`; the dataset's YAML needs `kpt_shape`, and
    `flip_idx` for flips.
    """

    for_task = "pose"


def _channels_last(model: torch.nn.Module) -> bool:
    """Whether the first convolution wants pictures in the order (B, H, W, 3).

    It converts them to the order of its weights, which upstream changes (`channels_last`).
    """
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            last = layer.weight.is_contiguous(memory_format=torch.channels_last)
            return last and not layer.weight.is_contiguous()
    return False


def _no_batch(error: Exception) -> dict[str, Any]:
    return {"img": torch.empty(0, 3, 0, 0), _NO_BATCH: error.with_traceback(None)}


def _settings_of_resumed(
    kind: type[Settings], resume: Any, model: Any, given: Mapping[str, Any]
) -> Settings | None:
    """Settings of the run that is resumed, but for those that are given now.

    `resume` or `model` names its checkpoint.
    """
    for folder in folders_of_resumed(resume, model):
        found = kind.of_run(folder, given)
        if found is not None:
            return found
    return None
