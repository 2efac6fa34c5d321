"""The epoch loop. Note [own loop] in docs/training.md says why it is not Ultralytics'."""

from __future__ import annotations

import math
import time
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from ultralytics.utils import LOGGER, TQDM, colorstr
from ultralytics.utils.torch_utils import autocast, unwrap_model

from yolodata.errors import YolodataError, is_out_of_memory
from yolodata.train.checkpoint.saver import Saver
from yolodata.train.checkpoint.state import Position
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.oom import advice, advised, halve_batch, may_halve
from yolodata.train.watchdog.supervisor import Action, Supervisor


class EpochLoop:
    """Ultralytics' epochs, batch by batch, from any position; a part of `DurableTrainer`.

    The order of events, the schedule and all arithmetic are upstream's; a test trains both ways
    and compares the weights to the last bit.
    """

    process_group: ProcessGroup
    supervisor: Supervisor
    at: Position
    saver: Saver

    def _run(self: Any) -> None:
        """From `self.at` to the end."""
        self._nominal = self.accumulate
        self.halved = 0
        self.epoch_time = None
        self.epoch_time_start = time.time()
        self.run_callbacks("on_train_start")
        self._say_what_begins()
        self._close_mosaic_at = self.epochs - self.args.close_mosaic
        self._mosaic_closed = not self.args.close_mosaic
        if self.args.close_mosaic:
            first = self._close_mosaic_at * len(self.train_loader)
            self.plot_idx.extend(range(first, first + 3))
        while self.at.stage != "finished":
            self.epoch = self.at.epoch
            self.supervisor.phase("starting an epoch")
            self._prove_equal()
            self._begin_epoch()
            if self.at.stage == "train":
                if not self._train_batches():
                    continue
                self.at = Position(self.epoch, self.at.step, self.at.pending, "validate")
                self.saver.hold()
            self._end_epoch()
        self.supervisor.phase("evaluating the best model")
        self._finish()

    def _say_what_begins(self: Any) -> None:
        images, batches = len(self.train_loader.dataset), len(self.train_loader)
        LOGGER.info(
            f"{images} images to train on, {len(self.test_loader.dataset)} to validate on; "
            f"{batches} batches of {self.batch_size} at imgsz={self.args.imgsz}, an update every "
            f"{self._nominal}, {self.process_group.size} process(es) on {self.device.type}\n"
            f"Run folder: {colorstr('bold', self.save_dir)}; from epoch {self.at.epoch + 1}, batch "
            f"{self.at.step + 1} to "
            + (f"{self.args.time} hours" if self.args.time else f"epoch {self.epochs}")
        )

    # One epoch.

    def _begin_epoch(self: Any) -> None:
        self.run_callbacks("on_train_epoch_start")
        fresh = self.at.stage == "train" and self.at.step == 0
        if fresh:
            self.tloss = None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch expects an optimiser step before this one
                self.scheduler.step()
        self._model_train()
        if not self.process_group.alone:
            self._tell_epoch()
        if not self._mosaic_closed and self.epoch >= self._close_mosaic_at:
            self._mosaic_closed = True
            self._close_dataloader_mosaic()
            self.train_loader.reset()

    def _tell_epoch(self: Any) -> None:
        sampler: Any = getattr(self.train_loader, "sampler", None)
        if not self.exact and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)

    def _train_batches(self: Any) -> bool:
        """To the end of the epoch; False: it has to be taken up again, with a smaller batch."""
        batches = len(self.train_loader)
        bar: Any = self.train_loader
        if self.process_group.rank == 0:
            if self.loss_names:
                LOGGER.info(self.progress_string())
            bar = TQDM(self.train_loader, total=batches, initial=self.at.step)
        self.supervisor.step(self._where())
        self.saver.drop()
        for batch in bar:
            done = self.at.step + batches * self.epoch  # since training began
            self.run_callbacks("on_train_batch_start")
            self._warm_up(done, batches)
            updates = self.at.pending + 1 >= self.accumulate
            problem = ""
            try:
                batch = self._learn(batch, updates)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not may_halve(self):
                    raise YolodataError(advice(self, str(error), f"in {self._where()}")) from error
                problem = str(error)
            if problem:  # what the step had in memory is gone with the error
                images, batch = len(batch["img"]), None
                halve_batch(self, problem, images)
                return False
            if updates:
                self.supervisor.heartbeat.doing_now("updating the weights")
                with advised(self, f"at the update of {self._where()}"):
                    self.optimizer_step()
                self.stop = self.stop or self._time_is_up()
            self.at = self.at.after_batch(updates)
            self.supervisor.heartbeat.doing_now("in callbacks")
            self._show(bar, batch, done)
            self.run_callbacks("on_train_batch_end")
            self._agree(done)
            if self.stop:
                break
            self.supervisor.step(self._where())
        self.supervisor.heartbeat.phase("between epochs")
        return True

    def _where(self: Any) -> str:
        return f"epoch {self.epoch + 1}, batch {self.at.step + 1}"

    def _warm_up(self: Any, done: int, batches: int) -> None:
        """Accumulation, learning rates and momentum of the run's first batches."""
        length = self._get_warmup_iterations(batches)
        if not length or done > length:
            self.accumulate = self._nominal
            return
        span = [0, length]
        self.accumulate = max(1, int(np.interp(done, span, [1, self._nominal]).round()))
        for group in self.optimizer.param_groups:
            bias = group.get("param_group") == "bias"
            rates = [
                self.args.warmup_bias_lr if bias else 0.0,
                group["initial_lr"] * self.lf(self.epoch),
            ]
            group["lr"] = float(np.interp(done, span, rates))
            if "momentum" in group:
                momenta = [self.args.warmup_momentum, self.args.momentum]
                group["momentum"] = float(np.interp(done, span, momenta))

    def _learn(self: Any, batch: dict[str, Any], updates: bool) -> dict[str, Any]:
        """Forward and backward; gradients travel between ranks only before an update."""
        doing_now = self.supervisor.heartbeat.doing_now
        ddp = not self.process_group.alone
        # A static graph (compile) is learned in the first backward pass, which has to be complete.
        together = updates or (bool(self.args.compile) and self._first_backward)
        self._first_backward = False
        with self.model.no_sync() if ddp and not together else nullcontext():
            doing_now("in the forward pass")
            with self._autocast():
                batch = self.preprocess_batch(batch)
                loss, items = self._loss_of(batch)
            loss = loss.sum() * self.process_group.size  # DDP takes the mean over ranks
            doing_now("in the backward pass")
            self.scaler.scale(loss).backward()
        self.loss, self.loss_items = loss.detach(), items
        if not self.loss_names:
            self.loss_names = tuple(items)
            if self.process_group.rank == 0:
                LOGGER.info(self.progress_string())
                self.metrics.update(dict.fromkeys(self.label_loss_items(prefix="val"), 0.0))
        i = self.at.step
        self.tloss = (
            items
            if self.tloss is None
            else {name: (self.tloss[name] * i + item) / (i + 1) for name, item in items.items()}
        )
        return batch

    def _autocast(self: Any) -> Any:
        kind = torch.bfloat16 if self.args.amp == "bf16" else self.amp
        return autocast(kind, device=self.device.type)

    def _loss_of(self: Any, batch: dict[str, Any]) -> Any:
        """The loss of a batch that is prepared, and its items."""
        if not self.args.compile:
            return self.model(batch)
        predictions = self.model(batch["img"])  # only the network is compiled
        return unwrap_model(self.model).loss(batch, predictions)

    def _show(self: Any, bar: Any, batch: dict[str, Any], done: int) -> None:
        if self.process_group.rank != 0:
            return
        objects = batch.get("cls", batch["img"]).shape[0]
        columns = [f"{self.epoch + 1}/{self.epochs}", f"{self._get_memory():.3g}G"]
        numbers = [*map(float, self.tloss.values()), objects, batch["img"].shape[-1]]
        bar.set_description(
            ("%11s" * 2) % tuple(columns) + ("%11.4g" * len(numbers)) % tuple(numbers)
        )
        if self.args.plots and done in self.plot_idx:
            self.plot_training_samples(batch, done)

    def _time_is_up(self: Any) -> bool:
        hours = self.args.time
        return bool(hours) and time.time() - self.train_time_start > hours * 3600

    def _agree(self: Any, done: int) -> None:
        """All ranks are at the same step, and do the same: go on, stop, write a checkpoint."""
        self.supervisor.heartbeat.wait()
        mine = [self.supervisor.action(self.saver.due()), done, -done, int(self.stop)]
        action, most, least, stop = self.process_group.largest(mine)
        if most != -least:
            raise YolodataError(
                f"the ranks are at different steps, {-least} to {most}; was the loop of a rank "
                "left by a callback?"
            )
        self.stop = bool(stop)
        self.supervisor.heartbeat.step_finished()
        if action == Action.CONTINUE or (self.at.pending and action != Action.STOP_NOW):
            return
        if self.exact:
            self.saver.write(wait=action >= Action.STOP)
        if action >= Action.STOP:
            self._preempted()

    # Its end.

    def _end_epoch(self: Any) -> None:
        self.supervisor.phase("in callbacks")
        criterion = unwrap_model(self.model).criterion
        if hasattr(criterion, "update"):
            criterion.update()
        groups = enumerate(self.optimizer.param_groups)
        self.lr = {f"lr/pg{number}": group["lr"] for number, group in groups}
        self.run_callbacks("on_train_epoch_end")
        leads = self.process_group.rank == 0
        if leads:
            kept = ["yaml", "nc", "args", "names", "stride", "class_weights"]
            self.ema.update_attr(self.model, include=kept)
        last = self.epoch + 1 >= self.epochs
        if self.args.val or last or self.stopper.possible_stop or self.stop:
            self.supervisor.phase("validating", batches=True)
            self._clear_memory(0.5)
            self.metrics, self.fitness = self.validate()
        self.supervisor.phase("looking for NaN")  # rank 0 says; the others have no metrics
        if self._handle_nan_recovery(self.epoch):
            self.optimizer.zero_grad()
            self.at = Position(self.epoch)
            self.saver.drop()
            return
        self.nan_recovery_attempts = 0
        self.supervisor.phase("saving")
        if leads:
            self.save_metrics(
                metrics={**self.label_loss_items(self.tloss), **self.metrics, **self.lr}
            )
            self.stop |= bool(self.stopper(self.epoch + 1, self.fitness)) or last
            self.stop |= self._time_is_up()
            if (self.args.save or last) and self.save_model():
                self.run_callbacks("on_model_save")
        self._estimate_epochs()
        self.run_callbacks("on_fit_epoch_end")
        self._clear_memory(0.5)
        self.supervisor.heartbeat.wait()
        self.stop = bool(self.process_group.largest([int(self.stop)])[0])
        self.at = self.at.at_next_epoch(finished=self.stop)
        if self.args.save:
            self.saver.write()
        else:
            self.saver.hold()

    def _estimate_epochs(self: Any) -> None:
        now = time.time()
        self.epoch_time, self.epoch_time_start = now - self.epoch_time_start, now
        if not self.args.time:
            return
        mean = (now - self.train_time_start) / (self.epoch + 1)
        estimate = math.ceil(self.args.time * 3600 / mean)
        self.epochs = self.args.epochs = self.process_group.largest([estimate])[0]
        self._setup_scheduler()
        self.scheduler.last_epoch = self.epoch  # do not move
        self.stop |= self.epoch >= self.epochs

    def _finish(self: Any) -> None:
        self.epoch = max(self.at.epoch - 1, 0)
        hours = (time.time() - self.train_time_start) / 3600
        LOGGER.info(f"\n{self.at.epoch} epochs completed in {hours:.3f} hours.")
        self.final_eval()
        self.supervisor.phase("ending", unlimited=True)
        if self.process_group.rank == 0:
            if self.args.plots:
                self.plot_metrics()
            self.run_callbacks("on_train_end")
        self._clear_memory()
        self._close_loaders()
