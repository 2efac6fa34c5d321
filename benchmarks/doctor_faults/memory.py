"""Memory that ends: a control group's limit, or a replaced probe, below what a batch needs.

What a batch needs is measured first: Ultralytics' trainer makes a few steps of it in a process of
its own. The limit lies between that and what one picture needs. Afterwards the batch that the knob
names has to train under the limit, the one that was complained of must not, and neither must one
that is half as large again as the knob's.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .cpu_quota import remove
from .datasets import dataset
from .fault import Case

STEPS = 6
TRAIN = Path(__file__).with_name("train_steps.py")
GROUPS = Path("/sys/fs/cgroup")


@cache
def peak_bytes(imgsz: int, batch: int, prefix: tuple[str, ...] = ()) -> int:
    """Bytes that training took at its peak; 0 where it was killed.

    Raises:
        RuntimeError: it ended in another way.
    """
    command = [*prefix, sys.executable, str(TRAIN), str(dataset()), str(imgsz), str(batch)]
    done = subprocess.run([*command, str(STEPS)], capture_output=True, text=True, timeout=600)
    found = re.search(r"peak_bytes=(\d+)", done.stdout)
    if found:
        return int(found[1])
    if done.returncode in (-9, 137):
        return 0
    raise RuntimeError(f"training failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


@contextmanager
def memory_group(limit: int) -> Iterator[tuple[str, ...]]:
    """Makes a control group; yields the words that start a command in it.

    Raises:
        OSError: there are no control groups, or this process may not make one.
    """
    version_1 = (GROUPS / "memory" / "memory.limit_in_bytes").exists()
    group = (GROUPS / "memory" if version_1 else GROUPS) / f"job-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        name = "memory.limit_in_bytes" if version_1 else "memory.max"
        (group / name).write_text(str(limit), encoding="utf-8")
        yield ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
    finally:
        remove(group)


@dataclass(frozen=True)
class MemoryEnds:
    """A limit on memory.

    Attributes:
        name: of it.
        cause: "out_of_memory", or "" for a limit that leaves room.
        share: of what a batch needs beyond one picture, that the limit leaves: from, to.
        real: by a control group; else by a probe.
    """

    name: str
    cause: str
    share: tuple[float, float]
    real: bool
    sections: tuple[str, ...] = ("memory",)
    seconds: float = 10.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws size and number of the pictures, and the share."""
        return {
            "imgsz": rng.choice((256, 320)),
            "batch": rng.choice((12, 16, 24, 32)),
            "share": round(rng.uniform(*self.share), 2),
        }

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Limits memory."""
        imgsz, batch = severity["imgsz"], severity["batch"]
        one, whole = peak_bytes(imgsz, 1), peak_bytes(imgsz, batch)
        limit = round(one + severity["share"] * (whole - one))
        arguments = [
            str(dataset()), "model=yolo26n.yaml", "device=cpu", f"imgsz={imgsz}", f"batch={batch}",
        ]  # fmt: skip
        if not self.real:
            probes = {"memory_limit_bytes": limit}

            def fits(count: int) -> bool:
                return peak_bytes(imgsz, count) <= limit

            yield Case(arguments, probes=probes, broken=lambda s: self._broken(fits, batch, s))
            return
        with memory_group(limit) as prefix:

            def trains(count: int) -> bool:
                return peak_bytes(imgsz, count, prefix) > 0

            yield Case(arguments, prefix, broken=lambda s: self._broken(trains, batch, s))

    def _broken(self, trains: Any, batch: int, settings: Mapping[str, Any]) -> str:
        """What is wrong with what the doctor said; "" if nothing is."""
        if not self.cause:
            return "" if trains(batch) else f"batch={batch} does not train, and was not named"
        if trains(batch):
            return f"batch={batch} trains"
        chosen = int(settings.get("batch", 0))
        if not chosen or not trains(chosen):
            return f"the knob is {dict(settings)}, and that does not train"
        larger = chosen * 3 // 2 + 1
        if larger < batch and trains(larger):
            return f"the knob says batch={chosen}, and batch={larger} trains, too"
        return ""


FAULTS = [
    MemoryEnds("memory by a probe", "out_of_memory", (0.2, 0.8), real=False),
    MemoryEnds("memory by a group", "out_of_memory", (0.2, 0.8), real=True),
    MemoryEnds("healthy memory", "", (1.3, 2.0), real=True),
]
