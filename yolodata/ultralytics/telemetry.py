"""Records the steps of Ultralytics' trainers, through their callbacks.

YOLO(…).train(…)             # yolodata's trainers do it by themselves (setting `telemetry`)
attach(trainer)              # for another trainer, before `train()`
"""

from __future__ import annotations

import sys
from typing import Any

from ultralytics.utils import RANK, TQDM

from yolodata.telemetry.steps import StepRecorder


def attach(trainer: Any, recorder: StepRecorder | None = None) -> None:
    """Has the steps of a trainer recorded in its run folder.

    TensorBoard, W&B, MLflow and the other loggers that Ultralytics knows get the values of each
    epoch as metrics named `telemetry/…`, next to those of validation.

    Args:
        trainer: any of Ultralytics', before it trains.
        recorder: that is told; None makes one when training begins.
    """
    watching = _Watching(recorder)
    for functions in trainer.callbacks.values():  # they are the model's, which trained before
        functions[:] = [f for f in functions if not isinstance(_owner(f), _Watching)]
    trainer.add_callback("on_train_epoch_start", watching.begin)
    trainer.add_callback("on_train_batch_start", watching.batch)
    trainer.add_callback("on_train_batch_end", watching.done)
    # The loggers, which Ultralytics adds when a trainer is made, come in between.
    trainer.callbacks["on_fit_epoch_end"].insert(0, watching.show_values)
    trainer.add_callback("on_fit_epoch_end", watching.hide_values)
    trainer.add_callback("on_train_end", watching.close)
    trainer.add_callback("teardown", watching.close)


class _Watching:
    """Callbacks of one trainer."""

    def __init__(self, recorder: StepRecorder | None) -> None:
        self._recorder = recorder
        self._bar: Any = None
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
            )
        self._images = getattr(loader, "batch_size", None) or 0
        self._bar = None
        before = trainer.batches_done() if hasattr(trainer, "batches_done") else 0
        self._recorder.begin(trainer.epoch, trainer.epoch * len(loader) + before)

    def batch(self, trainer: Any) -> None:
        """The loop has a batch."""
        if self._recorder is None:
            return
        self._recorder.batch(self._images)
        if self._bar is None and RANK in {-1, 0}:
            self._bar = _bar_of_the_loop()
            if self._bar is not None:
                _extend(self._bar, self._recorder)

    def done(self, trainer: Any) -> None:
        """A step has ended."""
        if self._recorder is not None:
            self._recorder.done()

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


def _owner(function: Any) -> Any:
    return getattr(function, "__self__", None)


def _bar_of_the_loop() -> Any:
    """The progress bar, which lives in a variable of the loop that called our callback."""
    frame = sys._getframe()
    for _ in range(8):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        for value in frame.f_locals.values():
            if isinstance(value, TQDM):
                return value
    return None


def _extend(bar: Any, recorder: StepRecorder) -> None:
    """Every description of this bar ends with the recorder's summary."""
    describe = bar.set_description

    def described(text: str | None) -> None:
        describe(f"{text or ''}  {recorder.summary()}")

    bar.set_description = described
