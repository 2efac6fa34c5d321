"""What NVIDIA's management library says about a GPU; it comes with the package nvidia-ml-py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Device:
    """All that NVML says about one GPU at one moment; None is what it does not say.

    Attributes:
        index: NVML's number; torch's may be another one.
        uuid, name, pci_bus: of the device.
        memory_bytes, memory_used_bytes: its memory, and what all processes together hold of it.
        busy_share: share (0-1) of the last fraction of a second with a kernel, of any process.
        pcie_generation, pcie_generation_max: of the link now, and possible with this GPU in this
            machine. A GPU without work lowers the generation, and never the width.
        pcie_width, pcie_width_max: lanes.
        pcie_replays: packets that had to be sent again since the driver was loaded.
        nvlinks: links to other GPUs, or to a switch, that are up.
        clock_sm_mhz, clock_sm_max_mhz, clock_memory_mhz, clock_memory_max_mhz: clocks.
        throttle_reasons: why the clocks are not higher, as words of `THROTTLE_REASONS`.
        temperature_c, power_w, power_limit_w, power_limit_default_w: heat and power.
        ecc: whether memory is checked for errors.
        ecc_uncorrected: errors since the driver was loaded that could not be corrected.
        repair_pending: a row of memory waits for a reset of the GPU to be replaced.
        mig: whether the GPU is cut into instances.
        mig_instances: how many there are.
        processes: process -> bytes of GPU memory (None where that is hidden), of processes that
            compute. In a container, numbers are those of the host, or nothing is listed.
    """

    index: int = 0
    uuid: str | None = None
    name: str | None = None
    pci_bus: str | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    busy_share: float | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_replays: int | None = None
    nvlinks: int | None = None
    clock_sm_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    clock_memory_mhz: int | None = None
    clock_memory_max_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    power_limit_default_w: float | None = None
    ecc: bool | None = None
    ecc_uncorrected: int | None = None
    repair_pending: bool | None = None
    mig: bool | None = None
    mig_instances: int | None = None
    processes: Mapping[str, int | None] | None = None


THROTTLE_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake",
    0x100: "display_clock",
}
"""Bits of NVML's clock event reasons."""


def cuda_of_driver() -> str | None:
    """Returns the newest CUDA version that the driver knows, such as "13.0"; or None."""
    library = _load()
    if library is None:
        return None
    try:
        number = int(library.nvmlSystemGetCudaDriverVersion_v2())
    except Exception:
        return None
    return f"{number // 1000}.{number % 1000 // 10}"


def devices() -> list[Device]:
    """Reads all GPUs of the machine.

    Raises:
        RuntimeError: there is no NVML, or no permission to use it; says which.
    """
    try:
        import pynvml
    except ImportError:
        raise RuntimeError("nvidia-ml-py is not installed") from None
    try:
        pynvml.nvmlInit()
        return [read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except Exception as error:  # the library's own
        raise RuntimeError(f"NVML: {error}") from None


def device_again(known: Device) -> Device | None:
    """Reads a GPU again; None where that does not work any more."""
    library = _load()
    if library is None:
        return None
    try:
        return read(library, known.index)
    except Exception:
        return None


def read(library: Any, index: int) -> Device:
    """Reads one GPU.

    Args:
        library: `pynvml`, initialised.
        index: NVML's number of the GPU.

    Raises:
        Exception: NVML's own, where there is no such GPU.
    """
    handle = library.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(library, f"nvmlDeviceGet{name}")(handle, *arguments)
        except Exception:  # not supported by this GPU, not known to this library, not permitted
            return None

    memory = ask("MemoryInfo")
    rates = ask("UtilizationRates")
    pci = ask("PciInfo")
    reasons = ask("CurrentClocksEventReasons")
    if reasons is None:
        reasons = ask("CurrentClocksThrottleReasons")  # its name before driver 535
    ecc, mig = ask("EccMode"), ask("MigMode")
    rows = ask("RemappedRows")  # (corrected, uncorrected, pending, failed)
    processes = ask("ComputeRunningProcesses")
    return Device(
        index=index,
        uuid=_text(ask("UUID")),
        name=_text(ask("Name")),
        pci_bus=None if pci is None else _text(pci.busId),
        memory_bytes=None if memory is None else int(memory.total),
        memory_used_bytes=None if memory is None else int(memory.used),
        busy_share=None if rates is None else rates.gpu / 100,
        pcie_generation=ask("CurrPcieLinkGeneration"),
        pcie_generation_max=ask("MaxPcieLinkGeneration"),
        pcie_width=ask("CurrPcieLinkWidth"),
        pcie_width_max=ask("MaxPcieLinkWidth"),
        pcie_replays=ask("PcieReplayCounter"),
        nvlinks=_nvlinks(ask, getattr(library, "NVML_NVLINK_MAX_LINKS", 18)),
        clock_sm_mhz=ask("ClockInfo", library.NVML_CLOCK_SM),
        clock_sm_max_mhz=ask("MaxClockInfo", library.NVML_CLOCK_SM),
        clock_memory_mhz=ask("ClockInfo", library.NVML_CLOCK_MEM),
        clock_memory_max_mhz=ask("MaxClockInfo", library.NVML_CLOCK_MEM),
        throttle_reasons=None
        if reasons is None
        else tuple(word for bit, word in THROTTLE_REASONS.items() if reasons & bit),
        temperature_c=ask("Temperature", library.NVML_TEMPERATURE_GPU),
        power_w=_watts(ask("PowerUsage")),
        power_limit_w=_watts(ask("EnforcedPowerLimit")),
        power_limit_default_w=_watts(ask("PowerManagementDefaultLimit")),
        ecc=None if ecc is None else bool(ecc[0]),
        ecc_uncorrected=ask(
            "TotalEccErrors", library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, library.NVML_VOLATILE_ECC
        ),
        repair_pending=None if rows is None else bool(rows[2]),
        mig=None if mig is None else bool(mig[0]),
        mig_instances=_mig_instances(ask) if mig and mig[0] else None,
        processes=None
        if processes is None
        else {str(one.pid): one.usedGpuMemory for one in processes},
    )


def _nvlinks(ask: Any, most: int) -> int | None:
    """Links that are up; NVML refuses the number of the first one that the GPU does not have."""
    states = []
    for link in range(most):
        state = ask("NvLinkState", link)
        if state is None:
            break
        states.append(state)
    return sum(map(bool, states)) if states else None


def _mig_instances(ask: Any) -> int:
    slots = range(ask("MaxMigDeviceCount") or 0)
    return sum(ask("MigDeviceHandleByIndex", slot) is not None for slot in slots)


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
