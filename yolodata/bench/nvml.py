"""What NVIDIA's management library says about a GPU; it comes with the package nvidia-ml-py."""

from __future__ import annotations

import contextlib
import threading
import time
from statistics import fmean
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ABSENT = "GPU busy share: not measured, nvidia-ml-py is not installed"
_EVERY = 0.05  # seconds between two readings
_STALE = 0.4  # seconds at the start of a slice in which readings still cover the time before


def _load() -> ModuleType | None:
    """The module, initialised; None where it, or the driver's library, is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVMLError is only known once the import worked
        return None
    found: ModuleType = pynvml
    return found


def driver() -> str | None:
    """Version of the driver, or None."""
    library = _load()
    if library is None:
        return None
    try:
        version = library.nvmlSystemGetDriverVersion()
    except Exception:
        return None
    return version.decode() if isinstance(version, bytes) else str(version)


class BusyMeter:
    """How much of the time a GPU computes: NVML's utilisation, read by a thread of its own.

    NVML counts the time in which at least one kernel runs, over its own last fraction of a second.
    Readings at the beginning of a slice, which cover the time before, are left out if there are
    later ones.

    Args:
        device: the GPU; anything else has no busy share.

    Attributes:
        reason: why there is no busy share; "" if there is.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason = ""
        self._library: Any = None
        self._handle: Any = None
        self._readings: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = 0.0
        if device.type != "cuda":
            self.reason = "GPU busy share: not measured, there is no GPU in use"
            return
        self._library = _load()
        if self._library is None:
            self.reason = ABSENT
            return
        try:
            self._handle = _handle(self._library, device)
        except Exception as error:
            self._library = None
            self.reason = f"GPU busy share: not measured, NVML does not know the device: {error}"

    def start(self) -> None:
        """Begin reading."""
        self._began = time.monotonic()
        if self._library is None:
            return
        self._readings, self._stop = [], threading.Event()
        self._thread = threading.Thread(target=self._read, name="bench-nvml", daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """End reading; the share of the time (0-1), or None where nothing could be read."""
        if self._thread is None:
            return None
        self._stop.set()
        self._thread.join()
        self._thread = None
        fresh = [busy for at, busy in self._readings if at > _STALE]
        found = fresh or [busy for _, busy in self._readings]
        return fmean(found) if found else None

    def _read(self) -> None:
        stop = self._stop
        while True:
            with contextlib.suppress(Exception):  # a reading that fails is one reading less
                rates = self._library.nvmlDeviceGetUtilizationRates(self._handle)
                self._readings.append((time.monotonic() - self._began, rates.gpu / 100))
            if stop.wait(_EVERY):
                return


def _handle(library: Any, device: torch.device) -> Any:
    """NVML counts all devices, torch those of CUDA_VISIBLE_DEVICES: the UUID is the same."""
    import torch

    found: Any = torch.cuda.get_device_properties(device)
    uuid = getattr(found, "uuid", None)
    if uuid is None:
        return library.nvmlDeviceGetHandleByIndex(device.index or 0)
    return library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
