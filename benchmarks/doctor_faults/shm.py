"""A tiny /dev/shm, as containers have: a small tmpfs in a mount namespace of its own.

`python -m benchmarks.doctor_faults.shm` shows, without any code of the doctor, that a run really
ends where the doctor says so: torch's loader, with drawn severities, and with room for all.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolodata.bench import drawing
from yolodata.machine import usable_cores

from .fault import Case

PREFETCH = 4  # batches that Ultralytics has each worker make ahead
IMAGES = 256
_PATIENCE_S = 60  # for six steps of a second

_LOADER = """
import sys, time, torch
batch, imgsz, workers, prefetch = map(int, sys.argv[1:])
class Pictures(torch.utils.data.Dataset):
    def __len__(self): return 100 * batch
    def __getitem__(self, i): return torch.full((3, imgsz, imgsz), i, dtype=torch.uint8)
loader = torch.utils.data.DataLoader(Pictures(), batch, num_workers=workers,
    prefetch_factor=prefetch, collate_fn=torch.stack)
for count, one in zip(range(6), loader):
    time.sleep(1)  # the step: slower than the loader, so that the queue fills
print("went through")
"""


class SharedMemory:
    """/dev/shm holds only a share of the batches that wait for a step."""

    name = cause = "shm"
    sections = ("machine",)
    seconds = 10.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws batch, side of the pictures, workers, and how much of the queue fits."""
        return {
            "batch": rng.choice((8, 16, 24)),
            "imgsz": rng.choice((320, 480, 640)),
            "workers": rng.randint(1, 8),
            "share": round(rng.uniform(0.05, 0.9), 2),
        }

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Draws a dataset; the command runs in a namespace with a small /dev/shm."""
        drawing.write(folder / "set", IMAGES, seed=0, threads=len(usable_cores()))
        yield Case(
            arguments=[
                str(folder / "set" / "data.yaml"), f"batch={severity['batch']}",
                f"imgsz={severity['imgsz']}", f"workers={severity['workers']}",
                "--loader", "ultralytics", "--step", "30",
            ],
            prefix=_with_shm(severity, severity["share"]),
        )  # fmt: skip


def _with_shm(severity: Mapping[str, Any], share: float) -> list[str]:
    """Words before a command that give it a /dev/shm with room for a share of the queue.

    They need root. The size is a whole number of pages.
    """
    workers = min(severity["workers"], os.cpu_count() or 1)  # Ultralytics takes no more
    batches = workers * PREFETCH + 1  # and the loop holds one
    pages = math.floor(share * batches * severity["batch"] * 3 * severity["imgsz"] ** 2 / 4096)
    mount = f'mount -t tmpfs -o size={4 * pages}k tmpfs /dev/shm && exec "$@"'
    return ["unshare", "-m", "sh", "-c", mount, "sh"]


def _goes_through(severity: Mapping[str, Any], share: float) -> bool:
    """Whether torch's loader lives with room for a share of the queue."""
    workers = min(severity["workers"], os.cpu_count() or 1)
    sizes = map(str, (severity["batch"], severity["imgsz"], workers, PREFETCH))
    command = [*_with_shm(severity, share), sys.executable, "-c", _LOADER, *sizes]
    # With torch 2.14 the worker's batch is lost, and the loop waits for it for ever.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        told, _ = process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too
    return b"went through" in told


FAULTS = [SharedMemory()]


if __name__ == "__main__":
    rng = random.Random(1)
    for _ in range(5):
        drawn = FAULTS[0].draw(rng)
        outcome = {share: _goes_through(drawn, share) for share in (drawn["share"], 1.02)}
        print(drawn, "goes through:", outcome, flush=True)
