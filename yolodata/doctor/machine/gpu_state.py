"""Complaints about the GPUs of a run: driver, others on them, throttling, MIG, errors, NUMA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.machine.gpu import Gpu, Gpus
from yolodata.doctor.setup import Setup
from yolodata.machine import ranks_here, usable_cores

BUSY = 0.10
"""Share of time that others may use a GPU without a complaint."""

HELD = 0.10
"""Share of its memory that others may hold without a complaint; a desktop takes less."""

_SLOWDOWNS = {
    "hw_slowdown": "the hardware slows it down (heat or power supply)",
    "hw_thermal_slowdown": "the hardware slows it down for its heat",
    "sw_thermal_slowdown": "the driver slows it down for its heat",
    "hw_power_brake": "the power supply asks it to slow down",
}
_LOWERED = 0.85
"""Share of the default power limit, or of the highest clock, below which it counts as lowered."""


def examine(seen: Gpus, setup: Setup, nodes: Sequence[Mapping[str, Any]]) -> Outcome:
    """Judges the GPUs.

    Args:
        seen: all GPUs.
        setup: says which of them this run uses.
        nodes: NUMA nodes and their cores, as `cores.numa_nodes` gives them.
    """
    found = list(_driver(seen, setup))
    for gpu in seen.used(setup):
        found += [
            one
            for one in (
                _shared(gpu, len(seen.gpus)),
                _throttled(gpu),
                _mig(gpu),
                _errors(gpu),
                _far(gpu, nodes),
            )
            if one is not None
        ]
    return Outcome(findings=[replace(one, fake=seen.fake) for one in found])


def _driver(seen: Gpus, setup: Setup) -> Iterator[Finding]:
    if not seen.gpus or str(setup.train.device) in ("cpu", "mps"):
        return
    if seen.torch_cuda is None:
        yield Finding(
            cause="driver",
            kind="breaks" if setup.train.device not in (None, "") else "slow",
            title="torch cannot use the GPU: it was built without CUDA.",
            evidence=f"{_name(seen.gpus[0])} is there; torch.version.cuda is None.",
            knob=Knob("Install a build of torch with CUDA.", {}),
        )
        return
    known, built = _major(seen.driver_cuda), _major(seen.torch_cuda)
    # Within a major version newer builds run with older drivers.
    if known is not None and built is not None and known < built:
        yield Finding(
            cause="driver",
            kind="breaks",
            title="The driver is too old for this build of torch, which cannot use the GPU.",
            evidence=f"Driver {seen.driver} knows CUDA {seen.driver_cuda}; torch was built "
            f"for CUDA {seen.torch_cuda}.",
            knob=Knob(
                f"Install a build of torch for CUDA {known}, or a driver for CUDA {built}.", {}
            ),
        )
    for gpu in seen.used(setup):
        if gpu.kernels is False:
            yield Finding(
                cause="driver",
                kind="breaks",
                title="torch was not compiled for this GPU.",
                evidence=f"{_name(gpu)} is of a generation that is not in torch's list of targets.",
                knob=Knob("Install a build of torch for this GPU.", {}),
            )


def _shared(gpu: Gpu, gpus: int) -> Finding | None:
    if ranks_here() > gpus:
        return None  # ranks share it: that was wanted
    others = gpu.processes or {}
    held = sum(nbytes or 0 for nbytes in others.values())
    busy = (gpu.busy_share or 0.0) >= BUSY
    full = gpu.memory_bytes is not None and held >= HELD * gpu.memory_bytes
    if not busy and not full:
        return None
    evidence = [f"{_name(gpu)}, before this process used it:"]
    if gpu.busy_share is not None:
        evidence.append(f"busy for {gpu.busy_share:.0%} of the time,")
    evidence.append(f"{len(others)} other processes with {held / 2**30:.1f} GiB")
    if others:
        evidence.append(f"(numbers {', '.join(sorted(others))})")
    return Finding(
        cause="gpu_shared",
        kind="slow" if busy else "risk",
        title="Others compute on this GPU." if busy else "Others hold memory of this GPU.",
        evidence=" ".join(evidence) + ".",
        knob=Knob("End the other processes, or take another GPU (device=).", {}),
    )


def _throttled(gpu: Gpu) -> Finding | None:
    reasons = set(gpu.throttle_reasons or ())
    why = [text for word, text in _SLOWDOWNS.items() if word in reasons]
    knob = "Cool the GPU: clean its fans, let air in, move it away from its neighbour."
    if "hw_power_brake" in reasons:
        knob = "Give the GPU the power that it needs: check its cables and the power supply."
    # At its default limit a GPU that works hard is capped; that is how it is made.
    limit, default = gpu.power_limit_w or 0.0, gpu.power_limit_default_w or 0.0
    if not why and "sw_power_cap" in reasons and 0 < limit < _LOWERED * default:
        why = [f"its power limit was lowered to {limit:.0f} W"]
        knob = f"Restore the power limit: nvidia-smi -pl {default:.0f}."
    clock, most = gpu.clock_sm_mhz or 0, gpu.clock_sm_max_mhz or 0
    limited = gpu.loaded and "applications_clocks" in reasons
    if not why and limited and 0 < clock < _LOWERED * most:
        why = ["its clocks were limited"]
        knob = "Restore the clocks: nvidia-smi -rgc and nvidia-smi -rac."
    if not why:
        return None
    evidence = f"{_name(gpu)}: {'; '.join(why)}"
    if gpu.loaded and clock and most:
        evidence += f"; at work {clock} MHz of {most} MHz"
    if gpu.temperature_c is not None:
        evidence += f", {gpu.temperature_c} °C"
    if limit and default:
        evidence += f", {limit:.0f} W of {default:.0f} W allowed"
    return Finding(
        cause="gpu_throttled",
        kind="slow",
        title="The GPU is slowed down.",
        evidence=evidence + ".",
        knob=Knob(knob, {}),
    )


def _mig(gpu: Gpu) -> Finding | None:
    if not gpu.mig:
        return None
    if gpu.mig_instances == 0:
        return Finding(
            cause="mig",
            kind="breaks",
            title="MIG is on and no instance was made: CUDA sees no GPU.",
            evidence=f"{_name(gpu)}: MIG mode on, 0 instances.",
            knob=Knob("Make an instance (nvidia-smi mig -cgi 0 -C), or turn MIG off.", {}),
        )
    several = ranks_here() > 1
    return Finding(
        cause="mig",
        kind="risk" if several else "opportunity",
        title="Ranks on instances of a GPU cannot reach each other's memory."
        if several
        else "This run has a part of the GPU.",
        evidence=f"{_name(gpu)}: MIG mode on, {gpu.mig_instances} instances.",
        knob=Knob("Turn MIG off (nvidia-smi -mig 0) to train on the whole GPU.", {}),
    )


def _errors(gpu: Gpu) -> Finding | None:
    if not gpu.ecc_uncorrected and not gpu.repair_pending:
        return None
    return Finding(
        cause="ecc",
        kind="risk",
        title="The GPU's memory has errors that could not be corrected.",
        evidence=f"{_name(gpu)}: {gpu.ecc_uncorrected or 0} uncorrected errors since the driver "
        f"was loaded; a row waits to be replaced: {'yes' if gpu.repair_pending else 'no'}.",
        knob=Knob("Stop what uses the GPU and reset it (nvidia-smi -r), or replace it.", {}),
    )


def _far(gpu: Gpu, nodes: Sequence[Mapping[str, Any]]) -> Finding | None:
    near = {core for node in nodes if node["node"] == gpu.numa_node for core in node["cores"]}
    mine = set(usable_cores())
    if len(nodes) < 2 or not near or near & mine:
        return None
    return Finding(
        cause="numa",
        kind="risk",
        title="This process runs beside another processor than its GPU.",
        evidence=f"{_name(gpu)} is at NUMA node {gpu.numa_node}; none of the {len(mine)} cores "
        "that may be used is. Copies and kernel launches go from processor to processor.",
        knob=Knob(
            f"Start it with numactl --cpunodebind={gpu.numa_node} --membind={gpu.numa_node}.", {}
        ),
    )


def _major(version: str | None) -> int | None:
    return None if version is None else int(version.partition(".")[0])


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.index}" + (f" ({gpu.name})" if gpu.name else "")
