"""Ultralytics' training loop with a switch for a loader. Runs in a child process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from yolodata.bench import cores
from yolodata.bench.busy import BusyMeter
from yolodata.bench.rows import Row
from yolodata.bench.training import feeds
from yolodata.bench.training.task import Slice, TrainReady, TrainTask
from yolodata.errors import ConfigError
from yolodata.ultralytics.trainer import DetectionTrainer

_WARM_STEPS = 3  # of each feed on a GPU, whose libraries choose algorithms at first
# An epoch that does not end, in a training as long as those that Ultralytics chooses its optimizer
# for: learning rates are still near zero, so that nothing can overflow however long it takes.
_STEPS_OF_AN_EPOCH = 1_000_000
_EPOCHS = 1000


class Stop(Exception):
    """Ends Ultralytics' loop."""


class BenchTrainer(DetectionTrainer):
    """yolodata's trainer, whose training loader is a `Switch`."""

    task: TrainTask
    connection: Connection
    pinned: bool
    switch: Switch | None = None

    def get_dataloader(
        self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train"
    ) -> Any:
        """The switch; there is no validation to load for."""
        if mode != "train":
            return self.switch
        if self.switch is not None:  # upstream tries again with half of the batch
            raise ConfigError(
                f"--batch {self.task.batch} does not fit into the device's memory with "
                f"{self.task.model} at --imgsz {self.task.imgsz}; give a smaller one"
            )
        self.switch = Switch(self, dataset_path, batch_size)
        return self.switch

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the feed's own trainer does."""
        assert self.switch is not None
        return self.switch.feed.prepare(batch)

    def prepare_ours(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What yolodata's trainer does."""
        return super().preprocess_batch(batch)


class Switch:
    """The training loader of `BenchTrainer`: hands out batches of the feed that is asked for.

    It lives in the loop's own rhythm: between two batches that it yields, the loop takes a step.

    Args:
        trainer: whose loader it is; its model is built.
        path: of the training pictures.
        batch: pictures a batch.

    Attributes:
        feed: the one in use.
        dataset, sampler, batch_size, drop_last, num_workers: what upstream's trainer looks at.
    """

    def __init__(self, trainer: BenchTrainer, path: str, batch: int) -> None:
        self._trainer = trainer
        self._busy = BusyMeter(trainer.device)
        self._feeds = self._make(path, batch)
        self.feed = next(iter(self._feeds.values()))
        loader = next((f.loader for f in self._feeds.values() if f.loader is not None), None)
        self.dataset = loader.dataset if loader is not None else self._dataset
        self.sampler = range(len(self.dataset))
        self.batch_size, self.drop_last, self.num_workers = batch, True, 0

    def _make(self, path: str, batch: int) -> dict[str, feeds.Feed]:
        trainer, task = self._trainer, self._trainer.task
        made: dict[str, feeds.Feed] = {}
        # Worker processes are forked first, before our threads exist.
        for row in sorted(task.rows, key=lambda row: row.kind != "ultralytics"):
            if row.kind == "ultralytics":
                made[row.id] = feeds.theirs(row, trainer, path, batch)
                next(made[row.id].batches)
            elif row.kind == "yolodata":
                made[row.id] = self._ours(row, batch)
        for row in task.rows:
            if row.kind == "fixed":
                others = sorted(made.values(), key=lambda feed: feed.row.kind != "yolodata")
                source = others[0] if others else self._ours(row, batch)
                made[row.id] = feeds.fixed(row, source)
                if not others:
                    self._dataset = source.loader.dataset
                    source.close()
        return {row.id: made[row.id] for row in task.rows}

    def _ours(self, row: Row, batch: int) -> feeds.Feed:
        return feeds.ours(row, self._trainer, self._trainer.task.sources[row.id], batch)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return _STEPS_OF_AN_EPOCH

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches as the parent asks for them; raises `Stop` in the end."""
        connection = self._trainer.connection
        warm_steps = _WARM_STEPS if self._trainer.device.type == "cuda" else 1
        for feed in self._feeds.values():
            self.feed = feed
            for _ in range(feed.warm_up):
                next(feed.batches)
            for _ in range(warm_steps):
                yield next(feed.batches)
            feed.pause()
        self._sync()
        connection.send(("done", self._ready()))
        while True:
            command, *arguments = connection.recv()
            if command != "steps":
                raise Stop
            name, steps = arguments
            self.feed = self._feeds[name]
            yield from self._slice(steps)

    def _slice(self, steps: int) -> Iterator[dict[str, Any]]:
        """Hand out batches for some steps, and report how long they took.

        Batches that were made during the pause before are taken first and not counted.
        """
        feed = self.feed
        cores.settle()
        feed.resume()
        for _ in range(feed.ahead):
            next(feed.batches)
        self._sync()
        pictures, waited = 0, 0.0
        self._busy.start()
        start = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(feed.batches)
            waited += time.perf_counter() - asked
            pictures += len(batch["img"])
            yield batch
        self._sync()  # asked for one more: the last step was enqueued
        seconds = time.perf_counter() - start
        busy = self._busy.stop()
        feed.pause()
        found = Slice(pictures, seconds, steps=steps, waited=waited, busy=busy)
        self._trainer.connection.send(("done", found))

    def _ready(self) -> TrainReady:
        import torch

        trainer = self._trainer
        on_gpu = trainer.device.type == "cuda"
        return TrainReady(
            pinned=trainer.pinned,
            parameters=sum(p.numel() for p in trainer.model.parameters()),
            optimizer=type(trainer.optimizer).__name__,
            amp=bool(trainer.amp),
            device_memory_gib=torch.cuda.memory_reserved() / 2**30 if on_gpu else 0.0,
            busy=self._busy.reason,
            feeds={name: feed.about() for name, feed in self._feeds.items()},
        )

    def _sync(self) -> None:
        if self._trainer.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._trainer.device)

    def close(self) -> None:
        """Stop all feeds."""
        for feed in self._feeds.values():
            feed.close()


def run(connection: Connection, task: TrainTask, pinned: bool) -> None:
    """Train until the parent says stop."""
    kind = type(
        "BenchTrainer",
        (BenchTrainer,),
        {
            "settings": BenchTrainer.settings.changed(
                {
                    "cache": task.cache,
                    "hw_decoder_load": task.hw_decoder_load,
                    "telemetry": False,
                }
            ),
            "task": task,
            "connection": connection,
            "pinned": pinned,
        },
    )
    trainer: BenchTrainer | None = None
    with ExitStack() as stack:
        if task.device == "cuda":
            # It compares two inferences, with weights that it would have to download.
            stack.enter_context(patch("ultralytics.engine.trainer.check_amp", lambda model: True))
        try:
            trainer = kind(overrides=overrides(task))
            trainer.train()
        except Stop:
            pass
        finally:
            if trainer is not None and trainer.switch is not None:
                trainer.switch.close()


def overrides(task: TrainTask) -> dict[str, Any]:
    """Ultralytics' arguments: its defaults, but nothing beside the steps."""
    return {
        "task": "detect",
        "mode": "train",
        "model": task.model,
        "data": str(task.data),
        "imgsz": task.imgsz,
        "batch": task.batch,
        "nbs": task.batch,  # the optimizer steps on every batch
        "epochs": _EPOCHS,
        "workers": max(row.threads for row in task.rows),
        "device": "0" if task.device == "cuda" else "cpu",
        "amp": task.amp,
        "seed": task.seed,
        "pretrained": False,
        "plots": False,
        "val": False,
        "save": False,
        "project": str(task.folder),
        "name": "run",
        "exist_ok": True,
    }
