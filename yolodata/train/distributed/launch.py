"""Starts torchrun on this machine, passes signals on to it, and finds out how its ranks ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from yolodata.errors import starting
from yolodata.folders import Folder
from yolodata.isolation import child_environment
from yolodata.terminal import printable
from yolodata.train.exit_codes import PREEMPTED, STATUS, status_left
from yolodata.train.signals import SIGNALS

TORCHRUNS = ["SIGHUP", "SIGQUIT"]
"""Signals that torchrun passes on unless told otherwise, beside those that training handles.

torchrun dies on any other signal, SIGUSR1 among them, and its ranks go on without it.
"""


def command(
    arguments: Sequence[str], processes: int, options: Sequence[str] = ("--standalone",)
) -> list[str]:
    """Returns the command that starts `python -m yolodata.train` in so many processes.

    Args:
        arguments: of `yolodata train`.
        processes: of this machine.
        options: of torchrun: how it finds other machines, say.
    """
    start = [sys.executable, "-m", "yolodata.train.distributed.torchrun", *options]
    if torchrun_knows("--signals-to-handle"):
        start += ["--signals-to-handle", ",".join(TORCHRUNS + [s.name for s in SIGNALS])]
    start += [f"--nproc-per-node={processes}", "-m", "yolodata.train"]
    words = [argument for argument in arguments if not argument.startswith("nproc=")]
    # torchrun reads $local_rank in them, and $$ as $.
    return start + [word.replace("$", "$$") for word in words]


def torchrun_knows(option: str) -> bool:
    """Whether this torchrun has an option; importing torch to see would take seconds."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    file = Path(torch.origin).with_name("distributed") / "run.py"
    return file.is_file() and option in file.read_text(encoding="utf-8")


def _empty(file: Path) -> None:
    """Makes a file that is empty, in the place of what has its name; a link is not followed."""
    with Folder.at(file.parent) as folder:
        folder.replace(file.name, b"", durable=False)


def launch(
    arguments: Sequence[str],
    processes: int,
    options: Sequence[str] = ("--standalone",),
    variables: Mapping[str, str] | None = None,
    status: Path | None = None,
    restarted: bool = False,
) -> int:
    """Runs `python -m yolodata.train` with these arguments in so many processes.

    Args:
        arguments, processes, options: see `command`.
        variables: of the environment, for torchrun and the ranks.
        status: file in which ranks leave how they end; None keeps it for the time of the run.
        restarted: torchrun may start ranks again, so that earlier ones leave how they ended, too.

    Returns:
        0, what the ranks said (see `train.exit_codes`), or torchrun's own exit status, 128 +
        signal where one killed it;
        `PREEMPTED` where they were asked to stop before they could say anything.

    Raises:
        ResourceError: torchrun cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="yolodata-") as folder:
        status = status or Path(folder) / "status"
        _empty(status)
        asked: list[int] = []
        child: subprocess.Popen[bytes] | None = None

        def pass_on(number: int, frame: FrameType | None) -> None:
            first = not asked
            asked.append(number)
            if first:
                name = signal.Signals(number).name
                print(f"yolodata: {name}: {processes} processes are asked to stop", file=sys.stderr)
                if restarted:
                    _empty(status)  # how the ranks end now is what counts
            # Of many of them torchrun dies, and leaves ranks that are about to write their state.
            if child is not None and (first or number == signal.SIGINT):
                child.send_signal(signal.SIGTERM)  # the only one that every torchrun passes on

        # Before torchrun begins: ending between the two would leave it, and its ranks, alone.
        before = {number: signal.signal(number, pass_on) for number in SIGNALS}
        try:
            # A group of its own: Ctrl-C reaches it once, through us, and not from the terminal too.
            with starting("torchrun"):
                started = subprocess.Popen(
                    command(arguments, processes, options),
                    env={
                        "PET_LOG_DIR": folder,  # torchrun makes one each time, and leaves it
                        **os.environ,
                        **(variables or {}),
                        **child_environment(),
                        STATUS: str(status),
                    },
                    start_new_session=True,
                )
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            child = started
            if asked:  # while it began
                child.send_signal(signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if code == 0:
            return 0
        left = status_left(status)
        if left is None:
            return PREEMPTED if asked else code if code > 0 else 128 - code
        code, reason = left
        if code != PREEMPTED:  # which rank 0 has said
            said = printable(reason, keep="\n")
            print(f"yolodata: the run ended: {said}", file=sys.stderr)  # below torchrun's words
        return code
