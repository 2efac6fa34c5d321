"""The epoch loop. Note [own loop] in docs/training.md says why it is not Ultralytics'."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOGGER, TQDM, colorstr
from ultralytics.utils.torch_utils import unwrap_model

from yolodata.errors import YolodataError, is_out_of_memory
from yolodata.train.checkpoint.saver import Saver
from yolodata.train.distributed.collectives import mean_items
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.distributed.waits import CollectiveWaits
from yolodata.train.exit_codes import Preempted
from yolodata.train.forward import forward, precision
from yolodata.train.oom import advice, dry_step, explained
from yolodata.train.resumable import Position, ResumableTrainer
from yolodata.train.watchdog.supervisor import Action, Supervisor


class EpochLoop:
    """Ultralytics' epochs, batch by batch, from any position.

    The order of events, the schedule and all arithmetic are upstream's; a test trains both ways
    and compares the weights to the last bit.

    Args:
        trainer: that has been made; it is set up before `run`.
        process_group: the ranks.
        supervisor: is told what begins.
        saver: writes checkpoints.
        waits: of this rank for the others, which are recorded; None records none.

    Attributes:
        halved: how often the batch was halved because memory ended.
        left_after: the batch after which training was left in good order, in words; else "".
    """

    def __init__(
        self,
        trainer: ResumableTrainer,
        process_group: ProcessGroup,
        supervisor: Supervisor,
        saver: Saver,
        waits: CollectiveWaits | None = None,
    ) -> None:
        self._trainer, self._process_group, self._waits = trainer, process_group, waits
        self._supervisor, self._heartbeat, self._saver = supervisor, supervisor.heartbeat, saver
        self._first_backward = True
        self.halved = 0
        self.left_after = ""
        self._accumulate = 1  # batches an update, after the warm-up
        self._close_mosaic_at = 0
        self._mosaic_closed = False

    def run(self) -> None:
        """Trains from the trainer's position to the end.

        Raises:
            Preempted: training was asked to stop; the state is written.
            YolodataError: the ranks see different data, or memory does not suffice.
        """
        trainer = self._trainer
        self._accumulate = trainer.accumulate
        trainer.epoch_time = None
        trainer.epoch_time_start = time.time()
        if self._waits is not None and trainer.step_watcher is not None:
            trainer.step_watcher.hold = self._waits.lag + 1
        trainer.run_callbacks("on_train_start")
        self._log_start()
        self._close_mosaic_at = trainer.epochs - trainer.args.close_mosaic
        self._mosaic_closed = not trainer.args.close_mosaic
        if trainer.args.close_mosaic:
            first = self._close_mosaic_at * len(trainer.train_loader)
            trainer.plot_idx.extend(range(first, first + 3))
        while trainer.at.stage != "finished":
            trainer.epoch = trainer.at.epoch
            self._supervisor.phase("starting an epoch")
            self._check_ranks_agree()
            self._begin_epoch()
            if trainer.at.stage == "train":
                if not self._train_batches():
                    continue
                at = trainer.at
                trainer.at = Position(trainer.epoch, at.step, at.pending, "validate")
                self._saver.hold()
            self._end_epoch()
        self._supervisor.phase("evaluating the best model")
        self._finish()

    def dry_step(self) -> None:
        """Tries the largest batch; see `oom.dry_step`."""
        dry_step(self._trainer, self._process_group, self._compute_loss)

    def _log_start(self) -> None:
        trainer, args = self._trainer, self._trainer.args
        images, batches = len(trainer.train_loader.dataset), len(trainer.train_loader)
        LOGGER.info(
            f"{images} images to train on, {len(trainer.test_loader.dataset)} to validate on; "
            f"{batches} batches of {trainer.batch_size} at imgsz={args.imgsz}, an update every "
            f"{self._accumulate}, {self._process_group.size} process(es) on {trainer.device.type}\n"
            f"Run folder: {colorstr('bold', trainer.save_dir)}; from epoch "
            f"{trainer.at.epoch + 1}, batch {trainer.at.step + 1} to "
            + (f"{args.time} hours" if args.time else f"epoch {trainer.epochs}")
        )

    # One epoch.

    def _check_ranks_agree(self) -> None:
        """All ranks are about to make the same steps over the same data, or all of them end."""
        trainer = self._trainer
        mine: dict[str, Any] = {
            "batches": len(trainer.train_loader),
            "images": len(trainer.train_loader.dataset),
            "batch of all": int(trainer.batch_size),
            "epoch": trainer.at.epoch,
            "batch in it": trainer.at.step,
            "accumulate": self._accumulate,
        }
        if trainer.own_loader is not None:
            mine["stream"] = trainer.own_loader.state_dict()
        told = self._process_group.gather(mine)
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

    def _begin_epoch(self) -> None:
        trainer = self._trainer
        trainer.run_callbacks("on_train_epoch_start")
        if trainer.at.stage == "train" and trainer.at.step == 0:
            trainer.tloss = None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch expects an optimiser step before this one
                trainer.scheduler.step()
        trainer._model_train()
        if not self._process_group.alone and trainer.own_loader is None:
            sampler = trainer.train_loader.sampler
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(trainer.epoch)
        if not self._mosaic_closed and trainer.epoch >= self._close_mosaic_at:
            self._mosaic_closed = True
            trainer._close_dataloader_mosaic()
            trainer.train_loader.reset()

    def _train_batches(self) -> bool:
        """To the end of the epoch; False: it has to be taken up again, with a smaller batch."""
        trainer = self._trainer
        batches = len(trainer.train_loader)
        bar: Any = trainer.train_loader
        if self._process_group.rank == 0:
            if trainer.loss_names:
                LOGGER.info(trainer.progress_string())
            bar = TQDM(trainer.train_loader, total=batches, initial=trainer.at.step)
        self._supervisor.step(self._where())
        self._saver.drop()
        if self._waits is not None:
            self._waits.begin_epoch()
        for batch in bar:
            done = trainer.at.step + batches * trainer.epoch  # since training began
            trainer.run_callbacks("on_train_batch_start")
            self._warm_up(done, batches)
            updates = trainer.at.pending + 1 >= trainer.accumulate
            problem = ""
            if self._waits is not None:
                self._waits.begin()
            try:
                batch = self._learn(batch, updates)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not self._may_halve():
                    where = f"in {self._where()}"
                    said = advice(trainer, self._process_group, str(error), where)
                    raise YolodataError(said) from error
                problem = str(error)
            if problem:  # what the step had in memory is gone with the error
                images, batch = len(batch["img"]), None
                self._halve_batch(problem, images)
                return False
            if updates:
                self._heartbeat.doing_now("updating the weights")
                where = f"at the update of {self._where()}"
                with explained(trainer, self._process_group, where):
                    trainer.optimizer_step()
                trainer.stop = trainer.stop or self._time_is_up()
            trainer.at = trainer.at.after_batch(updates)
            self._heartbeat.doing_now("in callbacks")
            if self._process_group.rank == 0 and trainer.args.plots and done in trainer.plot_idx:
                with self._recorded_as("callbacks"):
                    trainer.plot_training_samples(batch, done)
            trainer.run_callbacks("on_train_batch_end")
            objects = self._agree(done, batch.get("cls", batch["img"]).shape[0])
            with self._recorded_as("callbacks"):
                self._show_progress(bar, batch, objects)
            if trainer.stop:
                break
            self._supervisor.step(self._where())
        self._heartbeat.phase("between epochs")
        return True

    def _where(self) -> str:
        return f"epoch {self._trainer.epoch + 1}, batch {self._trainer.at.step + 1}"

    def _warm_up(self, done: int, batches: int) -> None:
        """Accumulation, learning rates and momentum of the run's first batches."""
        trainer, args = self._trainer, self._trainer.args
        length = trainer._get_warmup_iterations(batches)
        if not length or done > length:
            trainer.accumulate = self._accumulate
            return
        span = [0, length]
        trainer.accumulate = max(1, int(np.interp(done, span, [1, self._accumulate]).round()))
        for group in trainer.optimizer.param_groups:
            bias = group.get("param_group") == "bias"
            rates = [
                args.warmup_bias_lr if bias else 0.0,
                group["initial_lr"] * trainer.lf(trainer.epoch),
            ]
            group["lr"] = float(np.interp(done, span, rates))
            if "momentum" in group:
                momenta = [args.warmup_momentum, args.momentum]
                group["momentum"] = float(np.interp(done, span, momenta))

    def _learn(self, batch: dict[str, Any], updates: bool) -> dict[str, Any]:
        """Forward and backward; gradients travel between ranks only before an update."""
        trainer = self._trainer
        # A static graph (compile) is learned in the first backward pass, which has to be complete.
        together = updates or (bool(trainer.args.compile) and self._first_backward)
        self._first_backward = False
        apart: AbstractContextManager[None] = nullcontext()
        if isinstance(trainer.model, DistributedDataParallel) and not together:
            apart = trainer.model.no_sync()
        with apart:
            self._heartbeat.doing_now("in the forward pass")
            with precision(trainer):
                batch = trainer.preprocess_batch(batch)
                loss, items = forward(trainer, batch)
            loss = loss.sum() * self._process_group.size  # DDP takes the mean over ranks
            self._heartbeat.doing_now("in the backward pass")
            if self._waits is not None and together:
                self._waits.watch(loss)
            trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if self._waits is not None:
                self._waits.summed()
        criterion = unwrap_model(trainer.model).criterion
        if not getattr(criterion, "covers_all_ranks", False):
            items = mean_items(items, self._process_group)
        trainer.loss, trainer.loss_items = loss.detach(), items
        if not trainer.loss_names:
            trainer.loss_names = tuple(items)
            if self._process_group.rank == 0:
                LOGGER.info(trainer.progress_string())
                trainer.metrics.update(dict.fromkeys(trainer.label_loss_items(prefix="val"), 0.0))
        i, mean = trainer.at.step, trainer.tloss
        if mean is not None:
            items = {name: (mean[name] * i + item) / (i + 1) for name, item in items.items()}
        trainer.tloss = items
        return batch

    def _compute_loss(self, batch: dict[str, Any]) -> torch.Tensor:
        with precision(self._trainer):
            return forward(self._trainer, batch)[0]

    def _show_progress(self, bar: Any, batch: dict[str, Any], objects: int) -> None:
        trainer = self._trainer
        if self._process_group.rank != 0:
            return
        assert trainer.tloss is not None
        columns = [f"{trainer.epoch + 1}/{trainer.epochs}", f"{trainer._get_memory():.3g}G"]
        numbers = [*map(float, trainer.tloss.values()), objects, batch["img"].shape[-1]]
        text = ("%11s" * 2) % tuple(columns) + ("%11.4g" * len(numbers)) % tuple(numbers)
        watcher = trainer.step_watcher
        bar.set_description(f"{text}  {watcher.summary()}" if watcher is not None else text)

    @contextmanager
    def _recorded_as(self, part: str) -> Iterator[None]:
        """What a step's record counts the block to; see `StepRecorder.enter`."""
        watcher = self._trainer.step_watcher
        if watcher is None:
            yield
            return
        before = watcher.enter(part)
        yield
        watcher.enter(before)

    def _time_is_up(self) -> bool:
        hours, begun = self._trainer.args.time, self._trainer.train_time_start
        return hours is not None and hours > 0 and time.time() - begun > hours * 3600

    def _agree(self, done: int, objects: int) -> int:
        """All ranks are at the same step, and do the same: go on, stop, write a checkpoint.

        Args:
            done: batches before this one, since training began.
            objects: in this rank's batch.

        Returns:
            the objects in the batches of all ranks.
        """
        trainer, ranks = self._trainer, self._process_group
        self._heartbeat.wait()
        wanted = self._supervisor.action(self._saver.due())
        each = [objects if rank == ranks.rank else 0 for rank in range(ranks.size)]
        mine = [wanted, done, -done, int(trainer.stop), *each]
        action, most, least, stop, *each = self._largest(mine, done + 1)
        if most != -least:
            raise YolodataError(
                f"the ranks are at different steps, {-least} to {most}; was the loop of a rank "
                "left by a callback?"
            )
        trainer.stop = bool(stop)
        self._heartbeat.step_finished()
        if action == Action.CONTINUE or (trainer.at.pending and action != Action.STOP_NOW):
            return sum(each)
        if trainer.own_loader is not None:
            with self._recorded_as("save"):
                self._saver.write(wait=action >= Action.STOP)
        if action >= Action.STOP:
            self._leave_preempted()
        return sum(each)

    def _largest(self, mine: list[int], step: int) -> list[int]:
        """The largest of what all ranks say; what they waited for goes with it."""
        waits, watcher = self._waits, self._trainer.step_watcher
        if waits is None:
            return self._process_group.largest(mine)
        offered = waits.offer(step)
        with waits.agreeing():
            found = self._process_group.largest([*mine, *offered])
        known = waits.settle(found[len(mine) :])
        if known is not None and watcher is not None:
            watcher.late(*known)
        return found[: len(mine)]

    def _leave_preempted(self) -> None:
        at = self._trainer.at
        self.left_after = f"epoch {at.epoch + 1}, batch {at.step}"
        self._saver.drop()
        self._process_group.largest([0])  # nobody leaves before rank 0 has written
        self._supervisor.leave_preempted()
        self._process_group.stop()
        raise Preempted(self._supervisor.stop.why or "another rank was asked to stop")

    # Memory ends.

    def _may_halve(self) -> bool:
        """As upstream, a process that is alone may take half the batch, early, and three times."""
        trainer = self._trainer
        early = trainer.epoch == trainer.start_epoch and self.halved < 3
        return early and self._process_group.alone and trainer.batch_size > 1

    def _halve_batch(self, problem: str, images: int) -> None:
        """Goes on with half the batch, from the last update on.

        Upstream begins the epoch anew. Here only the batches whose gradients are lost come again:
        the step's own, and those that waited with it for an update. With upstream's loader, all do.

        Args:
            problem: what the error said.
            images: of the batch that was too large.
        """
        trainer = self._trainer
        batch, at, before = trainer.batch_size, trainer.at, trainer.own_loader
        state = None if before is None else before.state_dict()
        trainer.args.batch = trainer.batch_size = batch // 2
        self.halved += 1
        LOGGER.warning(
            f"yolodata: memory does not suffice for batch={batch} ({problem.splitlines()[0]}); "
            f"going on with batch={trainer.batch_size} ({self.halved} of at most 3 times)."
        )
        close_loaders(self._trainer)
        trainer.optimizer.zero_grad()
        trainer._clear_memory()
        trainer._build_train_pipeline()
        assert trainer.validator is not None
        trainer.validator.dataloader = trainer.test_loader
        self._accumulate = trainer.accumulate
        self._mosaic_closed = not trainer.args.close_mosaic  # of the new loader
        done = 0
        after = trainer.own_loader
        if before is not None and state is not None and after is not None:
            done = max(0, int(state["position"]) - images - at.pending * batch)
            after.load_state_dict({**state, "position": done})
            after.telemetry = before.telemetry  # whoever reads it counts on
        trainer.at = Position(at.epoch, -(-done // trainer.batch_size))
        if trainer.at.step == 0:
            trainer.scheduler.last_epoch = at.epoch - 1  # it will be moved again
        self._saver.hold()

    # Its end.

    def _end_epoch(self) -> None:
        trainer, phase = self._trainer, self._supervisor.phase
        phase("in callbacks")
        criterion = unwrap_model(trainer.model).criterion
        if criterion is not None and hasattr(criterion, "update"):
            criterion.update()
        groups = enumerate(trainer.optimizer.param_groups)
        trainer.lr = {f"lr/pg{number}": group["lr"] for number, group in groups}
        trainer.run_callbacks("on_train_epoch_end")
        leads = self._process_group.rank == 0
        if leads:
            kept = ["yaml", "nc", "args", "names", "stride", "class_weights"]
            trainer.ema.update_attr(trainer.model, include=kept)
        last = trainer.epoch + 1 >= trainer.epochs
        if trainer.args.val or last or trainer.stopper.possible_stop or trainer.stop:
            phase("validating", batches=True)
            trainer._clear_memory(0.5)
            trainer.metrics, trainer.fitness = trainer.validate()
        phase("looking for NaN")  # rank 0 says; the others have no metrics to sum up
        if trainer._handle_nan_recovery(trainer.epoch):
            trainer.optimizer.zero_grad()
            trainer.at = Position(trainer.epoch)
            self._saver.drop()
            return
        trainer.nan_recovery_attempts = 0
        phase("saving")
        if leads:
            trainer.save_metrics(
                metrics={**trainer.label_loss_items(trainer.tloss), **trainer.metrics, **trainer.lr}
            )
            trainer.stop |= bool(trainer.stopper(trainer.epoch + 1, trainer.fitness)) or last
            trainer.stop |= self._time_is_up()
            if (trainer.args.save or last) and trainer.save_model():
                trainer.run_callbacks("on_model_save")
        self._estimate_epochs()
        trainer.run_callbacks("on_fit_epoch_end")
        trainer._clear_memory(0.5)
        self._heartbeat.wait()
        trainer.stop = bool(self._process_group.largest([int(trainer.stop)])[0])
        vars(trainer.stopper).update(self._process_group.from_first(vars(trainer.stopper)))
        trainer.at = trainer.at.at_next_epoch(finished=trainer.stop)
        if trainer.args.save:
            self._saver.write()
        else:
            self._saver.hold()

    def _estimate_epochs(self) -> None:
        trainer = self._trainer
        now = time.time()
        trainer.epoch_time = now - trainer.epoch_time_start
        trainer.epoch_time_start = now
        if not trainer.args.time:
            return
        mean = (now - trainer.train_time_start) / (trainer.epoch + 1)
        estimate = math.ceil(trainer.args.time * 3600 / mean)
        trainer.epochs = trainer.args.epochs = self._process_group.largest([estimate])[0]
        trainer._setup_scheduler()
        trainer.scheduler.last_epoch = trainer.epoch  # do not move
        trainer.stop |= trainer.epoch >= trainer.epochs

    def _finish(self) -> None:
        trainer = self._trainer
        trainer.epoch = max(trainer.at.epoch - 1, 0)
        hours = (time.time() - trainer.train_time_start) / 3600
        LOGGER.info(f"\n{trainer.at.epoch} epochs completed in {hours:.3f} hours.")
        trainer.final_eval()
        self._supervisor.phase("ending", unlimited=True)
        if self._process_group.rank == 0:
            if trainer.args.plots:
                trainer.plot_metrics()
            trainer.run_callbacks("on_train_end")
        trainer._clear_memory()
        close_loaders(self._trainer)


def close_loaders(trainer: BaseTrainer) -> None:
    """Gives back what a trainer's loaders hold; upstream's hold nothing."""
    for name in ("train_loader", "test_loader"):
        loader: Any = getattr(trainer, name, None)
        if hasattr(loader, "close"):
            loader.close()
