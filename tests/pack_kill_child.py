"""Kills `yolodata shard` at random moments: python pack_kill_child.py SOURCE FOLDER KILLS

Packs SOURCE into FOLDER/0, /1, … by forks of this process, and SIGKILLs each while it packs.
Prints, for each, the seconds for which it was let run.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from yolodata import cli
from yolodata.ingest import pack_cli, packing  # noqa: F401 - before the forks, for speed

OPTIONS = ["--imgsz", "64", "--shard-size", "64K", "--workers", "2", "--quiet"]


def start(source: str, out: Path) -> int:
    """A fork that packs, and has begun to; its id."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(cli.main(["shard", source, str(out), *OPTIONS]))
    while not out.exists() and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.0005)
    return pid


def main(source: str, folder: Path, kills: int) -> None:
    draw = random.Random(0)
    began = time.perf_counter()
    assert os.waitpid(start(source, folder / "whole"), 0)[1] == 0
    longest = time.perf_counter() - began
    for kill in range(kills):
        for attempt in range(100):
            out = folder / f"{kill}-{attempt}"
            pid = start(source, out)
            after = draw.uniform(0, longest)
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
            if os.waitpid(pid, 0)[1] == signal.SIGKILL:
                out.rename(folder / str(kill))
                print(f"{after:.4f}")
                break
            longest *= 0.8  # it had finished


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
