"""Runs a trainer's callbacks: a tracker that fails ends no training, the others know more.

trackers = Trackers()
trackers.run(trainer, event)      # in place of upstream's run_callbacks
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ultralytics.utils import LOGGER

from yolodata.provenance import manifest
from yolodata.redaction import redacted
from yolodata.terminal import printable
from yolodata.ultralytics.trackers import mlflow, tensorboard, wandb

_UPSTREAM = "ultralytics.utils.callbacks."
_NAMES = {
    "clearml": "ClearML",
    "comet": "Comet",
    "dvc": "DVCLive",
    "mlflow": "MLflow",
    "tensorboard": "TensorBoard",
    "wb": "W&B",
}
"""By upstream's modules; Ray Tune is none, because it ends trainings by raising."""

_TOLD = {"MLflow": mlflow.tell, "TensorBoard": tensorboard.tell, "W&B": wandb.tell}


def _nothing(name: str) -> AbstractContextManager[None]:
    return nullcontext()


class Trackers:
    """The trackers of one trainer: those that upstream has given it callbacks of.

    Args:
        entered: what a call of a tracker happens in, given its name. A server that does not answer
            makes it long.
    """

    def __init__(self, entered: Callable[[str], AbstractContextManager[None]] = _nothing) -> None:
        self._entered = entered
        self._failed: set[str] = set()

    def run(self, trainer: Any, event: str) -> None:
        """Runs what a trainer has been given for an event.

        When training starts, trackers are told what is in the run's manifest. One that raises an
        error gets nothing more of this run, but for its teardown, and is named in a warning.
        """
        if event == "on_train_end" and "TensorBoard" in self._of(trainer):
            self._guarded("TensorBoard", tensorboard.end)
        for callback in trainer.callbacks.get(event, []):
            name = _tracker(callback)
            if name is None:
                callback(trainer)
            elif name == "MLflow" and event == "on_pretrain_routine_end":
                self._guarded(name, mlflow.begin, trainer, callback)
            elif event == "teardown" or name not in self._failed:
                self._guarded(name, callback, trainer)
        if event == "on_train_start":
            self.tell(trainer)

    def _of(self, trainer: Any) -> list[str]:
        """Returns the trackers that get the values of each epoch, without those that failed."""
        found = dict.fromkeys(_tracker(each) for each in trainer.callbacks["on_fit_epoch_end"])
        return [name for name in found if name is not None and name not in self._failed]

    def tell(self, trainer: Any) -> None:
        """Tells trackers what is in the run's manifest, if there is one.

        One that cannot take it (an MLflow server whose artifacts are out of reach, say) gets the
        values of each epoch all the same.
        """
        wanted = [name for name in self._of(trainer) if name in _TOLD]
        found = manifest.read(trainer.save_dir) if wanted else None
        if found is None:
            return
        for name in wanted:
            try:
                with self._entered(name):
                    _TOLD[name](trainer, found)
            except Exception as error:
                LOGGER.warning(
                    f"yolodata: {name} does not take all of {manifest.FILE}, and gets the values "
                    f"of each epoch all the same ({_said(error)})."
                )

    def _guarded(self, name: str, call: Callable[..., None], *given: Any) -> None:
        try:
            with self._entered(name):
                call(*given)
        except Exception as error:
            if name not in self._failed:
                LOGGER.warning(
                    f"yolodata: {name} failed and gets nothing more of this run, which goes on "
                    f"({_said(error)})."
                )
            self._failed.add(name)


def _said(error: Exception) -> str:
    return printable(redacted(f"{type(error).__name__}: {error}".strip().splitlines()[0]))


def _tracker(callback: Any) -> str | None:
    """Returns the tracker that a callback is upstream's of."""
    module = str(getattr(callback, "__module__", ""))
    return _NAMES.get(module.removeprefix(_UPSTREAM)) if module.startswith(_UPSTREAM) else None
