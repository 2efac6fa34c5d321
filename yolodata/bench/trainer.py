"""Ultralytics' training loop, whose loader is a `Server`. Runs in a child process.

A step is Ultralytics' own. Between two batches that the server yields, the loop takes one. So all
rows of a process train the same model, in turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import torch

from yolodata.bench.gpu_utilisation import UtilisationMeter
from yolodata.bench.registry import make
from yolodata.bench.server import Server
from yolodata.bench.subject import Batch, Jobs
from yolodata.errors import ConfigError
from yolodata.ultralytics.trainer import DetectionTrainer

_WARM_STEPS = 3  # of each row on a GPU, whose libraries choose algorithms at first
_STEPS_OF_AN_EPOCH = 1_000_000  # it does not end


class Stop(Exception):
    """Ends Ultralytics' loop."""


class BenchTrainer(DetectionTrainer):
    """yolodata's trainer, whose training loader is a `Switch`."""

    connection: Connection
    jobs: Jobs
    pinned: bool
    switch: Switch | None = None
    train_path: str

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        """Returns the switch; there is no validation to load for.

        Raises:
            ConfigError: the batch does not fit into the device's memory.
        """
        if mode != "train":
            return self.switch
        if self.switch is not None:  # upstream tries again with half of the batch
            raise ConfigError(
                f"--batch {self.switch.batch_size} does not fit into the device's memory with "
                f"{self.args.model} at --imgsz {self.args.imgsz}; give a smaller one"
            )
        self.train_path = dataset_path
        self.switch = Switch(self, batch_size)
        return self.switch

    def preprocess_batch(self, batch: Batch) -> Batch:
        """What the trainer of the row in use does."""
        assert self.switch is not None
        return self.switch.subject.prepare(batch)

    def prepare_yolodata(self, batch: Batch) -> Batch:
        """What yolodata's trainer does."""
        prepared: Batch = super().preprocess_batch(batch)
        return prepared


class Switch(Server):
    """The training loader of a trainer with its model: hands out batches of the row in use.

    Attributes:
        dataset, sampler, batch_size, drop_last, num_workers: what upstream's trainer looks at.
    """

    def __init__(self, trainer: BenchTrainer, batch: int) -> None:
        super().__init__(
            trainer.connection, trainer.jobs, lambda row, task: make(row, task, trainer)
        )
        self.warm_steps = _WARM_STEPS if trainer.device.type == "cuda" else 1
        self.meter = UtilisationMeter(trainer.device)
        self._trainer = trainer
        self.batch_size, self.drop_last, self.num_workers = batch, True, 0
        quick = [row.id for row, _ in trainer.jobs if row.kind != "ultralytics"]
        self.subject = self.open((quick or [trainer.jobs[0][0].id])[0])
        self.dataset = self.subject.dataset
        self.sampler = range(len(self.dataset))

    def describe(self) -> dict[str, Any]:
        """See `Measured.ready`."""
        trainer, on_gpu = self._trainer, self._trainer.device.type == "cuda"
        return {
            "pinned": trainer.pinned,
            "parameters": sum(p.numel() for p in trainer.model.parameters()),
            "optimizer": type(trainer.optimizer).__name__,
            "amp": bool(trainer.amp),
            "device_memory_gib": torch.cuda.memory_reserved() / 2**30 if on_gpu else 0.0,
            "busy": self.meter.reason if self.meter else "",
        }

    def __len__(self) -> int:
        """Batches of an epoch."""
        return _STEPS_OF_AN_EPOCH

    def __iter__(self) -> Iterator[Batch]:
        """Batches as the parent asks for them; raises `Stop` in the end."""
        yield from super().__iter__()
        raise Stop


def train(connection: Connection, jobs: Jobs, pinned: bool) -> None:
    """Train until the parent says stop."""
    task = jobs[0][1]
    settings = BenchTrainer.settings.changed(
        {"cache": task.cache, "hw_decoder_load": task.hw_decoder_load, "telemetry": False}
    )
    attributes = {"settings": settings, "connection": connection, "jobs": jobs, "pinned": pinned}
    # It compares two inferences, with weights that it would have to download.
    check = patch("ultralytics.engine.trainer.check_amp", lambda model: True)
    with check if task.device == "cuda" else nullcontext():
        trainer = type("BenchTrainer", (BenchTrainer,), attributes)(overrides=dict(task.overrides))
        try:
            trainer.train()
        except Stop:
            pass
        finally:
            if trainer.switch is not None:
                trainer.switch.close()
