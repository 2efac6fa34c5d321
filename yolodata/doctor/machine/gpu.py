"""The GPUs of this machine, as NVML and torch see them; or as a test says.

Note [idle GPUs]. A GPU without work lowers its clocks and the generation of its PCIe link. So both,
and what throttles it, are read while it copies and multiplies. The link's width never changes;
where no work could be given it is all that is compared.

Note [others]. Which processes compute, and how busy the GPU is, is read before this process uses it
for the first time. Afterwards nobody could tell them apart: in a container NVML numbers processes
as the host does.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from yolodata.doctor.examination import Outcome
from yolodata.doctor.setup import Setup
from yolodata.errors import ConfigError
from yolodata.machine import ranks_here
from yolodata.telemetry import nvml
from yolodata.topology import device_node

if TYPE_CHECKING:
    import torch

_WORK_S = 0.4


@dataclass(frozen=True)
class Gpu(nvml.Device):
    """One GPU.

    Of NVML's facts, `busy_share` and `processes` are about others than this run.

    Attributes:
        torch_index: torch's number; None where torch does not see it.
        kernels: whether torch was compiled for it.
        numa_node: that it is connected to.
        loaded: generation, clocks and throttle reasons were read while it worked.
        h2d_gb_s: GB/s from page-locked host memory, measured.
    """

    torch_index: int | None = None
    kernels: bool | None = None
    numa_node: int | None = None
    loaded: bool = False
    h2d_gb_s: float | None = None


@dataclass(frozen=True)
class Gpus:
    """All GPUs.

    Attributes:
        gpus: in NVML's order.
        driver: its version.
        driver_cuda: newest CUDA version that it knows.
        torch_cuda: CUDA version that torch was built for; None is a build without CUDA.
        p2p: by torch's numbers, whether one GPU can read the other's memory.
        not_done: what could not be seen.
        fake: nothing of this is about this machine.
    """

    gpus: Sequence[Gpu] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    torch_cuda: str | None = None
    p2p: Sequence[Sequence[bool]] | None = None
    not_done: Sequence[str] = ()
    fake: bool = False

    def used(self, setup: Setup) -> list[Gpu]:
        """Those that this process trains on; none on the CPU."""
        device = setup.train.device
        text = ",".join(map(str, device)) if isinstance(device, (list, tuple)) else str(device)
        if text in ("cpu", "mps"):
            return []
        wanted = [int(part) for part in text.replace("cuda:", "").split(",") if part.isdigit()]
        if "LOCAL_RANK" in os.environ:
            here = int(os.environ["LOCAL_RANK"])
            wanted = wanted[here : here + 1] or [here]
        known = [gpu for gpu in self.gpus if gpu.torch_index is not None]
        number = {gpu.torch_index if known else gpu.index: gpu for gpu in known or self.gpus}
        return [number[one] for one in wanted or [0] if one in number]


def examine(seen: Gpus) -> Outcome:
    """Says what there is; complaints are `gpu_state`'s and `gpu_link`'s."""
    measured = {
        "driver": seen.driver,
        "driver_cuda": seen.driver_cuda,
        "torch_cuda": seen.torch_cuda,
        "p2p": None if seen.p2p is None else [list(row) for row in seen.p2p],
        "gpus": [_plain(gpu) for gpu in seen.gpus],
    }
    return Outcome(measured, not_done=seen.not_done, fake=seen.fake)


def of_probe(probe: Any) -> Gpus:
    """What stands in for NVML and torch, of plain JSON values.

    Args:
        probe: {"gpus": [{name of an attribute of `Gpu`: value, ...}, ...], "driver": ...,
            "driver_cuda": ..., "torch_cuda": ..., "p2p": ...}; what is left out is not known.
            Values of "pcie_generation" and "clock_..." are those of an idle GPU unless "loaded".

    Raises:
        ConfigError: it is something else, or has other names.
    """
    try:
        known = dict(probe)
        gpus = [_of_plain(one) for one in known.pop("gpus")]
        return Gpus(gpus=gpus, **known, fake=True)
    except (KeyError, TypeError, ValueError) as error:
        names = ", ".join(field.name for field in fields(Gpu))
        raise ConfigError(
            f"the probe 'nvml' must be a dict of gpus (a list of dicts of {names}), driver, "
            f"driver_cuda, torch_cuda and p2p, got {type(error).__name__}: {error}"
        ) from None


def survey(setup: Setup) -> Gpus:
    """Reads NVML and torch, and gives the GPUs of this run some work for a moment."""
    import torch

    fresh = not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    try:
        gpus = [Gpu(**vars(device)) for device in nvml.devices()]
    except RuntimeError as error:
        if not torch.cuda.is_available():
            return Gpus(
                torch_cuda=torch.version.cuda,
                not_done=[f"GPU: there is none, or no driver for it ({error})"],
            )
        gpus, lines = [], [f"GPU: link, clocks, ECC, MIG and other processes: {error}"]
    else:
        lines = []
        gpus = _of_others(gpus) if fresh else [_without_others(gpu) for gpu in gpus]
    gpus = [replace(gpu, numa_node=device_node(gpu.pci_bus)) for gpu in gpus]
    p2p = None
    if torch.cuda.is_available():
        gpus = _numbered(gpus)
        count = range(torch.cuda.device_count())
        p2p = [[i != j and torch.cuda.can_device_access_peer(i, j) for j in count] for i in count]
    seen = Gpus(gpus, nvml.driver(), nvml.cuda_of_driver(), torch.version.cuda, p2p)
    for used in seen.used(setup):
        if used.torch_index is None:
            continue
        try:
            gpus[gpus.index(used)] = _at_work(used, torch.device("cuda", used.torch_index))
        except RuntimeError as error:  # no memory, or no kernels for this GPU: others go on
            lines.append(f"GPU {used.index} at work: {' '.join(str(error).split())}")
    return replace(seen, gpus=gpus, not_done=lines)


def _of_others(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Looks a few times more: a busy share is that of a fraction of a second."""
    shares = [[gpu.busy_share] for gpu in gpus]
    for _ in range(2 if gpus else 0):
        time.sleep(0.15)
        for gpu, seen in zip(gpus, shares, strict=True):
            again = nvml.device_again(gpu)
            seen.append(None if again is None else again.busy_share)
    family = _family()
    found = []
    for gpu, seen in zip(gpus, shares, strict=True):
        others = gpu.processes
        if others is not None:
            others = {pid: held for pid, held in others.items() if pid not in family}
        busy = min((share for share in seen if share is not None), default=None)
        found.append(replace(gpu, busy_share=busy, processes=others))
    return found


def _without_others(gpu: Gpu) -> Gpu:
    return replace(gpu, busy_share=None, processes=None)


def _family() -> set[str]:
    """Numbers of this process and, where there are several ranks, of those torchrun started."""
    import psutil

    found = {os.getpid()}
    if ranks_here() > 1:
        with contextlib.suppress(psutil.Error):
            found |= {one.pid for one in psutil.Process(os.getppid()).children(recursive=True)}
    return set(map(str, found))


def _numbered(gpus: Sequence[Gpu]) -> list[Gpu]:
    """Adds torch's number to each; GPUs that NVML did not name are added as torch names them."""
    import torch

    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    visible: dict[int, Gpu] = {}
    unnamed = []
    archs = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        device: Any = torch.cuda.get_device_properties(number)
        gpu = by_uuid.get(f"GPU-{getattr(device, 'uuid', '')}")
        if gpu is None and len(gpus) == 1:  # an instance of it (MIG) has a UUID of its own
            gpu = gpus[0]
        kernels = compiled_for(device.major, device.minor, archs)
        if gpu is None:
            new = Gpu(index=number, name=str(device.name), memory_bytes=int(device.total_memory))
            unnamed.append(replace(new, torch_index=number, kernels=kernels))
        elif gpu.index not in visible:
            visible[gpu.index] = replace(gpu, torch_index=number, kernels=kernels)
    return [visible.get(gpu.index, gpu) for gpu in gpus] + unnamed


def compiled_for(major: int, minor: int, archs: Sequence[str]) -> bool | None:
    """Whether one of "sm_90", "compute_90", ... runs on a GPU of this compute capability."""
    if not archs:
        return None
    for arch in archs:
        kind, _, digits = arch.partition("_")
        number = "".join(filter(str.isdigit, digits))  # sm_90a
        if len(number) < 2:
            continue
        its = (int(number[:-1]), int(number[-1]))
        # Machine code runs on later GPUs of its generation, PTX on all later ones.
        if its <= (major, minor) and (kind == "compute" or its[0] == major):
            return True
    return False


def _at_work(gpu: Gpu, device: torch.device) -> Gpu:
    """Copies to a GPU and multiplies on it for a moment, and reads NVML meanwhile."""
    import torch

    event = partial(torch.cuda.Event, enable_timing=True)
    with torch.cuda.device(device):
        host = torch.empty(64 << 20, dtype=torch.uint8, pin_memory=True)
        target = torch.empty_like(host, device=device)
        matrix = torch.ones(4096, 4096, dtype=torch.float16, device=device)
        readings: list[nvml.Device | None] = []
        rates: list[float] = []
        until = time.monotonic() + _WORK_S
        while time.monotonic() < until or len(rates) < 3:
            start, end = event(), event()
            start.record()
            target.copy_(host, non_blocking=True)
            end.record()
            for _ in range(8):
                torch.mm(matrix, matrix)
            readings.append(nvml.device_again(gpu))
            torch.cuda.synchronize()
            rates.append(host.numel() / start.elapsed_time(end) / 1e6)
        del host, target, matrix
        torch.cuda.empty_cache()
    gpu = replace(gpu, h2d_gb_s=statistics.median(rates[1:]))
    return at_work(gpu, [one for one in readings[1:] if one is not None])


def at_work(gpu: Gpu, readings: Sequence[nvml.Device]) -> Gpu:
    """A GPU with what was read of it while it worked.

    Args:
        gpu: as it was before.
        readings: meanwhile; none leaves it as it was.
    """
    if not readings:
        return gpu
    reasons = [reason for one in readings for reason in one.throttle_reasons or ()]
    lasting = {one for one in reasons if reasons.count(one) > len(readings) / 2} - {"gpu_idle"}

    def most(name: str) -> Any:
        return max((v for one in readings if (v := getattr(one, name)) is not None), default=None)

    told = readings[0].throttle_reasons is not None
    return replace(
        gpu,
        loaded=True,
        pcie_generation=most("pcie_generation"),
        pcie_width=most("pcie_width"),
        clock_sm_mhz=most("clock_sm_mhz"),
        clock_memory_mhz=most("clock_memory_mhz"),
        temperature_c=most("temperature_c"),
        power_w=most("power_w"),
        throttle_reasons=tuple(sorted(lasting)) if told else None,
    )


def _plain(gpu: Gpu) -> dict[str, Any]:
    values = asdict(gpu)
    reasons = values["throttle_reasons"]
    return values | {"throttle_reasons": None if reasons is None else list(reasons)}


def _of_plain(values: Mapping[str, Any]) -> Gpu:
    reasons = values.get("throttle_reasons")
    return Gpu(**{**values, "throttle_reasons": None if reasons is None else tuple(reasons)})
