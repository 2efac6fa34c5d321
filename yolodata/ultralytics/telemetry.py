"""Records the steps of Ultralytics' trainers, through their callbacks.

YOLO(…).train(…)             # yolodata's trainers do it by themselves (setting `telemetry`)
attach(trainer)              # for another trainer, before `train()`
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ultralytics.utils import LOGGER, RANK, colorstr

from yolodata.telemetry.steps import Listener, StepRecorder


def attach(
    trainer: Any, recorder: StepRecorder | None = None, listeners: Sequence[Listener] = ()
) -> StepWatcher:
    """Has the steps of a trainer recorded in its run folder.

    TensorBoard, W&B, MLflow and the other loggers that Ultralytics knows get the values of each
    epoch as metrics named `telemetry/…`, next to those of validation.

    Args:
        trainer: any of Ultralytics', before it trains.
        recorder: that is told; None makes one when training begins.
        listeners: of the recorder that is made; see `StepRecorder`.

    Returns:
        what watches the steps; its `summary` is for a progress bar.
    """
    watching = StepWatcher(recorder, listeners)
    detach(trainer, StepWatcher)
    trainer.add_callback("on_train_epoch_start", watching.begin)
    trainer.add_callback("on_train_batch_start", watching.batch)
    trainer.add_callback("on_train_batch_end", watching.done)
    trainer.add_callback("on_train_epoch_end", watching.log)
    trainer.add_callback("on_val_end", watching.validated)
    # The loggers, which Ultralytics adds when a trainer is made, come in between.
    trainer.callbacks["on_fit_epoch_end"].insert(0, watching.show_values)
    trainer.add_callback("on_fit_epoch_end", watching.hide_values)
    trainer.add_callback("on_train_end", watching.close)
    trainer.add_callback("teardown", watching.close)
    return watching


class StepWatcher:
    """Callbacks of one trainer.

    Attributes:
        hold: see `StepRecorder`; of the recorder that is made.
    """

    def __init__(self, recorder: StepRecorder | None, listeners: Sequence[Listener] = ()) -> None:
        self._recorder = recorder
        self._listeners = listeners
        self.hold = 0
        self._epoch_ended = self._validated = 0.0  # when; 0 is not yet
        self._shown: dict[str, float] = {}
        self._images = 0

    def begin(self, trainer: Any) -> None:
        """An epoch begins, or goes on."""
        loader = trainer.train_loader
        if self._recorder is None:
            self._recorder = StepRecorder(
                trainer.save_dir,
                device=trainer.device,
                counters=getattr(loader, "telemetry", None),
                rank=max(RANK, 0),
                listeners=self._listeners,
            )
            self._recorder.hold = self.hold
        self._images = getattr(loader, "batch_size", None) or 0
        before = trainer.batches_done() if hasattr(trainer, "batches_done") else 0
        self._recorder.between(*self._since_epoch_ended())
        self._recorder.begin(trainer.epoch, trainer.epoch * len(loader) + before)

    def _since_epoch_ended(self) -> tuple[float, float]:
        """Returns seconds of validation since then, and of all else: saving, loggers, plots."""
        if not self._epoch_ended:
            return 0.0, 0.0
        validated = max(self._validated, self._epoch_ended)
        return validated - self._epoch_ended, time.perf_counter() - validated

    def batch(self, trainer: Any) -> None:
        """The loop has a batch."""
        if self._recorder is not None:
            self._recorder.batch(self._images)

    def done(self, trainer: Any) -> None:
        """A step has ended."""
        if self._recorder is not None:
            self._recorder.done()

    def enter(self, part: str) -> str:
        """The loop does something else from here on; see `StepRecorder.enter`."""
        return "" if self._recorder is None else self._recorder.enter(part)

    def late(self, step: int, all_reduce: float, straggler: float) -> None:
        """An earlier step's waits for other ranks are known; see `StepRecorder.late`."""
        if self._recorder is not None:
            self._recorder.late(step, all_reduce, straggler)

    def summary(self) -> str:
        """Returns the last steps in a few words; "" before the first one."""
        return "" if self._recorder is None else self._recorder.summary()

    def log(self, trainer: Any) -> None:
        """An epoch's steps are done: says how they went."""
        self._epoch_ended = time.perf_counter()
        if self._recorder is not None:
            self._recorder.complete()
        said = self.summary()
        if said and RANK in {-1, 0}:
            LOGGER.info(f"{colorstr('telemetry: ')}{said}")

    def validated(self, validator: Any) -> None:
        """A validation has ended."""
        self._validated = time.perf_counter()

    def show_values(self, trainer: Any) -> None:
        """Loggers read `trainer.metrics`; results.csv and the checkpoint are written before."""
        self._shown = self._recorder.take() if self._recorder is not None else {}
        if trainer.metrics is not None:  # only rank 0 validates
            trainer.metrics.update(self._shown)

    def hide_values(self, trainer: Any) -> None:
        """The metrics are upstream's again."""
        if trainer.metrics is not None:
            for name in self._shown:
                trainer.metrics.pop(name, None)

    def close(self, trainer: Any) -> None:
        """Training has ended, in whichever way."""
        if self._recorder is not None:
            self._recorder.close()


def detach(trainer: Any, kind: type[Any]) -> None:
    """Removes callbacks that are methods of such objects: of a model that has trained before."""
    for functions in trainer.callbacks.values():
        functions[:] = [f for f in functions if not isinstance(getattr(f, "__self__", None), kind)]
