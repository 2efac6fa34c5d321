"""Trainers that run under torchrun, accumulate without idle traffic, and go on where they were."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn.parallel import DistributedDataParallel
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.utils import DEFAULT_CFG, LOGGER
from ultralytics.utils.torch_utils import init_seeds, unwrap_model

from yolodata.errors import YolodataError
from yolodata.pipeline.loader import Loader
from yolodata.train import checkpoints
from yolodata.train.arithmetic import (
    lr_factor,
    share_cores,
    spread_weights,
)
from yolodata.train.callbacks import callbacks_of_file
from yolodata.train.criterion import Criterion
from yolodata.train.exits import Preempted
from yolodata.train.guard import Guard
from yolodata.train.handover import check_handover
from yolodata.train.loop import EpochLoop
from yolodata.train.memory import dry_step
from yolodata.train.run_folder import FOLDER, newest, weights_whole
from yolodata.train.saving import Saving
from yolodata.train.settings import TrainSettings
from yolodata.train.state import Position
from yolodata.train.upload import Uploader
from yolodata.train.world import World
from yolodata.ultralytics import trainer as plain
from yolodata.ultralytics.fallback import TRAINERS

UPLOAD_AT_STOP, UPLOAD_AT_END = 8.0, 900.0
"""Seconds for the last checkpoint to arrive at `upload`; after a signal there are 15 in all, and
after an error nobody waits long."""

_OWN_BUFFERS: dict[str, Any] = {"broadcast_buffers": False}
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters:
    _OWN_BUFFERS = {"forward_sync_buffers": False}  # its name from torch 2.13 on


class DurableTrainer(EpochLoop, Saving, plain._Batches):
    """What `trainer_for` adds to one of yolodata's trainers.

    Under torchrun it takes its place from the environment; else it trains in one process. See
    docs/training.md, and `TrainSettings` for what can be set.

    Attributes:
        world: the ranks.
        at: where the run is.
        exact: whether checkpoints within an epoch are possible: with yolodata's loader.
    """

    settings: ClassVar[TrainSettings] = TrainSettings()
    named: ClassVar[str] = "yolodata.train.trainer_for('{task}')"
    fallback: ClassVar[str] = (
        f"{plain._Batches.fallback} There are no checkpoints within an epoch; an interrupted one "
        "begins anew."
    )

    @classmethod
    def _of_upstream(
        cls, task: str, cfg: Any, overrides: dict[str, Any], callbacks: dict[str, Any] | None
    ) -> Any:
        check_handover(task, overrides.get("resume"))
        return super()._of_upstream(task, cfg, overrides, callbacks)

    def __init__(
        self: Any,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        overrides = dict(overrides or {})
        self.world = World.join()
        overrides["device"] = self.world.device(overrides.get("device"))
        self.at = Position()
        self._first_backward = True
        given = overrides.get("yolodata") or {}
        self._going_on = self._choose_run_folder(cfg, overrides, self.settings.changed(given))
        self.guard = Guard(self.world, self.settings.changed(given).stall, self._last_words)
        super().__init__(cfg, overrides, _callbacks)
        if not self.world.alone:
            # The first weights do not depend on the number of ranks: those of rank 0 are spread.
            init_seeds(self.args.seed + self.world.rank, deterministic=self.args.deterministic)
            self.ddp = False
            share_cores(self.world.local_size)
        self.add_callback("on_val_start", self._validating)
        self.add_callback("on_val_batch_end", self._validated)
        if self.settings.callbacks:
            for event, function in callbacks_of_file(self.settings.callbacks).items():
                self.add_callback(event, function)

    def _validating(self: Any, validator: Any) -> None:
        self.guard.pulse.section("validating", parts=True)

    def _validated(self: Any, validator: Any) -> None:
        self.guard.pulse.part()
        if validator.batch_i + 1 == len(validator.dataloader):
            self.guard.pulse.section("summing up the validation")

    # Where the run is kept, and what is there.

    def _choose_run_folder(
        self: Any, cfg: Any, overrides: dict[str, Any], settings: TrainSettings
    ) -> Path | None:
        """Rank 0 chooses the run folder and the checkpoint to go on from, for all ranks."""
        resume = overrides.get("resume")
        named = Path(resume) if isinstance(resume, (str, Path)) and resume != "auto" else None
        ours = resume == "auto" or (named is not None and named.suffix == checkpoints.SUFFIX)
        if resume and not ours:
            return None  # Ultralytics' own resume, from last.pt
        overrides.pop("resume", None)
        found: Path | None = None
        if self.world.rank == 0:
            if resume == "auto":
                overrides["exist_ok"] = True
            if named is not None:
                overrides["save_dir"] = str(named.resolve().parent.parent)
            upstreams = {name: overrides[name] for name in overrides if name != "yolodata"}
            folder = get_save_dir(get_cfg(cfg, upstreams))
            found = named.resolve() if named is not None else None
            if resume == "auto":
                found = newest(folder, settings.upload)
            if found is not None:
                checkpoints.forget_newer(found)
                LOGGER.info(f"yolodata: going on from {found}")
            overrides["save_dir"] = str(folder)
        chosen = [overrides.get("save_dir"), None if found is None else str(found)]
        overrides["save_dir"], path = self.world.share("run folder", chosen)
        return None if path is None else Path(path)

    def check_resume(self: Any, overrides: dict[str, Any]) -> None:
        """Upstream's, unless the run goes on from a checkpoint of ours."""
        super().check_resume(overrides)
        if self._going_on is not None:
            self.args.resume = True  # results.csv stays

    def get_dataset(self: Any) -> dict[str, Any]:
        """Upstream's; one process of each machine first, which may download."""
        with self.world.first_of_machine("dataset"):
            data: dict[str, Any] = super().get_dataset()
        return data

    # Setup.

    def _do_train(self: Any) -> None:
        try:
            self._guarded()
        except Exception:  # what was written is kept all the same; the others know already
            with contextlib.suppress(YolodataError):
                if self._writer is not None:
                    self._writer.wait(timeout=10)
            self._end_upload(UPLOAD_AT_STOP)
            raise
        self.world.stop()

    def _guarded(self: Any) -> None:
        with self.guard.on_duty():
            try:
                self._set_up()
                self._run()
                self._writer.wait()
                self._end_upload(UPLOAD_AT_END)
                self.world.meet("end")
            except Preempted:
                with self.guard.undisturbed():
                    self._write_unsaved()
                    self._end_upload(UPLOAD_AT_STOP)
                raise
            finally:
                self._close_loaders()
                if self.world.backend != "nccl":  # which would wait for what will not come
                    self.world.stop()

    def _set_up(self: Any) -> None:
        self.guard.section("preparing the data", endless=True)
        with self.world.first_of_machine("shards"):
            self._prepare_data()
        self.world.meet("data")
        self.guard.section("connecting", endless=True)
        self.world.start(self.device)
        self.guard.section("setting up", endless=True)
        self._setup_train()
        model = unwrap_model(self.model)
        if not hasattr(model, "student_model"):  # distillation calls the criterion its own way
            inner = getattr(model, "criterion", None) or model.init_criterion()
            model.criterion = Criterion(inner, self.world, self.settings.whole_batch_loss)
        self.exact = isinstance(self.train_loader, Loader)
        self.train_time_start = time.time()
        self.optimizer.zero_grad()
        wanted = self.settings.dry_step
        if self.exact and (self.device.type == "cuda" if wanted is None else wanted):
            self.guard.section("trying the largest batch")
            dry_step(self)
        self.guard.section("starting")
        self._wrap_model()
        self.at = Position(self.start_epoch)
        if self._going_on is not None:
            self._go_on(self._going_on)
        self._writer = checkpoints.Writer(
            self.save_dir / FOLDER, self.settings.keep, self._checkpoint_written
        )
        self._last_checkpoint = time.monotonic()
        if self.settings.upload is not None and self.world.rank == 0:
            self._uploader = Uploader(self.settings.upload, keep=self.settings.keep)

    def _prepare_data(self: Any) -> None:
        """Packs what is not packed, before the ranks are connected: it may take hours."""
        for mode in ("train", "val"):
            if self._fallback(mode) is None:
                self._shards(mode)

    def _setup_ddp(self: Any) -> None:
        """The ranks are connected already, by `World.start`."""

    def _setup_train(self: Any) -> None:
        # Upstream wraps the model here if world_size is above 1, for CUDA alone; `_wrap_model` does
        # it for every kind of device, after the dry step.
        self.world_size = 1
        super()._setup_train()

    def _build_train_pipeline(self: Any) -> None:
        if not self.world.alone and self.world_size == 1:
            self.world_size = self.world.size
            if self.batch_size % self.world.size or self.batch_size < self.world.size:
                size = self.world.size
                raise YolodataError(
                    f"batch={self.batch_size} is the batch of all {size} processes together and "
                    f"must be a multiple of {size}; give "
                    f"batch={max(self.batch_size // size, 1) * size}"
                )
            self._agree_on_amp()
            spread_weights(self.model)  # upstream copies them next, for the average
        super()._build_train_pipeline()

    def _wrap_model(self: Any) -> None:
        if not self.world.alone:
            self.model = DistributedDataParallel(
                self.model,
                device_ids=None if self.device.type == "cpu" else [self.device.index],
                # Upstream's: what its heads leave unused differs from batch to batch.
                find_unused_parameters=not self.args.compile,
                static_graph=bool(self.args.compile),
                **_OWN_BUFFERS,
            )

    def _agree_on_amp(self: Any) -> None:
        """Upstream asks rank 0 alone whether half precision works."""
        able = all(self.world.gather(bool(self.amp)))
        if able != self.amp:
            self.amp = able
            self.scaler = torch.amp.GradScaler("cuda", enabled=able and self.args.amp != "bf16")

    def get_dataloader(
        self: Any, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        """Upstream gives the rank on this machine, which is another one's on the next machine."""
        if rank != -1 and not self.world.alone:
            rank = self.world.rank
        return super().get_dataloader(dataset_path, batch_size, rank, mode)

    def build_optimizer(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Upstream's, with the learning rate scaled where the batch is larger than `nbs`."""
        optimizer = super().build_optimizer(*args, **kwargs)
        larger = self.batch_size * self.accumulate / self.args.nbs
        factor = lr_factor(type(optimizer).__name__, larger, self.settings.scale_lr)
        if factor != 1:
            LOGGER.info(f"yolodata: learning rates times {factor:.3g} for batch={self.batch_size}")
            for group in optimizer.param_groups:
                group["lr"] *= factor
        return optimizer

    def _prove_equal(self: Any) -> None:
        """All ranks are about to make the same steps over the same data, or all of them end."""
        mine = {
            "batches": len(self.train_loader),
            "images": len(self.train_loader.dataset),
            "batch of all": int(self.batch_size),
            "epoch": self.at.epoch,
            "batch in it": self.at.step,
            "accumulate": self._nominal,
        }
        if self.exact:
            mine["stream"] = self.train_loader.state_dict()
        told = self.world.gather(mine)
        wrong = [
            f"{name}: " + ", ".join(f"{rank[name]} on rank {r}" for r, rank in enumerate(told))
            for name in mine
            if any(rank.get(name) != told[0][name] for rank in told)
        ]
        if wrong:
            raise YolodataError(
                "the ranks do not see the same data, so that some would wait for ever for others; "
                "give every machine the same dataset and settings:\n  " + "\n  ".join(wrong)
            )

    def batches_done(self: Any) -> int:
        """Batches of an epoch that were trained on before it goes on."""
        return int(self.at.step)

    # Its end.

    def _preempted(self: Any) -> None:
        why = self.guard.stop.why or "another rank was asked to stop"
        self._unsaved = None
        self.world.largest([0])  # nobody leaves before rank 0 has written
        if self.world.rank == 0:
            done = f"epoch {self.at.epoch + 1}, batch {self.at.step}"
            LOGGER.info(f"\nyolodata: {why}: stopped after {done}; resume=auto goes on from there.")
        self.world.stop()
        raise Preempted(why)

    def save_model(self: Any) -> bool:
        """Upstream's files, each of them whole or as it was before."""
        with weights_whole(self):
            return bool(super().save_model())

    def final_eval(self: Any) -> None:
        """Upstream's; on CPUs with several ranks, where its last validation asks for CUDA, ours."""
        if self.world.rank != 0:  # which makes the files smaller first
            self.guard.pulse.wait()
        if self.world.alone or self.device.type != "cpu":
            super().final_eval()
            return
        if self.world.rank == 0 and self.last.exists():
            from ultralytics.utils.torch_utils import strip_optimizer

            kept = strip_optimizer(self.last)
            if self.best.exists():
                strip_optimizer(self.best, updates={"train_results": kept.get("train_results")})
        self.world.meet("stripped")
        if self.best.exists():
            from ultralytics.nn.tasks import load_checkpoint

            best, _ = load_checkpoint(self.best)
            self.ema.ema.load_state_dict(best.float().state_dict())
            metrics, _ = self.validate()
            if self.world.rank == 0:
                self.metrics = metrics
                self.run_callbacks("on_fit_epoch_end")

    def _close_loaders(self: Any) -> None:
        for name in ("train_loader", "test_loader"):
            loader: Any = getattr(self, name, None)
            if hasattr(loader, "close"):
                loader.close()


@functools.cache
def trainer_for(task: str) -> type[Any]:
    """The trainer of a task ("detect", "pose", …) that this package describes.

        YOLO("yolo26n.yaml").train(data="coco8.yaml", trainer=yolodata.train.trainer_for("detect"))

    For a task that yolodata has no loader for, it makes upstream's own trainer, with one warning.
    """
    name = TRAINERS.get(task, "DetectionTrainer")
    base = getattr(plain, name)
    return type(name, (DurableTrainer, base), {"__module__": __name__, "__doc__": base.__doc__})
