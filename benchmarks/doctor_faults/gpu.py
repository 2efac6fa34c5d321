"""A GPU with fewer PCIe lanes than it could have: only the probe of NVML is replaced.

No GPU takes part. What a step takes is measured on a stand-in: waits as long as the link would take
for the batch by the PCI Express specification, and then as long as it computes. So this checks what
the doctor concludes from a link, and not that a GPU is read correctly or copies as fast as that.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolodata.bench import drawing
from yolodata.machine import usable_cores

from .fault import Case, Truth

IMAGES = 64
IMGSZ = 640
LANES = 16
STEPS = 15

# Gigatransfers a second of a lane; a transfer is one bit, and 128 of 130 are data.
_GIGATRANSFERS = {3: 8.0, 4: 16.0, 5: 32.0}
# Packets of 256 bytes with 26 bytes around them (sequence number, header, checksum, framing), and
# about 4 % for acknowledgements and flow control.
_PACKETS = 256 / (256 + 26) * 0.96


class NarrowLink:
    """A GPU at work whose link has 4 of its 16 lanes."""

    name = cause = "pcie"
    sections = ("machine",)
    seconds = 10.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws generation, batch, and milliseconds of computing a step."""
        generation = rng.choice(sorted(_GIGATRANSFERS))
        batch = rng.choice((16, 32, 64, 128))
        copy_ms = 1e3 * batch * 3 * IMGSZ**2 / _bytes_per_s(generation, 4)
        return {
            "generation": generation,
            "batch": batch,
            "step_ms": round(copy_ms * rng.uniform(1.0, 4.0), 1),
        }

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Draws a dataset; the probe says what NVML would say of such a GPU."""
        drawing.write(folder / "set", IMAGES, seed=0, threads=len(usable_cores()))
        yield Case(
            arguments=[
                str(folder / "set" / "data.yaml"), f"batch={severity['batch']}",
                f"imgsz={IMGSZ}", "workers=2",
                "--loader", "ultralytics", "--step", str(severity["step_ms"]),
            ],
            probes={"nvml": _nvml(severity["generation"], 4)},
            truth=lambda: Truth([_step_ms(severity, 4)], [_step_ms(severity, LANES)]),
        )  # fmt: skip


def _nvml(generation: int, width: int) -> dict[str, Any]:
    """A healthy GPU but for the width of its link."""
    gpu = {
        "name": "GPU", "memory_bytes": 24 << 30, "memory_used_bytes": 1 << 28, "busy_share": 0.0,
        "pcie_generation": generation, "pcie_generation_max": generation, "pcie_width": width,
        "pcie_width_max": LANES, "loaded": True, "clock_sm_mhz": 2500, "clock_sm_max_mhz": 2520,
        "throttle_reasons": ["sw_power_cap"], "power_limit_w": 450.0,
        "power_limit_default_w": 450.0, "ecc": False, "mig": False, "processes": {},
        "kernels": True,
    }  # fmt: skip
    return {"gpus": [gpu], "driver": "580.65", "driver_cuda": "13.0", "torch_cuda": "13.0"}


def _bytes_per_s(generation: int, lanes: int) -> float:
    return _GIGATRANSFERS[generation] * 1e9 * 128 / 130 / 8 * lanes * _PACKETS


def _step_ms(severity: Mapping[str, Any], lanes: int) -> float:
    """Median milliseconds of steps that send their batch over the link, then compute."""
    nbytes = severity["batch"] * 3 * IMGSZ**2
    copy_s = nbytes / _bytes_per_s(severity["generation"], lanes)
    times = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        _wait_until(begun + copy_s)
        _wait_until(time.perf_counter() + severity["step_ms"] / 1e3)
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter() - 0.001))
    while time.perf_counter() < moment:
        pass


FAULTS = [NarrowLink()]
