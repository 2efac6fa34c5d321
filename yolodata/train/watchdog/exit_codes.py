"""Exit statuses of a training process that does not end well, and the exceptions behind them."""

from __future__ import annotations

import os
from pathlib import Path

from yolodata.errors import YolodataError

STATUS = "YOLODATA_STATUS"
"""Names the file in which ranks leave their exit status: torchrun itself ends with 1 for all."""

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
    """Another rank of the run is lost, so that this one cannot go on."""


def leave_status(code: int) -> None:
    """Tells `yolodata train`, if it started torchrun, how this process ends."""
    file = os.environ.get(STATUS)
    if file and Path(file).exists():
        with open(file, "a", encoding="utf-8") as handle:
            handle.write(f"{code}\n")


def status_left(file: Path) -> int | None:
    """Returns what the ranks left, or None.

    A lost rank counts more than an orderly stop; a mistake is why the others lost that rank.
    """
    codes = [int(line) for line in file.read_text(encoding="utf-8").split()]
    return MISTAKE if MISTAKE in codes else max(codes, default=None)
