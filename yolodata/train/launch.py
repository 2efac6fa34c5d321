"""Starts torchrun on this machine, passes signals on to it, and finds out how its ranks ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from yolodata.train.exits import STATUS, status_left
from yolodata.train.signals import SIGNALS


def launch(arguments: list[str], processes: int) -> int:
    """Runs `python -m yolodata.train` with these arguments in so many processes.

    Returns:
        0, what the ranks said (see `exits`), or torchrun's own exit status.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "yolodata.train"]
    command += [argument for argument in arguments if not argument.startswith("nproc=")]
    with tempfile.TemporaryDirectory(prefix="yolodata-") as folder:
        status = Path(folder) / "status"
        status.touch()
        # A group of its own: Ctrl-C reaches it once, through us, and not from the terminal as well.
        child = subprocess.Popen(
            command, env={**os.environ, STATUS: str(status)}, start_new_session=True
        )

        def pass_on(number: int, frame: FrameType | None) -> None:
            child.send_signal(signal.SIGTERM)  # the only one that every torchrun passes on

        before = {number: signal.signal(number, pass_on) for number in SIGNALS}
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if code == 0:
            return 0
        left = status_left(status)
        return code if left is None else left
