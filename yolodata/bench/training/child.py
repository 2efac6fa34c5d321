"""The training process of a benchmark, told through a pipe what to do.

Messages are tuples, command first: ("start", row id, seconds), ("steps", row id, number),
("profile", row id, number) or ("stop",). Answers are ("done", value) or ("failed", text), with any
number of ("said", text) before them, which tell of progress.
"""

from __future__ import annotations

import contextlib
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from yolodata.bench import child, cores
from yolodata.bench.rows import Row
from yolodata.bench.training.task import TrainTask


def serve(connection: Connection, row: Row, task: TrainTask, log: Path) -> None:
    """Entry point; returns when told to stop, or when the parent is gone."""
    child.begin(log)
    pinned = cores.pin(task.cores)  # before torch looks how many there are
    try:
        from yolodata.bench.training.trainer import run

        run(connection, task, pinned)
    except EOFError:  # the parent is gone
        pass
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.send(("failed", f"{type(error).__name__}: {error}"))
