"""What a step takes of a device's memory: of the CPU's by counting, of a GPU's as torch counts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch

from yolodata.doctor.memory.limit import Limit, host_limit
from yolodata.doctor.memory.peak import Reading
from yolodata.doctor.memory.process import anonymous_bytes, peak_of_process
from yolodata.doctor.memory.tensors import NewBytes, saved_for_backward
from yolodata.doctor.step import ModelStep
from yolodata.errors import is_out_of_memory
from yolodata.machine import give_back_memory

SHARE = 0.95
"""Of the free memory of a GPU, what is tried at most: its other users keep some."""


class OutOfMemory(Exception):
    """A batch does not fit; nothing of it is left in memory."""


class Device(Protocol):
    """Measures what steps take.

    Attributes:
        name: "cpu", "cuda:0", ...
        can_try: whether a batch that does not fit raises, so that it may be tried.
    """

    name: str
    can_try: bool

    def limit(self) -> Limit:
        """Bytes that training may have."""
        ...

    def static(self) -> int:
        """Bytes that training has between two steps."""
        ...

    def passes(self, step: ModelStep, batch: Mapping[str, Any]) -> Reading:
        """Goes forward and backward.

        Raises:
            OutOfMemory: it does not fit.
        """
        ...

    def update(self, step: ModelStep) -> int:
        """Makes the optimiser's step; returns the bytes of the tensors that it made."""
        ...

    def capped(self) -> Any:
        """While this context lasts, no more than `limit` is taken."""
        ...


class CpuDevice:
    """The CPU: tensors are counted one by one, and what the process takes for them is looked at.

    A batch that does not fit would end the process, so that none is tried.

    Args:
        probes: of the examination.

    Raises:
        OSError: this system does not say what a process takes.
    """

    name, can_try = "cpu", False

    def __init__(self, probes: Mapping[str, Any]) -> None:
        self._probes = probes
        with peak_of_process():
            pass

    def limit(self) -> Limit:
        """Of the control group or the machine."""
        return host_limit(self._probes)

    def static(self) -> int:
        """What the process has, of which the doctor itself is a part."""
        gc.collect()
        give_back_memory()
        return anonymous_bytes()

    def passes(self, step: ModelStep, batch: Mapping[str, Any]) -> Reading:
        """Goes twice: what the first pass frees lies in pieces when the second one begins."""
        with peak_of_process() as taken:
            for _ in range(2):
                with NewBytes() as new, saved_for_backward(step.trainer.model) as saved:
                    begun = time.perf_counter()
                    go_through(step, batch)
                    seconds = time.perf_counter() - begun
        there = _bytes(batch)
        tensors = new.peak + there
        given = max(taken.bytes + there, tensors)
        return Reading(_pictures(batch), tensors, given, sum(saved.values()), seconds)

    def update(self, step: ModelStep) -> int:
        """Counts tensors alone: they are small, and there for a moment."""
        with NewBytes() as new:
            step.trainer.optimizer_step()
        return int(new.peak)

    @contextmanager
    def capped(self) -> Iterator[None]:
        """Nothing caps it; nothing is tried here."""
        yield


class CudaDevice:
    """A GPU, as torch's allocator counts.

    Args:
        device: of the model.
        probes: "gpu_memory_bytes" replaces what may be taken.
    """

    def __init__(self, device: torch.device, probes: Mapping[str, Any]) -> None:
        self._device, self._probes = device, probes
        self.name = str(device)
        # Older versions of torch cannot tell which cap is set, so that it could not be put back.
        self.can_try = hasattr(torch.cuda.memory, "get_per_process_memory_fraction")

    def limit(self) -> Limit:
        """A share of what is free, and what torch has."""
        if "gpu_memory_bytes" in self._probes:
            return Limit(int(self._probes["gpu_memory_bytes"]), f"{self.name} has", fake=True)
        self._clean()
        free, total = torch.cuda.mem_get_info(self._device)
        own = torch.cuda.memory_reserved(self._device)
        others = total - free - own
        words = f"{SHARE:.0%} of what {self.name} has free"
        words += (
            f" ({total / 2**30:.1f} GiB, of which {others / 2**30:.1f} GiB are taken by others)"
        )
        return Limit(int(SHARE * (free + own)), words)

    def static(self) -> int:
        """Tensors that are allocated now."""
        self._clean()
        return int(torch.cuda.memory_allocated(self._device))

    def passes(self, step: ModelStep, batch: Mapping[str, Any]) -> Reading:
        """Goes twice: the first pass chooses kernels; its peak counts too."""
        try:
            tensors, (saved, seconds) = self._peak(lambda: _twice(step, batch))
            return Reading(_pictures(batch), tensors, tensors, saved, seconds)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # After the `except`: the error's traceback holds the tensors of all frames.
        step.trainer.optimizer.zero_grad()
        self._clean()
        raise OutOfMemory

    def update(self, step: ModelStep) -> int:
        """Makes the optimiser's step; returns the bytes that it allocated."""
        return self._peak(step.trainer.optimizer_step)[0]

    @contextmanager
    def capped(self) -> Iterator[None]:
        """Has torch's allocator raise beyond the limit; then its own cap is as it was."""
        memory = torch.cuda.memory
        total = torch.cuda.get_device_properties(self._device).total_memory
        before = memory.get_per_process_memory_fraction(self._device)
        share = min(self.limit().bytes / total, before)
        memory.set_per_process_memory_fraction(share, self._device)
        try:
            yield
        finally:
            self._clean()
            memory.set_per_process_memory_fraction(before, self._device)

    def _peak(self, work: Callable[[], Any]) -> tuple[int, Any]:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        result = work()
        torch.cuda.synchronize(self._device)
        peak = torch.cuda.memory_stats(self._device)["allocated_bytes.all.peak"]
        return int(peak) - before, result

    def _clean(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()


def go_through(step: ModelStep, batch: Mapping[str, Any]) -> None:
    """Goes forward and backward; gradients add up."""
    step.trainer.scaler.scale(step.forward(batch)).backward()


def _twice(step: ModelStep, batch: Mapping[str, Any]) -> tuple[int, float]:
    saved: dict[int, int] = {}
    with ExitStack() as stack:
        if not step.trainer.args.compile:  # hooks would change what is compiled
            saved = stack.enter_context(saved_for_backward(step.trainer.model))
        go_through(step, batch)
    torch.cuda.synchronize(step.device)
    begun = time.perf_counter()
    go_through(step, batch)
    torch.cuda.synchronize(step.device)
    return sum(saved.values()), time.perf_counter() - begun


def _pictures(batch: Mapping[str, Any]) -> int:
    return int(batch["img"].shape[0])


def _bytes(batch: Mapping[str, Any]) -> int:
    return sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
