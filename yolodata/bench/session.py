"""The parent's side of a child process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from yolodata.bench.child import Ready, Sample, serve
from yolodata.bench.rows import Row
from yolodata.errors import YolodataError

ANSWER_LIMIT = 120.0  # seconds beyond what was asked for
_GRACE = 6.0  # seconds for children that were told to stop: workers of theirs end by themselves

Say = Callable[[str], None]
Serve = Callable[[Connection, Row, Any, Path], None]
"""Entry point of a child: its end of the pipe, the row, the task, and a file for its log."""

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_NOT_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


class BenchError(YolodataError, RuntimeError):
    """A measurement could not be taken."""


class Session:
    """A child process that measures one row; `close` kills it and all its workers.

    Args:
        row: what is measured.
        task: what it is measured on.
        folder: for the log and for Ultralytics' settings file.
        target: what runs in the child.
        say: is told what the child says of its progress.
    """

    def __init__(
        self,
        row: Row,
        task: Any,
        folder: Path,
        target: Serve = serve,
        say: Say = lambda _: None,
    ) -> None:
        self.row = row
        self._say = say
        self.log = folder / f"{row.id}.log"
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=target, args=(theirs, row, task, self.log), name=row.id, daemon=False
        )
        with _environment(row, folder):
            self._process.start()
        theirs.close()

    @property
    def connection(self) -> Connection:
        """Becomes readable once the child answers, or ends."""
        return self._connection

    def ready(self, limit: float, waited: float = 0.0) -> Ready:
        """Wait until it is built and warmed up.

        Args:
            limit: seconds from its start.
            waited: seconds of these that have passed.

        Raises:
            BenchError: the child failed or took longer; says why, with the end of its log.
        """
        late = f"did not start within {limit:g} s, its limit (--start-limit)"
        answer = self._receive(max(0.0, limit - waited), late)
        assert isinstance(answer, Ready)
        return answer

    def slice(self, seconds: float) -> Sample:
        """Measure for `seconds`; raises BenchError."""
        answer = self._ask(seconds, "slice", seconds)
        assert isinstance(answer, Sample)
        return answer

    def profile(self, seconds: float) -> dict[str, Any]:
        """Measure where the time goes, for `seconds`; raises BenchError."""
        answer = self._ask(seconds, "profile", seconds)
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """End the child and everything it started; may be called twice."""
        close_all([self])

    def _ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(("stop",))

    def _end(self, deadline: float) -> None:
        self._process.join(max(0.0, deadline - time.monotonic()))
        pid = self._process.pid
        if pid is not None and hasattr(os, "killpg"):
            with contextlib.suppress(OSError):  # all of them are gone already
                os.killpg(pid, signal.SIGKILL)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_GRACE)
        self._connection.close()

    def _ask(self, seconds: float, *message: Any) -> Any:
        try:
            self._connection.send(message)
        except OSError:
            raise self._failure("ended unexpectedly") from None
        return self._receive(seconds + ANSWER_LIMIT)

    def _receive(self, limit: float, late: str = "") -> Any:
        deadline = time.monotonic() + limit
        try:
            while True:
                if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                    self._ask_where()
                    raise self._failure(late or f"gave no answer for {limit:.0f} s")
                status, value = self._connection.recv()
                if status != "said":
                    break
                self._say(value)
        except (EOFError, OSError):
            self._process.join(5.0)
            code = self._process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            raise self._failure(f"ended unexpectedly ({how})") from None
        if status == "failed":
            raise self._failure(str(value))
        return value

    def _ask_where(self) -> None:
        """Have the child write the stacks of its threads into its log."""
        pid = self._process.pid
        if pid is not None and hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.5)

    def _failure(self, what: str) -> BenchError:
        tail = ""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()[-25:]
            tail = "".join(f"\n    {line}" for line in lines)
        shared = " (is /dev/shm too small for worker processes?)" if "signal 7" in what else ""
        said = f"; the end of its log:{tail}" if tail else ""
        return BenchError(f"{self.row.id}: {what}{shared}{said}")


def close_all(sessions: Iterable[Session]) -> None:
    """End children at once: told to stop together, they are killed together."""
    sessions = list(sessions)
    for session in sessions:
        session._ask_to_stop()
    deadline = time.monotonic() + _GRACE
    for session in sessions:
        session._end(deadline)


@contextlib.contextmanager
def _environment(row: Row, folder: Path) -> Iterator[None]:
    """The environment that a child inherits: libraries read theirs when they are imported."""
    changes: dict[str, str | None] = {
        # Ultralytics: no look at the network, no installing, no settings file in the home folder.
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(folder),
        **dict.fromkeys(_NOT_DISTRIBUTED),
    }
    if row.cores == 1:
        changes |= dict.fromkeys(_ONE_THREAD, "1")
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set(changes)
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
