"""Trainers that run under torchrun, accumulate without idle traffic, and go on where they were."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import DEFAULT_CFG, LOGGER
from ultralytics.utils.torch_utils import init_seeds, unwrap_model

from yolodata.errors import ConfigError, YolodataError
from yolodata.pipeline.validation import ValidationLoader
from yolodata.telemetry.journal import Journal
from yolodata.train.callbacks import callbacks_of_file
from yolodata.train.checkpoint import file, run_folder
from yolodata.train.checkpoint.continuation import continuation
from yolodata.train.checkpoint.saver import Saver
from yolodata.train.checkpoint.state import plain as plain_values
from yolodata.train.distributed.collectives import broadcast_weights
from yolodata.train.distributed.data_parallel import data_parallel
from yolodata.train.distributed.global_loss import GlobalLoss
from yolodata.train.distributed.process_group import ProcessGroup, share_cores
from yolodata.train.distributed.validation_loss import ValidationLoss
from yolodata.train.distributed.waits import CollectiveWaits
from yolodata.train.exit_codes import Preempted
from yolodata.train.fallback import check_fallback
from yolodata.train.loop import EpochLoop, close_loaders
from yolodata.train.resumable import Position, ResumableTrainer
from yolodata.train.settings import TrainSettings
from yolodata.train.start_note import StartNote
from yolodata.train.watchdog.supervisor import Supervisor
from yolodata.ultralytics import trainer as plain
from yolodata.ultralytics.fallback import TRAINERS, check_shared_batch
from yolodata.ultralytics.run_folder import RunFolder
from yolodata.ultralytics.run_manifest import write_manifest

if TYPE_CHECKING:
    from ultralytics.engine.trainer import Batches
    from ultralytics.engine.validator import BaseValidator

UPLOAD_AT_STOP, UPLOAD_AT_END = 8.0, 900.0
"""Seconds for the last checkpoint to arrive at `upload`; after a signal there are 15 in all, and
after an error nobody waits long."""


class DurableTrainer(plain.ShardTrainer, ResumableTrainer):
    """What `trainer_for` adds to one of yolodata's trainers.

    Under torchrun it takes its place from the environment; else it trains in one process. See
    docs/training.md, and `TrainSettings` for what can be set.

    Attributes:
        process_group: the ranks.
        supervisor: ends the run when it is asked to stop, or when a rank is lost.
        saver: writes the state of the run; None before training is set up.
        loop: makes the epochs; None before training is set up.
        at: where the run is.
    """

    settings: ClassVar[TrainSettings] = TrainSettings()
    named: ClassVar[str] = "yolodata.train.trainer_for('{task}')"
    fallback: ClassVar[str] = (
        f"{plain.ShardTrainer.fallback} There are no checkpoints within an epoch; an interrupted "
        "one begins anew."
    )

    @classmethod
    def _of_upstream(
        cls,
        what: str,
        trainer: type[Any],
        cfg: Any,
        overrides: dict[str, Any],
        callbacks: dict[str, Any] | None,
    ) -> Any:
        check_fallback(what, overrides.get("resume"))
        return super()._of_upstream(what, trainer, cfg, overrides, callbacks)

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        overrides = dict(overrides or {})
        self.process_group = ProcessGroup.join()
        overrides["device"] = self.process_group.device(overrides.get("device"))
        self.at = Position()
        self.saver: Saver | None = None
        self.loop: EpochLoop | None = None
        settings = self.settings.changed(overrides.get("yolodata") or {})
        self.given: dict[str, Any] = {}
        with self._starting():
            chosen = self._choose_run_folder(cfg, overrides, settings)
            self._going_on, self._stage, self._optimizer = chosen
            if self._stage == "done":
                self._is_done(Path(overrides["save_dir"]))
                return
            self.supervisor = Supervisor(self.process_group, settings.stall, self._last_words)
            own = callbacks_of_file(settings.callbacks) if settings.callbacks else {}
            super().__init__(cfg, overrides, _callbacks)
        self.given = self.given or plain_values(vars(self.args))
        if not self.process_group.alone:
            # The first weights do not depend on the number of ranks: those of rank 0 are spread.
            seed = self.args.seed + self.process_group.rank
            init_seeds(seed, deterministic=self.args.deterministic)
            random.seed(self.args.seed)  # the sizes of `multi_scale` are those of one process
            self.ddp = False
            share_cores(self.process_group.local_size)
        self.add_callback("on_val_start", self._validation_begins)
        self.add_callback("on_val_batch_end", self._validation_batch_ends)
        for event, function in own.items():
            self.add_callback(event, function)

    def _validation_begins(self, validator: BaseValidator) -> None:
        what = "validating the best model" if self.at.stage == "finished" else "validating"
        self.supervisor.heartbeat.phase(what, batches=True)

    def _validation_batch_ends(self, validator: BaseValidator) -> None:
        self.supervisor.heartbeat.batch_finished()
        if validator.batch_i + 1 == len(validator.dataloader):
            self.supervisor.heartbeat.phase("summing up the validation")

    @property
    def other_data(self) -> bool:
        """Whether a checkpoint of another dataset may be taken up."""
        return self.settings.other_data

    # Where the run is kept, and what is there.

    def _choose_run_folder(
        self, cfg: Any, overrides: dict[str, Any], settings: TrainSettings
    ) -> tuple[Path | None, str | None, str]:
        """Returns the checkpoint to go on from, if any, at which stage, and its optimiser.

        Rank 0 chooses it and the run folder.

        Raises:
            ConfigError: the run cannot go on with these arguments.
        """
        resume = overrides.get("resume")
        named = Path(resume) if isinstance(resume, (str, Path)) and resume != "auto" else None
        ours = resume == "auto" or (named is not None and named.suffix == file.SUFFIX)
        if resume and not ours:
            return None, None, ""  # Ultralytics' own resume, from last.pt
        overrides.pop("resume", None)
        own = overrides.pop("yolodata", None)
        args = get_cfg(cfg, overrides)  # it renames keys in place, once
        overrides["yolodata"] = own
        self.given = plain_values(vars(args))
        chosen: list[Any] = [None] * 4
        if self.process_group.rank == 0:
            try:
                chosen = self._find_checkpoint(args, resume, named, settings)
            except YolodataError as error:  # which the other ranks would wait for
                if self.process_group.alone:
                    raise
                chosen = [None, None, "refused", str(error)]
        folder, path, stage, optimizer = self.process_group.share("run folder", chosen)
        if stage == "refused":
            raise ConfigError(optimizer)
        overrides["save_dir"] = folder
        return None if path is None else Path(path), stage, optimizer or ""

    def _find_checkpoint(
        self, args: Any, resume: Any, named: Path | None, settings: TrainSettings
    ) -> list[Any]:
        """Returns the run folder, and of the checkpoint in it path, stage and optimiser."""
        if resume == "auto":
            args.exist_ok = True
        # As it is written: a link among the checkpoints would lead to another run folder.
        found = None if named is None else Path(os.path.abspath(named))
        if found is not None:
            args.save_dir = str(found.parent.parent)
        self._run_folder = RunFolder(args)
        folder = self._run_folder.path
        if resume == "auto":
            found = run_folder.find_newest(folder, settings.upload)
            if found is None:
                run_folder.refuse_to_write_over(folder)
        if found is None:
            return [str(folder), None, None, None]
        state = file.read(found)
        evaluated = run_folder.is_evaluated(found)
        with file.fitting(found):
            plan = continuation(state, self.given, folder, evaluated)
        run_folder.set_aside_foreign_weights(folder / "weights")
        if plan.stage == "done":
            run_folder.write_missing(folder, state)
            LOGGER.info(f"yolodata: {plan.said}.")
        else:
            LOGGER.info(f"yolodata: going on from {found}")
            if plan.said:
                LOGGER.info(f"yolodata: {plan.said}.")
        return [str(folder), str(found), plan.stage, plan.optimizer]

    def _is_done(self, folder: Path) -> None:
        """Of a run that is finished nothing is set up; `YOLO.train` reads where its weights are."""
        self.save_dir, self.wdir = folder, folder / "weights"
        self.last, self.best = self.wdir / "last.pt", self.wdir / "best.pt"
        self.validator = None
        if self._run_folder is not None:
            self._run_folder.close()

    def train(self) -> None:
        """Trains, unless the run is finished already."""
        if self._stage != "done":
            super().train()

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Resumes as upstream does, unless the run goes on from a checkpoint of ours."""
        super().check_resume(overrides)
        if self._going_on is not None:
            self.args.resume = True  # results.csv stays

    def get_dataset(self) -> dict[str, Any]:
        """Returns upstream's description; one process of each machine may download it first."""
        with self.process_group.first_of_machine("dataset"):
            return super().get_dataset()

    # Setup.

    def _do_train(self) -> None:
        with self.supervisor.catch_signals():
            try:
                with self.supervisor.supervise():
                    self._train_supervised()
            except Exception:  # what was written is kept all the same; the others know already
                with contextlib.suppress(YolodataError):
                    self._last_words()
                if self.saver is not None:
                    self.saver.close(UPLOAD_AT_STOP)
                raise
            except Preempted as stop:
                if stop.__cause__ is not None:  # a collective broke: another rank left before
                    self._stop_in_order()
                raise
            else:
                self.process_group.stop()
            finally:
                # Not before the others know why this rank leaves: their collectives break now.
                if self.process_group.backend != "nccl":  # which would wait for what will not come
                    self.process_group.stop()
                close_loaders(self)

    def _train_supervised(self) -> None:
        try:
            saver, loop = self._set_up()
            loop.run()
            saver.writer.wait()
            saver.finish()
            saver.close(UPLOAD_AT_END)
            self.process_group.meet("end")
        except Preempted:
            self._stop_in_order()
            raise

    def _stop_in_order(self) -> None:
        """Writes the state at hand, says so, and has it uploaded."""
        with self.supervisor.undisturbed():
            if self.saver is not None:
                self.saver.flush()
            self._say_stopped()
            if self.saver is not None:
                self.saver.close(UPLOAD_AT_STOP)

    def _say_stopped(self) -> None:
        """Says, on one rank, where the run was left and what is on disk."""
        if self.process_group.rank != 0:
            return
        why = self.supervisor.stop.why or "another rank was asked to stop"
        where = f"while {self.supervisor.heartbeat.doing}"
        if self.loop is not None and self.loop.left_after:
            where = f"after {self.loop.left_after}"
        newest = self._going_on if self.saver is None else self.saver.newest or self._going_on
        rest = "no checkpoint was written yet, so that the run begins anew"
        if newest is not None and self.saver is None:  # later ones may be there
            rest = f"the same command goes on from {newest}"
        elif newest is not None:
            rest = f"resume=auto goes on from {newest}"
        LOGGER.info(f"\nyolodata: {why}: stopped {where}; {rest}.")

    def _set_up(self) -> tuple[Saver, EpochLoop]:
        phase, settings = self.supervisor.phase, self.settings
        phase("setting up", unlimited=True)
        self._setup_train()
        recorded = settings.telemetry and not self.process_group.alone
        waits = CollectiveWaits(self.device) if recorded else None
        model = unwrap_model(self.model)
        if not hasattr(model, "student_model"):  # distillation calls the criterion its own way
            inner = getattr(model, "criterion", None) or model.init_criterion()
            model.criterion = GlobalLoss(
                inner, self.process_group, settings.whole_batch_loss, waits
            )
        self.train_time_start = time.time()
        self.optimizer.zero_grad()
        self.saver = saver = Saver(
            self,
            self.process_group,
            folder=self.save_dir / run_folder.FOLDER,
            journal=self._journal(),
            keep=settings.keep,
            minutes=settings.checkpoint_minutes,
            url=settings.upload,
            doing=self.supervisor.heartbeat.phase,
            undisturbed=self.supervisor.undisturbed,
            written=None if self.metrics_watcher is None else self.metrics_watcher.checkpoint,
        )
        self.loop = loop = EpochLoop(self, self.process_group, self.supervisor, saver, waits)
        wanted = self.device.type == "cuda" if settings.dry_step is None else settings.dry_step
        if self.own_loader is not None and wanted:
            phase("trying the largest batch")
            loop.dry_step()
        phase("starting")
        self._wrap_model()
        self.at = Position(self.start_epoch)
        self._begin_manifest(saver)
        self._write_missing_weights()
        return saver, loop

    def _begin_manifest(self, saver: Saver) -> None:
        """On every rank, says what the run is made of, and goes on from the checkpoint."""
        leads = self.process_group.rank == 0
        if self._going_on is None:
            if leads:
                self._note_manifest()  # Ultralytics' own resume, or a new run
        else:
            self.manifest = self.process_group.from_first(self._manifest_now() if leads else None)
            saver.resume(self._going_on, self._stage)
            if leads:
                file.remove_newer(self._going_on)
            if leads and self.manifest is not None:
                write_manifest(self.manifest, self.save_dir)

    def _journal(self) -> Journal | None:
        """On one rank, what notes starts and checkpoints."""
        if not self.settings.telemetry or self.process_group.rank != 0:
            return None
        journal = Journal(self.save_dir)
        note = StartNote(journal, self.process_group, self._going_on is not None)
        self.add_callback("on_train_batch_end", note)
        return journal

    def _write_missing_weights(self) -> None:
        """On a machine that has the checkpoint alone, writes `last.pt` from it."""
        at_the_end_of_an_epoch = self._going_on and self.at.epoch > 0 and self.at.step == 0
        if self.process_group.rank == 0 and at_the_end_of_an_epoch and not self.last.exists():
            self.epoch = self.at.epoch - 1
            self.save_model()

    def _last_words(self) -> None:
        """Before the process ends; in the monitor's thread if another rank is lost."""
        if self.saver is not None:
            self.saver.writer.wait(timeout=10)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if not self.process_group.alone:
            check_shared_batch(self.args.batch, [self.process_group.size])

    def setup_model(self) -> dict[str, Any] | None:
        """Returns upstream's checkpoint, if the model is one; one process downloads it first."""
        with self.process_group.first_of_machine("model"):
            return super().setup_model()

    def _setup_ddp(self) -> None:
        """The ranks are connected already, by `ProcessGroup.start`."""

    def _setup_train(self) -> None:
        # Upstream wraps the model here if world_size is above 1, for CUDA alone; `_wrap_model` does
        # it for every kind of device, after the dry step.
        self.world_size = 1
        super()._setup_train()

    def _build_train_pipeline(self) -> None:
        if self.loop is None:  # else with half the batch
            self._connect()
        super()._build_train_pipeline()

    def _connect(self) -> None:
        """Packs what is not packed, then connects the ranks.

        Packing may take hours. So whatever upstream refuses of a model it has refused before.
        """
        phase = self.supervisor.phase
        phase("preparing the data", unlimited=True)
        with self.process_group.first_of_machine("shards"):
            for mode in ("train", "val"):
                if self._fallback(mode) is None:
                    self._shards(mode)
        self.process_group.meet("data")
        phase("connecting", unlimited=True)
        self.process_group.start(self.device)
        phase("setting up", unlimited=True)
        if not self.process_group.alone:
            self.world_size = self.process_group.size
            self._agree_on_amp()
            broadcast_weights(self.model)  # upstream copies them next, for the average

    def _wrap_model(self) -> None:
        if not self.process_group.alone:
            self.model = data_parallel(self.model, self.device, bool(self.args.compile))

    def _agree_on_amp(self) -> None:
        """Has all ranks say whether half precision works; upstream asks rank 0 alone."""
        able = all(self.process_group.gather(bool(self.amp)))
        if able != self.amp:
            self.amp = able
            self.scaler = torch.amp.GradScaler("cuda", enabled=able and self.args.amp != "bf16")

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Batches:
        """Returns the loader of this rank; upstream asks with the rank on this machine."""
        if rank != -1 and not self.process_group.alone:
            rank = self.process_group.rank
        return super().get_dataloader(dataset_path, batch_size, rank, mode)

    def build_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Returns upstream's optimiser; its learning rate is scaled for a batch above `nbs`.

        A run that goes on keeps its own, whatever `auto` would choose for another number of epochs.
        """
        if self._optimizer and str(self.args.optimizer).lower() == "auto":
            # By the number of updates, above ten thousand or not.
            kwargs["iterations"] = 1e9 if self._optimizer == "MuSGD" else 0
        optimizer = super().build_optimizer(*args, **kwargs)
        larger = self.batch_size * self.accumulate / self.args.nbs
        factor = self.settings.lr_factor(type(optimizer).__name__, larger)
        if factor != 1:
            LOGGER.info(f"yolodata: learning rates times {factor:.3g} for batch={self.batch_size}")
            for group in optimizer.param_groups:
                group["lr"] *= factor
        return optimizer

    def batches_done(self) -> int:
        """Returns how many batches of an epoch were trained on before it goes on."""
        return int(self.at.step)

    def next_epoch(self) -> int:
        """The epoch that training begins or goes on with, counted from 0."""
        return int(self.at.epoch)

    def in_tracker(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Other ranks wait as long as it takes: a tracker that is slow ends no training."""
        return self.supervisor.heartbeat.beside(f"in callbacks of {name}")

    # Validation.

    def validation_shapes(self, batch_size: int) -> int:
        """Returns the pictures that have one shape: all ranks' batch, as one process has it."""
        return batch_size * self.process_group.size

    def validate(self) -> tuple[dict[str, float], float | None]:
        """Validates the average, as upstream does.

        Returns:
            metrics and fitness of one process that validates alone; the same on every rank.
        """
        if self.process_group.alone:
            return super().validate()
        average = unwrap_model(self.ema.ema)
        loss = self._validation_loss(average)
        average.criterion = loss
        metrics, fitness = super().validate()
        average.criterion = None  # the next validation makes another one
        if loss.counted:
            means = loss.means(len(self.test_loader.dataset))
            if metrics is not None:
                metrics.update(self.label_loss_items(means, prefix="val"))
        found = self.process_group.from_first([metrics, fitness, self.best_fitness])
        metrics, fitness, self.best_fitness = found
        return metrics, fitness

    def _validation_loss(self, model: torch.nn.Module) -> ValidationLoss:
        """The criterion of a validation; with upstream's loader, each batch is one of its own."""
        loader, ranks = self.test_loader, self.process_group
        ours = isinstance(loader, ValidationLoader)
        batch = loader.batch_size * (ranks.size if ours else 1)
        criterion = model.init_criterion()  # type: ignore[operator]
        return ValidationLoss(criterion, ranks, next(iter(loader.sampler), 0), batch)

    # Its end.

    def save_model(self) -> bool:
        """Writes upstream's files, each of them whole or as it was before."""
        with run_folder.weights_whole(self):
            return super().save_model()

    def final_eval(self) -> None:
        """Evaluates the best weights, as upstream does; several ranks do it together.

        Upstream's own asks for CUDA where there are several ranks, and for the file everywhere.
        """
        ranks = self.process_group
        if ranks.rank != 0:  # which makes the files smaller first
            self.supervisor.heartbeat.wait()
        else:
            with self.supervisor.undisturbed():
                run_folder.strip_weights(self)
        if not ranks.from_first(self.best.exists()):
            return
        LOGGER.info(f"\nValidating {self.best}...")
        validator = self.validator
        assert validator is not None
        validator.args.plots = self.args.plots
        validator.args.compile = False  # takes longer than it saves
        if ranks.alone:
            self.metrics = validator(model=self.best)
        else:
            average = unwrap_model(self.ema.ema).float()
            if ranks.rank == 0:
                best, _ = load_checkpoint(self.best)
                average.load_state_dict(best.float().state_dict())
            broadcast_weights(average)
            self.metrics, _ = self.validate()
            self.metrics = {k: v for k, v in self.metrics.items() if not k.startswith("val/")}
        self.metrics.pop("fitness", None)
        self.epoch += 1  # loggers have it beside the last epoch, not in its place
        self.run_callbacks("on_fit_epoch_end")
        self.epoch -= 1


@functools.cache
def trainer_for(task: str) -> type[Any]:
    """Returns the trainer of a task ("detect", "pose", …) that this package describes.

        YOLO("yolo26n.yaml").train(data="coco8.yaml", trainer=yolodata.train.trainer_for("detect"))

    For a task that yolodata has no loader for, it makes upstream's own trainer, with one warning.
    """
    name = TRAINERS.get(task, "DetectionTrainer")
    base = getattr(plain, name)
    return type(name, (DurableTrainer, base), {"__module__": __name__, "__doc__": base.__doc__})
