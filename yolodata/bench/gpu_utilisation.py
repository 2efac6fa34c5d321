"""How much of the time of a slice a GPU computes."""

from __future__ import annotations

import threading
import time
from statistics import fmean
from typing import TYPE_CHECKING

from yolodata.telemetry.nvml import Gpu

if TYPE_CHECKING:
    import torch

_EVERY = 0.05  # seconds between two readings
_STALE = 0.4  # seconds at the start of a slice in which readings still cover the time before


class UtilisationMeter:
    """NVML's utilisation, read by a thread of its own.

    Attributes:
        reason: why there is no busy share; "" if there is.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = Gpu(device)
        self.reason = self._gpu.reason
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin reading."""
        if not self.reason:
            self._readings: list[tuple[float, float]] = []
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._read, name="bench-nvml", daemon=True)
            self._thread.start()

    def stop(self) -> float | None:
        """End reading; the share of the time (0-1), or None where nothing could be read."""
        if self._thread is None:
            return None
        self._stop.set()
        self._thread.join()
        self._thread = None
        # Stale ones are better than none.
        found = [busy for at, busy in self._readings if at > _STALE] or [
            b for _, b in self._readings
        ]
        return fmean(found) if found else None

    def _read(self) -> None:
        began = time.monotonic()
        while True:
            if (busy := self._gpu.busy()) is not None:
                self._readings.append((time.monotonic() - began, busy))
            if self._stop.wait(_EVERY):
                return
