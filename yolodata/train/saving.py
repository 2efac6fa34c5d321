"""When a run's state is written, by whom, and how it is taken up again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from yolodata.train import checkpoints
from yolodata.train.distributed.collectives import share_gradients
from yolodata.train.run_folder import WRITING, keep_epochs
from yolodata.train.state import capture, random_state, restore
from yolodata.train.upload import Uploader


class Saving:
    """Checkpoints of a run; a part of `DurableTrainer`."""

    _unsaved: dict[str, Any] | None = None
    _writer: checkpoints.Writer | None = None
    _uploader: Uploader | None = None

    def _go_on(self: Any, path: Path) -> None:
        missing = self.process_group.largest([int(not path.is_file())])[0]
        mine = self.process_group.rank == 0 or not missing
        state: Any = checkpoints.read(path) if mine else None
        if missing:  # the run folder is on the machine of rank 0 alone
            state = self.process_group.from_first(state)
        self.at = restore(self, state, self.process_group.rank)
        self.start_epoch = self.at.epoch
        if self.process_group.rank == 0:
            keep_epochs(self.csv, self.at.epoch)
            shutil.rmtree(self.wdir / WRITING, ignore_errors=True)

    def _checkpoint_is_due(self: Any) -> bool:
        """Rank 0's clock decides; a checkpoint that is still being written is waited for."""
        minutes = self.settings.checkpoint_minutes
        if self.process_group.rank != 0 or not minutes or not self.args.save or not self.exact:
            return False
        late = time.monotonic() - self._last_checkpoint > 60 * minutes
        return late and not self._writer.busy

    def _captured(self: Any, copy: bool = True) -> dict[str, Any] | None:
        """The state of the run, on rank 0; all ranks take part."""
        if self.at.pending and not self.process_group.alone:
            share_gradients(self.model, self.process_group.size)
        generators = self.process_group.gather(random_state(self.device))
        if self.process_group.rank != 0:
            return None
        return capture(self, self.at, generators, copy=copy)

    def _write_checkpoint(self: Any, wait: bool) -> None:
        self.supervisor.heartbeat.phase("writing a checkpoint")
        state = self._captured()
        if state is not None:
            self._writer.put(state)
            self._last_checkpoint = time.monotonic()
            if wait:
                self._writer.wait()

    def _between(self: Any, write: bool = False) -> None:
        """The state between parts of an epoch: written, or at hand for `_write_unsaved`."""
        self.supervisor.heartbeat.phase("keeping the state")
        with self.supervisor.undisturbed():
            state = self._captured(copy=write)  # nothing changes before the next step
            self._unsaved = None if write else state
            if state is not None and write:
                self._writer.put(state)
                self._last_checkpoint = time.monotonic()

    def _write_unsaved(self: Any) -> None:
        if self._writer is not None:
            if self._unsaved is not None:
                self._writer.put(self._unsaved)
            self._writer.wait()

    def _checkpoint_written(self: Any, path: Path) -> None:
        """In the writer's thread."""
        if self._uploader is not None:
            self._uploader.put(path)

    def _end_upload(self: Any, patience: float) -> None:
        uploader, self._uploader = self._uploader, None
        if uploader is not None:
            uploader.close(patience)

    def _last_words(self: Any) -> None:
        """In the watch's thread, before the process is ended."""
        if self._writer is not None:
            self._writer.wait(timeout=10)
