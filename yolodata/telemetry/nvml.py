"""What NVIDIA's management library says about a GPU; it comes with the package nvidia-ml-py."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ABSENT = "GPU busy share: not measured, nvidia-ml-py is not installed"


def _load() -> ModuleType | None:
    """Returns the module, initialised; None where it, or the driver's library, is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVMLError is only known once the import worked
        return None
    found: ModuleType = pynvml
    return found


def driver() -> str | None:
    """Returns the version of the driver, or None."""
    library = _load()
    if library is None:
        return None
    try:
        version = library.nvmlSystemGetDriverVersion()
    except Exception:
        return None
    return version.decode() if isinstance(version, bytes) else str(version)


class Gpu:
    """A GPU as NVML sees it.

    Args:
        device: torch's; anything but a GPU has no busy share.

    Attributes:
        reason: why there is no busy share; "" if there is.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason = ""
        self._library: Any = None
        self._handle: Any = None
        if device.type != "cuda":
            self.reason = "GPU busy share: not measured, there is no GPU in use"
            return
        library = _load()
        if library is None:
            self.reason = ABSENT
            return
        try:
            self._handle = _handle(library, device)
            self._library = library
        except Exception as error:
            self.reason = f"GPU busy share: not measured, NVML does not know the device: {error}"

    def busy(self) -> float | None:
        """Returns the share (0-1) of NVML's last fraction of a second with a kernel; or None."""
        if self._library is None:
            return None
        try:
            return float(self._library.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100
        except Exception:  # a reading that fails is one reading less
            return None


def _handle(library: Any, device: torch.device) -> Any:
    """Returns the device: NVML counts all, torch the visible ones; the UUID is the same."""
    import torch

    found: Any = torch.cuda.get_device_properties(device)
    uuid = getattr(found, "uuid", None)
    if uuid is None:
        return library.nvmlDeviceGetHandleByIndex(device.index or 0)
    return library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
