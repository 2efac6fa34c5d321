"""What can be read off this process and its GPU at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yolodata.telemetry.nvml import Gpu

if TYPE_CHECKING:
    import torch

MIB = 2**20


@dataclass(frozen=True)
class Levels:
    """One reading; None is what does not exist here.

    Attributes:
        gpu_busy: share (0-1) of the last fraction of a second in which the GPU computed.
        rss: bytes of memory that this process sees, mapped shards in the page cache included.
        private: bytes that belong to it alone.
        device: bytes of the GPU's memory that torch holds.
        read: bytes that the system read from disks for this process since it began.
    """

    gpu_busy: float | None = None
    rss: int = 0
    private: int = 0
    device: int | None = None
    read: int | None = None


class Gauges:
    """Reads the levels of this process; takes a few tens of microseconds.

    Args:
        device: that the process trains on.
    """

    def __init__(self, device: torch.device) -> None:
        import psutil

        self._process = psutil.Process()
        self._device = device
        self._gpu = Gpu(device)
        self.reason = self._gpu.reason

    def read(self) -> Levels:
        """Reads the levels now."""
        memory = self._process.memory_info()
        held = None
        if self._device.type == "cuda":
            import torch

            held = torch.cuda.memory_reserved(self._device)
        shared = getattr(memory, "shared", 0)
        return Levels(self._gpu.busy(), memory.rss, memory.rss - shared, held, self._bytes_read())

    def _bytes_read(self) -> int | None:
        try:
            return int(self._process.io_counters().read_bytes)
        except Exception:  # no such counter on this system, or none that may be read
            return None
