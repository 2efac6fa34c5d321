"""A process that measures: how it is started, asked and ended, and where it begins."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from yolodata.bench import cores
from yolodata.bench.registry import make
from yolodata.bench.server import Server
from yolodata.bench.subject import Jobs, Row, Subject, Task
from yolodata.errors import YolodataError, starting
from yolodata.isolation import child_environment

ANSWER_LIMIT = 120.0  # seconds beyond what an answer takes by itself
_GRACE = 6.0  # seconds for children that were told to stop: workers of theirs end by themselves
_LOG_LINES = 25
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

Say = Callable[[str], None]

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_NOT_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


class BenchError(YolodataError, RuntimeError):
    """A measurement could not be taken."""


class Session:
    """A process that measures rows; `close` kills it and all its workers.

    Args:
        jobs: the rows, each with its task.
        folder: for the log and for Ultralytics' settings file.
    """

    def __init__(self, jobs: Jobs, folder: Path) -> None:
        row = jobs[0][0]
        self.name = row.process
        self._error = ""  # why it is of no more use
        self._answered = False
        self._log = folder / f"{self.name}.log"
        context = multiprocessing.get_context("spawn")
        self._connection: Connection
        self._connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, jobs, self._log), name=self.name
        )
        with _environment(row.cores == 1, folder), starting(f"the process of {self.name}"):
            self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self._pid = self._process.pid

    def ask(self, limit: float, *message: Any, late: str = "") -> Any:
        """Ask for something, and return the answer.

        Args:
            limit: seconds to wait for it.
            message: see `server`.
            late: what to say if it does not come in time.

        Raises:
            BenchError: why there is none, with the end of the log.
        """
        if self._error:
            raise BenchError(self._error)
        try:
            self._connection.send(message)
            if not self._connection.poll(max(0.0, limit)):
                with contextlib.suppress(OSError):
                    os.kill(self._pid, signal.SIGUSR1)  # to write its threads' stacks into the log
                    time.sleep(0.5)
                raise self._failure(late or f"gave no answer for {limit:.0f} s", over=True)
            status, value = self._connection.recv()
            self._answered = True
        except (EOFError, OSError):
            raise self._ended() from None
        if status != "done":
            raise self._failure(str(value), over=status == "over")
        return value

    def close(self) -> None:
        """End the child and everything it started; may be called twice."""
        close_all([self])

    def _ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(("stop",))

    def _end(self, deadline: float) -> None:
        self._process.join(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(OSError):  # all of them are gone already
            os.killpg(self._pid, signal.SIGKILL)
        self._process.kill()  # it may have no group of its own yet
        self._process.join(_GRACE)
        self._connection.close()
        self._error = self._error or f"{self.name}: it was ended"

    def _ended(self) -> BenchError:
        self._process.join(5.0)
        code = self._process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        what = "ended unexpectedly" if self._answered else "could not start"
        return self._failure(f"{what} ({how})", over=True)

    def _failure(self, what: str, over: bool) -> BenchError:
        error = f"{self.name}: {what}"
        if "signal 7" in what:
            error += " (is /dev/shm too small for worker processes?)"
        with contextlib.suppress(OSError):
            log = self._log.read_text(encoding="utf-8", errors="replace").strip()
            lines = log.splitlines()[-_LOG_LINES:]
            error += "".join(["; the end of its log:", *(f"\n    {line}" for line in lines)])
        if over:
            self._error = error
        return BenchError(error)


def close_all(sessions: Iterable[Session]) -> None:
    """End children at once: told to stop together, they are killed together."""
    sessions = list(sessions)
    for session in sessions:
        session._ask_to_stop()
    deadline = time.monotonic() + _GRACE
    for session in sessions:
        session._end(deadline)


@contextlib.contextmanager
def _environment(one_core: bool, folder: Path) -> Iterator[None]:
    """The environment that a child inherits: libraries read theirs when they are imported."""
    # Ultralytics: no look at the network, no installing, no settings file in the home folder.
    changes = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)}
    changes |= child_environment()
    if one_core:
        changes |= dict.fromkeys(_ONE_THREAD, "1")
    with patch.dict(os.environ, changes):
        for name in _NOT_DISTRIBUTED:
            os.environ.pop(name, None)
        yield


def _serve(connection: Connection, jobs: Jobs, log: Path) -> None:
    """Measure rows until told to stop, or until the parent is gone; see `server` for the words."""
    _begin(log)
    row, task = jobs[0]
    server = Server(connection, jobs, _make)
    try:
        if row.trains:
            pinned = cores.pin(task.cores)  # before torch looks how many there are
            from yolodata.bench.trainer import train

            train(connection, jobs, pinned)
        else:
            for _ in server:
                pass
    except EOFError:  # the parent is gone
        pass
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.send(("over", f"{type(error).__name__}: {error}"))
    finally:
        server.close()


def _make(row: Row, task: Task) -> Subject:
    if row.cores > 1:
        return make(row, task)
    import cv2
    import torch

    torch.set_num_threads(1)
    subject = make(row, task)
    cv2.setNumThreads(0)
    return subject


def _begin(log: Path) -> None:
    """Begin a session of its own, with a log that ends with any crash.

    On Linux it dies with its parent, also with one that was killed: what goes on would disturb
    whatever is measured next.
    """
    os.setsid()  # so that the parent can end it with all the workers it starts
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):  # what C code prints, too
        os.dup2(descriptor, stream)
    os.close(descriptor)
    sys.stdout = sys.stderr = os.fdopen(1, "w", 1, "utf-8", "backslashreplace", closefd=False)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the parent asks where it hangs
