"""What is read off the GPU, where no dcgm-exporter tells about it already."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING

from yolodata.telemetry.nvml import Gpu

if TYPE_CHECKING:
    import torch

DCGM = "http://localhost:9400/metrics"
"""Where dcgm-exporter serves by default."""


def dcgm_serves(url: str = DCGM, patience: float = 0.5) -> bool:
    """Whether dcgm-exporter answers on this machine."""
    try:
        with urllib.request.urlopen(url, timeout=patience) as answer:
            return b"DCGM_FI_" in answer.read(1 << 20)
    except (OSError, ValueError):  # nobody, or somebody who does not speak HTTP
        return False


class GpuLevels:
    """Reads a GPU by NVML, unless dcgm-exporter does.

    Args:
        device: that the process trains on.
        dcgm: says whether dcgm-exporter answers.

    Attributes:
        source: who tells about the GPU: "none" (there is none), "dcgm-exporter" or "nvml".
    """

    def __init__(self, device: torch.device, dcgm: Callable[[], bool] = dcgm_serves) -> None:
        self._device = device
        self._gpu: Gpu | None = None
        self.source = "none"
        if device.type == "cuda":
            self.source = "dcgm-exporter" if dcgm() else "nvml"
        if self.source == "nvml":
            self._gpu = Gpu(device)

    def read(self) -> dict[str, float]:
        """Returns the levels by key; what cannot be read is left out."""
        if self._device.type != "cuda":
            return {}
        import torch

        found: dict[str, float] = {"torch_memory_bytes": torch.cuda.memory_reserved(self._device)}
        if self._gpu is None:
            return found
        busy = self._gpu.busy()
        if busy is not None:
            found["gpu_busy_ratio"] = busy
        # None of these touches the device's queues: a graph may be being captured.
        for name, read, unit in (
            ("gpu_memory_used_bytes", "device_memory_used", 1.0),
            ("gpu_temperature_celsius", "temperature", 1.0),
            ("gpu_power_watts", "power_draw", 1e-3),
        ):
            with contextlib.suppress(Exception):  # NVML's, or a torch that does not have it yet
                found[name] = float(getattr(torch.cuda, read)(self._device)) * unit
        return found
