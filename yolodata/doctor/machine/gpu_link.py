"""The PCIe link of a GPU: is it as wide as it could be, and what does that cost a step?

Note [what a narrow link costs]. A step's batch goes over it once: B x 3 x S x S bytes. Ultralytics
copies on the stream that computes, so the copy is added to the step. Our loader copies on a stream
of its own while the step before computes: only what takes longer than that step is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import Finding, Knob, gain_without
from yolodata.doctor.machine.gpu import Gpu, Gpus
from yolodata.doctor.setup import Setup

LANE_GB_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
"""Bytes of a lane by generation, in GB/s, after line coding."""

EFFICIENCY = 0.87
"""Share of it that copies reach: 55 of 63 GB/s over 16 lanes of generation 5 (docs/gpu.md)."""

_AS_GOOD = 0.7
"""Share of the possible rate from which a link is as it should be, whatever NVML says of it: in a
virtual machine it may say anything."""

_NOTICED = 0.02
"""Share of a step below which nothing is said."""


def rate_gb_s(generation: int, width: int) -> float:
    """GB/s that copies over a link reach."""
    return LANE_GB_S[generation] * width * EFFICIENCY


def examine(seen: Gpus, setup: Setup) -> Outcome:
    """Judges the link of each GPU that this run uses; says one thing, about the worst of them."""
    found: list[Finding] = []
    lines: list[str] = []
    for gpu in seen.used(setup):
        rates = link_rates(gpu)
        if rates is None:
            continue
        step, why = _compute_ms(setup, fake=seen.fake)
        if why:
            lines.append(f"GPU {gpu.index}, what its link costs a step: {why}")
        one = finding(gpu, rates, setup, step, fake=seen.fake)
        if one is not None:
            found.append(one)
    worst = sorted(found, key=lambda one: one.lost_ms or 0.0)[-1:]
    return Outcome(findings=worst, not_done=lines)


def link_rates(gpu: Gpu) -> tuple[float, float] | None:
    """GB/s now and possible of a link that is worse than it could be; None of one that is not.

    The rate now is the measured one, where there is one.
    """
    width, width_max = gpu.pcie_width, gpu.pcie_width_max
    generation_max = gpu.pcie_generation_max
    if not width or not width_max or generation_max not in LANE_GB_S:
        return None
    # Without work the generation says nothing: see Note [idle GPUs] in gpu.py.
    generation = gpu.pcie_generation if gpu.loaded else generation_max
    if generation not in LANE_GB_S:
        return None
    if width >= width_max and generation >= generation_max:
        return None
    possible = rate_gb_s(generation_max, width_max)
    now = rate_gb_s(generation, width) if gpu.h2d_gb_s is None else gpu.h2d_gb_s
    return None if now >= _AS_GOOD * possible else (now, possible)


def finding(
    gpu: Gpu, rates: tuple[float, float], setup: Setup, compute_ms: float | None, *, fake: bool
) -> Finding | None:
    """The complaint about a narrow link; None where a step hardly notices it.

    Args:
        gpu: whose link it is.
        rates: GB/s now and possible.
        setup: batch, size of the pictures, and whose loader copies.
        compute_ms: milliseconds of a step whose batch is on the GPU already; None is unknown.
        fake: the GPU is not there.
    """
    nbytes = setup.batch * 3 * setup.imgsz**2
    now, possible = (nbytes / rate / 1e6 for rate in rates)
    step = gain = None
    lost = now - possible
    upstream = setup.examined_loader == "ultralytics"
    if compute_ms is not None:
        step = compute_ms + now if upstream else max(compute_ms, now)
        lost = step - (compute_ms + possible if upstream else max(compute_ms, possible))
        gain = gain_without(lost, step)
        if lost < _NOTICED * step:
            return None
    source = "measured" if gpu.h2d_gb_s is not None else "calculated from the link"
    generation = (
        f"generation {gpu.pcie_generation} of {gpu.pcie_generation_max}"
        if gpu.loaded
        else f"generation {gpu.pcie_generation_max} (not seen at work; only the width is compared)"
    )
    evidence = (
        f"{gpu.name or f'GPU {gpu.index}'}: PCIe {generation}, {gpu.pcie_width} of "
        f"{gpu.pcie_width_max} lanes: {rates[0]:.1f} GB/s ({source}) of {rates[1]:.1f}. A batch of "
        f"{nbytes / 1e6:.1f} MB takes {now:.2f} ms instead of {possible:.2f} ms"
    )
    if compute_ms is not None:
        how = "added to" if upstream else "hidden behind"
        evidence += f", {how} {compute_ms:.1f} ms of computing"
    return Finding(
        cause="pcie",
        kind="slow",
        title="The GPU's PCIe link is narrower than it could be.",
        evidence=evidence + " (calculated).",
        knob=Knob(
            f"Move the GPU to a slot with {gpu.pcie_width_max} lanes of generation "
            f"{gpu.pcie_generation_max}, without a riser; look in the BIOS for lanes that are "
            "shared or limited.",
            {},
        ),
        lost_ms=lost,
        step_ms=step,
        gain=gain,
        fake=fake,
    )


def _compute_ms(setup: Setup, *, fake: bool) -> tuple[float | None, str]:
    """Milliseconds of a step on a batch that is on the GPU already; or None, and why."""
    if setup.step_ms is not None:
        return setup.step_ms, ""
    if fake:
        return None, "the GPU is not there; give --step"
    from yolodata.doctor.step import ModelStep, drawn_batch

    try:
        step = ModelStep(setup)
        batch = drawn_batch(setup)
        batch["img"] = batch["img"].to(step.device)
        return _median_ms(lambda: step(batch)), ""
    except RuntimeError as error:
        return None, " ".join(str(error).split())


def _median_ms(action: Callable[[], object], warm: int = 3, times: int = 7) -> float:
    seconds = []
    for count in range(warm + times):
        begun = time.perf_counter()
        action()
        if count >= warm:
            seconds.append(time.perf_counter() - begun)
    return 1e3 * sorted(seconds)[len(seconds) // 2]
