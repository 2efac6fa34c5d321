"""The entry point of a process that measures."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from yolodata.bench import cores
from yolodata.bench.registry import make
from yolodata.bench.server import Jobs, Server
from yolodata.bench.subject import Row, Subject, Task

_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


def serve(connection: Connection, jobs: Jobs, log: Path) -> None:
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
        with suppress(OSError):
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
    if hasattr(os, "setsid"):
        os.setsid()  # so that the parent can end it with all the workers it starts
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):  # what C code prints, too
        os.dup2(descriptor, stream)
    os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)  # the parent asks where it hangs
