"""When a run's state is written, by whom, and how it is taken up again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from yolodata.provenance.manifest import RunManifest
from yolodata.provenance.same_dataset import check_same_dataset
from yolodata.telemetry.journal import Journal
from yolodata.train.checkpoint import file, run_folder
from yolodata.train.checkpoint.contents import RunState
from yolodata.train.checkpoint.state import capture, random_state, restore
from yolodata.train.checkpoint.uploader import Uploader
from yolodata.train.checkpoint.writer import Writer
from yolodata.train.distributed.collectives import average_gradients
from yolodata.train.resumable import ResumableTrainer

log = logging.getLogger("yolodata")


class Ranks(Protocol):
    """The processes that train together, as far as checkpoints need them."""

    rank: int
    size: int

    @property
    def alone(self) -> bool:
        """Whether one process trains, and in no group."""

    def gather(self, value: Any) -> list[Any]:
        """Returns what every rank gives, on every rank."""

    def from_first(self, value: Any) -> Any:
        """Returns what rank 0 gives, on every rank."""

    def largest(self, values: list[int]) -> list[int]:
        """Returns the largest of what the ranks give, element by element."""


class Saver:
    """Writes a run's state, on rank 0, and has it uploaded.

    What is between two steps is written at once (`write`), or kept at hand (`hold`) until the next
    step begins (`drop`), for `flush` to write if the run is interrupted first.

    Args:
        trainer: whose state it is.
        ranks: all of them call `resume`, `write` and `hold` together.
        folder: for checkpoints.
        journal: gets a line of each checkpoint; None has none.
        keep: how many stay, in the folder and at `url`.
        minutes: time between checkpoints within an epoch; 0 has none there.
        url: where they are uploaded to, if anywhere.
        doing: is told what begins.
        undisturbed: within it, no request to stop interrupts.
        written: is told of each checkpoint that is on disk and the seconds that it took, by the
            thread that writes.

    Attributes:
        newest: the last checkpoint that is on disk, or that the run went on from.

    Raises:
        ConfigError: there is no file system for `url`.
    """

    def __init__(
        self,
        trainer: ResumableTrainer,
        ranks: Ranks,
        *,
        folder: Path,
        journal: Journal | None = None,
        keep: int,
        minutes: float,
        url: str | None,
        doing: Callable[[str], object],
        undisturbed: Callable[[], AbstractContextManager[None]],
        written: Callable[[Path, float], object] | None = None,
    ) -> None:
        self.trainer, self.ranks, self.minutes = trainer, ranks, minutes
        self._doing, self._undisturbed = doing, undisturbed
        self._tell_written = written
        self.writer = Writer(folder, keep, self._written)
        self._uploader = None if url is None or ranks.rank != 0 else Uploader(url, keep=keep)
        self._held: RunState | None = None
        self._journal = journal
        self._waited: float | None = None  # the step, in seconds, for the copy of the newest state
        self.newest: Path | None = None
        self._last = time.monotonic()

    def resume(self, path: Path, stage: str | None = None) -> None:
        """Puts the trainer where a checkpoint was written; its file may be on one machine alone.

        Args:
            path: the checkpoint.
            stage: see `state.restore`.

        Raises:
            YolodataError: the file is damaged, or of another version, or its state does not fit.
            ConfigError: the state is of another dataset or of other augmentation.
        """
        missing = self.ranks.largest([int(not path.is_file())])[0]
        mine: Any = file.read(path) if self.ranks.rank == 0 or not missing else None
        state: RunState = self.ranks.from_first(mine) if missing else mine
        trainer = self.trainer
        before = state.get("manifest")  # which an older yolodata did not write
        manifest = None if before is None else RunManifest.from_dict(before)
        self._check_dataset(state, manifest)
        with file.fitting(path):
            trainer.at = restore(trainer, state, self.ranks.rank, stage)
        trainer.start_epoch = trainer.at.epoch
        if trainer.manifest is not None:
            trainer.manifest = trainer.manifest.continues(
                manifest, trainer.at.epoch, trainer.at.step
            )
        self.newest = path
        if self.ranks.rank == 0:
            if not trainer.csv.is_file():
                run_folder.write_results(trainer.csv, state["results"])
            run_folder.keep_epochs(trainer.csv, trainer.at.epoch)
            run_folder.remove_unfinished_weights(trainer.wdir)
        if trainer.at.stage != state["stage"]:
            self.write()

    def _check_dataset(self, state: RunState, before: RunManifest | None) -> None:
        trainer = self.trainer
        # Another imgsz is other augmentation, which the loader's state names.
        if before is None or state["args"].get("imgsz") != trainer.args.imgsz:
            return
        now = None if trainer.manifest is None else trainer.manifest.dataset
        run = trainer.csv.parent
        said = check_same_dataset(before.dataset, now, run, trainer.other_data)
        if said and self.ranks.rank == 0:
            log.warning("%s", said)

    def due(self) -> bool:
        """Whether a checkpoint within an epoch is due, by rank 0's clock.

        Not while the last one is still being written.
        """
        trainer = self.trainer
        if self.ranks.rank != 0 or not self.minutes or not trainer.args.save:
            return False
        if trainer.own_loader is None:
            return False
        return time.monotonic() - self._last > 60 * self.minutes and not self.writer.busy

    def write(self, wait: bool = False) -> None:
        """Copies the state, and begins to write it.

        Args:
            wait: returns once it is on disk.

        Raises:
            YolodataError: this checkpoint, or the one before, could not be written.
        """
        self._doing("writing a checkpoint")
        with self._undisturbed():
            self.drop()
            begun = time.perf_counter()
            state = self._captured(copy=True)
            if state is not None:
                self.writer.wait()  # which `put` would do; that line is of the one before
                self._waited = time.perf_counter() - begun
                self.writer.put(state)
                self._last = time.monotonic()
                if wait:
                    self.writer.wait()

    def hold(self) -> None:
        """Keeps the state at hand, without a copy: nothing changes before the next step."""
        self._doing("keeping the state")
        with self._undisturbed():
            self._held = self._captured(copy=False)

    def drop(self) -> None:
        """Forgets the state at hand: it is about to change."""
        self._held = None

    def flush(self) -> None:
        """Writes the state at hand, if there is one; returns once all is on disk.

        Raises:
            YolodataError: it could not be written.
        """
        if self._held is not None:
            self.writer.wait()
            self._waited = None
            self.writer.put(self._held)
        self.writer.wait()

    def finish(self) -> None:
        """Notes that the run is done, and has its last files uploaded.

        Raises:
            YolodataError: the last checkpoint could not be written.
        """
        self.writer.wait()
        if self.ranks.rank == 0 and self.newest is not None and self.newest.is_file():
            run_folder.note_evaluated(self.newest)
            self._upload(self.newest)

    def close(self, patience: float) -> None:
        """Ends the upload; waits for `patience` seconds at most."""
        uploader, self._uploader = self._uploader, None
        if uploader is not None:
            uploader.close(patience)

    def _captured(self, copy: bool) -> RunState | None:
        """The state of the run, on rank 0; all ranks take part."""
        trainer = self.trainer
        if trainer.at.pending and not self.ranks.alone:
            average_gradients(trainer.model, self.ranks.size)
        generators = self.ranks.gather(random_state(trainer.device))
        if self.ranks.rank != 0:
            return None
        return capture(trainer, trainer.at, generators, copy=copy)

    def _written(self, path: Path) -> None:
        """In the writer's thread."""
        self.newest = path
        if self._tell_written is not None:
            self._tell_written(path, self.writer.seconds[-1])
        if self._journal is not None:
            self._journal.add(
                "checkpoint",
                step_waits_s=None if self._waited is None else round(self._waited, 4),
                write_s=round(self.writer.seconds[-1], 4),
                mib=round(path.stat().st_size / 2**20, 2),
            )
        self._upload(path)

    def _upload(self, path: Path) -> None:
        uploader = self._uploader
        if uploader is not None:
            uploader.put(path, run_folder.files_beside(path.parent.parent))
