"""Checkpoints are written by a thread; a training step only pays for the copy of the state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from yolodata.errors import YolodataError
from yolodata.train.checkpoint import file
from yolodata.train.checkpoint.contents import RunState


class Writer:
    """Writes checkpoints in a thread, one at a time.

    Args:
        folder: where to.
        keep: how many stay.
        written: is called, in the thread, with each file that is on disk.

    Attributes:
        seconds: of each write.
    """

    def __init__(
        self, folder: Path, keep: int, written: Callable[[Path], None] | None = None
    ) -> None:
        self.folder, self.keep, self._written = folder, keep, written
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None
        self.seconds: list[float] = []

    @property
    def busy(self) -> bool:
        """Whether the last checkpoint is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def put(self, state: RunState) -> None:
        """Begins to write a state, which nobody may change any more; waits for the one before.

        Raises:
            YolodataError: the one before could not be written.
        """
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(state,), name="yolodata-write")
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the last checkpoint is on disk, or for `timeout` seconds.

        Raises:
            YolodataError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise YolodataError(
                f"a checkpoint could not be written into {self.folder}: {problem}; make room, or "
                "give another project="
            ) from problem

    def _write(self, state: RunState) -> None:
        start = time.perf_counter()
        try:
            path = file.write(self.folder, state)
            older = [other for other in file.checkpoints_in(self.folder) if other != path]
            file.remove(older[self.keep - 1 :])
        except Exception as error:
            self._problem = error
            return
        self.seconds.append(time.perf_counter() - start)
        if self._written is not None:
            self._written(path)
