"""A device that is not there: work is done later, in order, on the CPU, by the kernel's own body.

Nothing happens when it is enqueued. Work goes on a little whenever somebody asks whether it is
done, and up to a event when somebody waits for it; memory holds rubbish until then. Whoever uses
memory again too early, or looks at it too soon, gets other pixels than the CPU's loader.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from yolodata import _native
from yolodata.pipeline.gpu import stream as gpu_stream
from yolodata.pipeline.gpu.stream import Output

POISON = 0xA5


def rubbish(nbytes: int) -> torch.Tensor:
    """uint8 (nbytes,), aligned to 64 bytes, full of rubbish."""
    memory = np.full(nbytes + 64, POISON, np.uint8)
    skip = -memory.ctypes.data % 64
    return torch.from_numpy(memory[skip : skip + nbytes])


class TwinStream:
    """See `yolodata.pipeline.gpu.stream.Stream`."""

    def __init__(self, *, free: int = 1 << 40, seed: int = 0) -> None:
        self.device = torch.device("cpu")
        self.free = free
        self.short: Callable[[], bool] = lambda: False  # whether an allocation fails
        self.on_empty_cache: Callable[[], Any] = lambda: None
        self.done = 0
        self._pinned: dict[int, Any] = {}
        self._todo: list[Callable[[], Any]] = []
        self._lock = threading.RLock()  # the decoder's thread enqueues too
        self._random = random.Random(seed)

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Becomes rubbish when it is forgotten, as memory that is given back."""
        kept = rubbish(nbytes).numpy()
        owner = np.frombuffer(kept.data, np.uint8)
        self._pinned[kept.ctypes.data] = kept
        weakref.finalize(owner, self._given_back, kept)
        return torch.from_numpy(owner)

    def _given_back(self, kept: Any) -> None:
        kept.fill(POISON)
        del self._pinned[kept.ctypes.data]

    def _without_owning(self, source: torch.Tensor) -> torch.Tensor:
        """The same bytes, which do not keep page-locked memory from being given back."""
        for address, kept in list(self._pinned.items()):
            at = source.data_ptr() - address
            if 0 <= at < kept.nbytes and source.is_contiguous():
                inside = torch.from_numpy(kept[at : at + source.numel()])
                return inside.view(source.shape)
        return source

    def register_host(self, address: int, nbytes: int) -> int:
        raise RuntimeError("there is no driver")

    def unregister_host(self, address: int) -> None:
        raise AssertionError("nothing was locked")

    def empty(self, nbytes: int) -> torch.Tensor:
        """Becomes rubbish after all that was enqueued before it was forgotten."""
        self._allocate(nbytes)
        kept = rubbish(nbytes).numpy()
        owner = kept.view()
        weakref.finalize(owner, lambda: self._todo.append(lambda: kept.fill(POISON)))
        return torch.from_numpy(owner)

    def _allocate(self, nbytes: int) -> None:
        if nbytes > self.free or self.short():
            raise torch.OutOfMemoryError(f"out of memory: {nbytes} of {self.free}")

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        assert source.numel() == target.numel()
        source = self._without_owning(source)
        self._todo.append(lambda: target.copy_(source))

    def render(
        self,
        tasks: torch.Tensor,
        shape: tuple[int, ...],
        output: Output,
        into: torch.Tensor | None = None,
    ) -> torch.Tensor:
        count, _, height, width = shape
        if into is None:
            self._allocate(count * 3 * height * width)
            into = output.empty(shape, self.device)
            into.fill_(77)
        pictures = into
        self._todo.append(
            lambda: _native.render_emulated(
                tasks.data_ptr(),
                count,
                height,
                width,
                pictures.data_ptr(),
                output.dtype,
                output.channels_last,
            )
        )
        return pictures

    def filter(
        self, tasks: torch.Tensor, size: tuple[int, int], tiles: int, lab: torch.Tensor | None
    ) -> None:
        count = tasks.numel() // int(_native.FILTER_TASK_BYTES)
        tables = 0 if lab is None else lab.data_ptr()
        self._todo.append(
            lambda: _native.filter_emulated(tasks.data_ptr(), count, *size, tiles, tables)
        )

    def convert(self, pictures: torch.Tensor, output: Output) -> torch.Tensor:
        self._allocate(pictures.numel())
        made = output.empty(tuple(pictures.shape), self.device)
        made.fill_(77)
        self._todo.append(lambda: made.copy_(output.convert(pictures)))
        return made

    def record_event(self) -> TwinEvent:
        with self._lock:
            return TwinEvent(self, self.done + len(self._todo))

    def now(self) -> TwinEvent:
        return self.record_event()

    def seconds(self, begun: TwinEvent, ended: TwinEvent) -> float | None:
        """A millisecond for each piece of work."""
        return 1e-3 * (ended.at - begun.at) if self.done >= ended.at else None

    def empty_cache(self) -> None:
        self.record_event().synchronize()
        self.on_empty_cache()

    def mem_get_info(self) -> tuple[int, int]:
        return self.free, self.free

    def go_on(self, until: int | None = None) -> None:
        """Do some of the work, or all up to a moment."""
        with self._lock:
            steps = self._random.choice((0, 0, 1, 2)) if until is None else until - self.done
            for _ in range(min(steps, len(self._todo))):
                self._todo.pop(0)()
                self.done += 1


def stand_in(patch: Any, make: Callable[[], Any] = TwinStream) -> None:
    """Gives loaders twins where they ask for a CUDA device."""
    patch.setattr(gpu_stream, "open_stream", lambda device: make())
    patch.setattr(gpu_stream, "check_device", lambda device: None)


class TwinEvent:
    """See `yolodata.pipeline.gpu.stream.Event`."""

    def __init__(self, stream: TwinStream, at: int) -> None:
        self._stream, self.at = stream, at

    def query(self) -> bool:
        self._stream.go_on()
        return self._stream.done >= self.at

    def synchronize(self) -> None:
        self._stream.go_on(self.at)

    def make_consumer_wait(self, tensors: Iterable[torch.Tensor]) -> tuple[TwinEvent, TwinEvent]:
        assert list(tensors)
        before = TwinEvent(self._stream, min(self._stream.done, self.at))
        self.synchronize()
        return before, self
