"""Ultralytics' training loop with a switch for a loader. Runs in a child process."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

from yolodata.bench import cores
from yolodata.bench.gpu_utilisation import BusyMeter
from yolodata.bench.rows import Row
from yolodata.bench.training import feeds
from yolodata.bench.training.profiling import Profiler
from yolodata.bench.training.task import Slice, Started, TrainReady, TrainTask
from yolodata.errors import ConfigError
from yolodata.ultralytics.trainer import DetectionTrainer

_WARM_STEPS = 3  # of each feed on a GPU, whose libraries choose algorithms at first
# An epoch that does not end, in a training as long as those that Ultralytics chooses its optimizer
# for: learning rates are still near zero, so that nothing can overflow however long it takes.
_STEPS_OF_AN_EPOCH = 1_000_000
_EPOCHS = 1000


class Stop(Exception):
    """Ends Ultralytics' loop."""


@contextmanager
def alarm(seconds: float, text: str) -> Iterator[None]:
    """Raises TimeoutError with this text in the main thread, wherever it waits, if that is late."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(text)

    if not hasattr(signal, "setitimer"):  # Windows: the parent's limit remains
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


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
        self._trainer, self._path = trainer, path
        self.batch_size, self.drop_last, self.num_workers = batch, True, 0
        self._busy = BusyMeter(trainer.device)
        rows = trainer.task.rows
        # Feeds with worker processes may take long to start: the parent asks for them later.
        self._later = {row.id: row for row in rows if row.kind == "ultralytics"}
        if len(self._later) == len(rows):
            self._later.popitem()
        self._feeds: dict[str, feeds.Feed] = {}
        self._make([row for row in rows if row.id not in self._later])
        self.feed = next(iter(self._feeds.values()))
        self.sampler = range(len(self.dataset))

    def _make(self, rows: Sequence[Row]) -> None:
        for row in sorted(rows, key=lambda row: row.kind == feeds.FIXED):
            self._say(f"making {row.id}")
            if row.kind == "ultralytics":
                feed = feeds.theirs(row, self._trainer, self._path, self.batch_size)
            elif row.kind == "yolodata":
                feed = self._ours(row)
            else:
                kinds = {other.row.kind: other for other in self._feeds.values()}
                source = kinds.get("yolodata") or self._ours(row)
                feed = feeds.fixed(row, source)
                if source not in self._feeds.values():
                    self.dataset = source.loader.dataset
                    source.close()
            if feed.loader is not None:
                self.dataset = feed.loader.dataset
            self._feeds[row.id] = feed

    def _ours(self, row: Row) -> feeds.Feed:
        source = self._trainer.task.sources[row.id]
        return feeds.ours(row, self._trainer, source, self.batch_size)

    def _say(self, text: str) -> None:
        self._trainer.connection.send(("said", text))

    def __len__(self) -> int:
        """Batches of an epoch."""
        return _STEPS_OF_AN_EPOCH

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches as the parent asks for them; raises `Stop` in the end."""
        connection = self._trainer.connection
        for feed in list(self._feeds.values()):
            yield from self._warm(feed)
        connection.send(("done", self._ready()))
        while True:
            command, *arguments = connection.recv()
            if command == "start":
                yield from self._start(*arguments)
            elif command == "steps":
                yield from self._slice(*arguments)
            elif command == "profile":
                yield from self._profile(*arguments)
            else:
                raise Stop

    def _warm(self, feed: feeds.Feed) -> Iterator[dict[str, Any]]:
        """A feed's first batches, until its speed no longer changes."""
        self.feed = feed
        for _ in range(feed.warm_up):
            next(feed.batches)
        for _ in range(_WARM_STEPS if self._trainer.device.type == "cuda" else 1):
            yield next(feed.batches)
        feed.pause()
        self._sync()
        self._say(f"{feed.row.id} had its first steps")

    def _start(self, name: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Make a feed and warm it up, or give up after so many seconds, and report."""
        cores.settle()  # workers are forked: no thread of ours may be at work meanwhile
        row = self._later.pop(name)
        error = ""
        try:
            with alarm(seconds, f"did not start within {seconds:g} s, its limit (--start-limit)"):
                self._make([row])
                for _ in range(self._feeds[name].warm_up):
                    next(self._feeds[name].batches)
        except Exception as problem:  # the others go on
            traceback.print_exc()
            error = f"{type(problem).__name__}: {problem}"
            if name in self._feeds:
                self._feeds.pop(name).close()
        else:
            feed = self._feeds[name]
            feed.warm_up = 0
            yield from self._warm(feed)
        about = "" if error else self._feeds[name].about()
        self._trainer.connection.send(("done", Started(about, error)))

    def _turn_to(self, name: str) -> feeds.Feed:
        """A feed whose batches that were made during the pause before are gone."""
        self.feed = feed = self._feeds[name]
        cores.settle()
        feed.resume()
        for _ in range(feed.ahead):
            next(feed.batches)
        self._sync()
        return feed

    def _slice(self, name: str, steps: int) -> Iterator[dict[str, Any]]:
        """Hand out batches for some steps, and report how long they took."""
        feed = self._turn_to(name)
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

    def _profile(self, name: str, steps: int) -> Iterator[dict[str, Any]]:
        """Hand out batches for some steps under torch's profiler, and report what it saw."""
        feed = self._turn_to(name)
        with Profiler(self._trainer.device) as profiler:
            for _ in range(steps):
                profiler.step()
                yield next(feed.batches)
            self._sync()
        feed.pause()
        self._trainer.connection.send(("done", profiler.found()))

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
