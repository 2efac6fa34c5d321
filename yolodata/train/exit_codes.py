"""Exit statuses of a training process that does not end well, and the exceptions behind them."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from yolodata.errors import YolodataError
from yolodata.files import read_lines
from yolodata.folders import Folder

_LONGEST = 10_000  # characters of a reason
_LARGEST = 1 << 30  # bytes of the file: a line of each rank

STATUS = "YOLODATA_STATUS"
"""Names the file in which ranks leave their exit status: torchrun itself ends with 1 for all."""

FAILED = 1
"""An error of the program, with its traceback."""

MISTAKE = 2
"""An error that yolodata explains; as for every subcommand."""

PREEMPTED = 75
"""Asked to stop (SIGTERM, SIGUSR1, SIGINT). The state is on disk; the same command resumes."""

PEER_LOST = 76
"""Another rank died, stalled or failed; the last checkpoint is what there is."""


class Preempted(SystemExit):
    """Training was asked to stop and has written its state; ends the process with `PREEMPTED`.

    Args:
        why: the signal, or who asked.
    """

    def __init__(self, why: str) -> None:
        super().__init__(PREEMPTED)
        self.why = why

    def __str__(self) -> str:
        return self.why


class PeerLost(YolodataError):
    """Another rank of the run is lost, so that this one cannot go on.

    Args:
        rank: this one.
        reason: which rank is lost, and why.
    """

    def __init__(self, rank: int, reason: str) -> None:
        super().__init__(f"rank {rank} ends: {reason}")
        self.reason = reason


def leave_status(code: int, reason: str) -> None:
    """Tells `yolodata train`, if it started torchrun, how this process ends, and why."""
    file = os.environ.get(STATUS)
    if not file:
        return
    said = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}…"
    with contextlib.suppress(OSError), Folder.at(Path(file).parent) as folder:
        fd = folder.open(Path(file).name, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(fd, "ab", buffering=0) as handle:
            handle.write(json.dumps([code, said]).encode() + b"\n")


def status_left(file: Path) -> tuple[int, str] | None:
    """Returns what the ranks left, or None: the exit status, and the first one's reason.

    A mistake is why the others lost that rank, whoever left first. Else a lost rank counts more
    than an error, and that more than an orderly stop of other ranks.
    """
    left = [found for line in read_lines(file, _LARGEST) if (found := _said(line)) is not None]
    if not left:
        return None
    reasons = dict(reversed(left))
    if MISTAKE in reasons:
        return MISTAKE, reasons[MISTAKE]
    status = next(code for code in (PEER_LOST, FAILED, PREEMPTED) if code in reasons)
    return status, left[0][1]


def _said(line: bytes) -> tuple[int, str] | None:
    """What a rank left; None of a line that was cut: the disk was full, or the rank was killed."""
    try:
        code, reason = json.loads(line)
    except (TypeError, ValueError):
        return None
    return (code, reason) if code in (FAILED, MISTAKE, PREEMPTED, PEER_LOST) else None
