"""Where a run is, and what this room needs of a trainer whose run can go on from there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ultralytics.engine.trainer import BaseTrainer

from yolodata.pipeline.loader import Loader
from yolodata.provenance.manifest import RunManifest
from yolodata.ultralytics.metrics import MetricsWatcher
from yolodata.ultralytics.telemetry import StepWatcher


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        epoch: counted from 0.
        step: batches of the epoch that are done.
        pending: batches whose gradients wait for the optimiser's next step.
        stage: "train", "validate" (the epoch's batches are done, nothing after them), "finished"
            (only the evaluation of the best model is left).
    """

    epoch: int = 0
    step: int = 0
    pending: int = 0
    stage: str = "train"

    def after_batch(self, updated: bool) -> Position:
        """Returns the position once another batch is done."""
        return replace(self, step=self.step + 1, pending=0 if updated else self.pending + 1)

    def at_next_epoch(self, finished: bool) -> Position:
        """Returns the position once this epoch is done."""
        return Position(self.epoch + 1, 0, self.pending, "finished" if finished else "train")


class ResumableTrainer(BaseTrainer):
    """Ultralytics' trainer, and what is known of its run.

    Attributes:
        at: where the run is.
        given: the arguments of the run as they were given, plain.
        manifest: what the run is made of; None before that is known.
        step_watcher: tells how the last steps went; None with `telemetry=False`.
        metrics_watcher: tells Prometheus; None without the setting `metrics`.
    """

    at: Position
    given: dict[str, Any]
    manifest: RunManifest | None
    step_watcher: StepWatcher | None
    metrics_watcher: MetricsWatcher | None

    @property
    def other_data(self) -> bool:
        """Whether a checkpoint of another dataset may be taken up."""
        raise NotImplementedError

    @property
    def own_loader(self) -> Loader | None:
        """yolodata's training loader.

        None where Ultralytics' own trains: there are no checkpoints within an epoch then.
        """
        return self.train_loader if isinstance(self.train_loader, Loader) else None
