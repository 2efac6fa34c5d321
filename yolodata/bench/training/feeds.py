"""Where the batches of a training step come from. Runs in a child process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from yolodata.bench.rows import Row

Batch = dict[str, Any]
FIXED = "fixed"
"""Kind of the row whose batch never changes."""


class Feed:
    """Endless batches, and what the trainer has to do with one before the model takes it.

    Args:
        row: what is fed.
        loader: gives an epoch of batches when iterated over; None has none.
        prepare: brings a batch to the device, as 0-1.
        ahead: batches that become ready while it is not its turn.
        warm_up: batches after which its speed no longer changes.
        about: how batches are made; asked for once there were some.
    """

    def __init__(
        self,
        row: Row,
        loader: Any,
        prepare: Callable[[Batch], Batch],
        *,
        ahead: int = 0,
        warm_up: int = 0,
        about: Callable[[], str] = lambda: "",
    ) -> None:
        self.row = row
        self.loader = loader
        self.prepare = prepare
        self.ahead, self.warm_up = ahead, warm_up
        self.about = about
        self.batches = self._batches()

    def _batches(self) -> Iterator[Batch]:
        while True:
            for batch in self.loader:
                if len(batch["img"]) == self.loader.batch_size:  # another size is another step
                    yield batch

    def pause(self) -> None:
        """Keep worker processes from working while it is not its turn.

        They would fill their queue meanwhile, which is seconds of work: steps after that would be
        faster than those of a long training, and others' steps would be slowed down.
        """
        self._signal("SIGSTOP")

    def resume(self) -> None:
        """Go on as if nothing had been."""
        self._signal("SIGCONT")

    def _signal(self, name: str) -> None:
        workers = getattr(getattr(self.loader, "iterator", None), "_workers", ())
        for worker in workers if hasattr(signal, name) else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, getattr(signal, name))

    def close(self) -> None:
        """Stop threads and worker processes."""
        self.resume()
        if hasattr(self.loader, "close"):
            self.loader.close()


class Fixed(Feed):
    """One batch again and again, which lies on the device and needs nothing."""

    def __init__(self, row: Row, batch: Batch) -> None:
        super().__init__(row, None, lambda values: values)
        # Loaders use their memory again, and preparing may have been a view of it.
        self._batch = {
            name: value.clone() if hasattr(value, "clone") else value
            for name, value in batch.items()
        }

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield dict(self._batch)


def ours(row: Row, trainer: Any, source: Any, batch: int) -> Feed:
    """The loader that yolodata's trainer makes for itself."""
    from yolodata.pipeline.schedule import reuse_window
    from yolodata.shards import reader

    shards = reader.open(source)
    loader = trainer._train_loader(shards, batch, -1)
    loader.on_out_of_memory = None  # another size of the batch would be another benchmark
    window = reuse_window(len(shards))
    pictures = window["streams"] * window["window"] if shards.meta.codec == "jpeg" else 0

    def about() -> str:
        where = f"cache={loader.cache}: {loader.preflight}" if loader.preflight else "on the CPU"
        count = loader.num_workers
        return f"{count} thread{'s' if count > 1 else ''}, {where}"

    return Feed(
        row,
        loader,
        trainer.prepare_ours,
        ahead=trainer.settings.prefetch,
        warm_up=-(-pictures // batch),
        about=about,
    )


def theirs(row: Row, trainer: Any, path: str, batch: int) -> Feed:
    """The loader that Ultralytics' trainer makes for itself, and what it does with a batch."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    trainer.args.workers = row.threads
    loader = DetectionTrainer.get_dataloader(trainer, path, batch, -1, "train")
    workers = int(loader.num_workers)
    return Feed(
        row,
        loader,
        lambda values: DetectionTrainer.preprocess_batch(trainer, values),
        # The first batch of each worker; later ones are taken as soon as they are made.
        warm_up=max(workers, 1),
        about=lambda: f"{workers} worker processes",
    )


def fixed(row: Row, feed: Feed) -> Feed:
    """The first batch of another feed, made ready for the model."""
    return Fixed(row, feed.prepare(dict(next(feed.batches))))
