"""A line of work on a CUDA device: memory there, uploads, the renderer, and marks to wait for.

Everything is enqueued on one stream of the loader's own and happens there in order; nothing here
makes the host wait, but `Mark.wait`. Tests put a queue of the same methods in its place that does
the work later, on the CPU, with the kernel's own body.

To be settled on a device: whether events and `record_stream` cost enough to be noticed at a few
hundred batches a second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from yolodata.errors import ConfigError
from yolodata.pipeline.page_locked import page_locked

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

OUTPUTS = ("uint8", "float16", "bfloat16")


class Mark(Protocol):
    """A moment in a queue."""

    def done(self) -> bool:
        """Whether everything enqueued before has happened."""

    def wait(self) -> None:
        """Block the host until then."""

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """Let the consumer's current stream wait until then, and own `tensors` from there on."""


class Queue(Protocol):
    """Work on a device, in the order it was enqueued."""

    device: torch.device

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Page-locked host memory, uint8 (nbytes,), aligned to 16 bytes at least.

        It may be forgotten once the device has read it, and is given back then.
        """

    def lock(self, address: int, nbytes: int) -> int:
        """Page-lock host memory that is there, read-only; returns its address on the device.

        Raises:
            RuntimeError: the driver does not do that, or not with this memory.
        """

    def unlock(self, address: int) -> None:
        """Undo `lock`; the device may not be reading it any more."""

    def memory(self, nbytes: int) -> torch.Tensor:
        """Device memory, uint8 (nbytes,), aligned to 16 bytes at least."""

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Enqueue a copy; `source` must not change before it has happened.

        Both are on the device or page-locked, `source` complete when the queue comes to it.
        """

    def render(
        self,
        render_tasks: torch.Tensor,
        shape: tuple[int, ...],
        output: Output,
        into: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Enqueue pictures (B, 3, H, W) of tasks, uint8 (B * RENDER_TASK_BYTES,) on the device.

        `into`: memory on the device for all of them, in their order; None takes new memory.
        """

    def filter(
        self, tasks: torch.Tensor, size: tuple[int, int], tiles: int, lab: torch.Tensor | None
    ) -> None:
        """Enqueue filters of pictures (H, W, 3) of one size, to others.

        Args:
            tasks: uint8 (K * FILTER_TASK_BYTES,) on the device.
            size: H, W.
            tiles: the most that any of the filters has.
            lab: the tables of Lab on the device, where there are tiles.
        """

    def scale(self, pictures: torch.Tensor, output: Output) -> torch.Tensor:
        """Enqueue the conversion of uint8 pictures on the device into another output."""

    def mark(self) -> Mark:
        """The moment after everything enqueued so far."""

    def room(self) -> tuple[int, int]:
        """Free and total bytes of device memory; free counts what torch could give back."""

    def make_room(self) -> None:
        """Free memory that is allocated and unused; waits for everything on the device."""


class Output:
    """What pictures are made as.

    Args:
        dtype: "uint8" (0 to 255), "float16" or "bfloat16" (0 to 1: `x.float() / 255`, rounded).
        channels_last: memory in the order (B, H, W, 3).

    Raises:
        ConfigError: there is no such output.
    """

    def __init__(self, dtype: str = "uint8", channels_last: bool = False) -> None:
        if dtype not in OUTPUTS:
            raise ConfigError(f"output must be one of {', '.join(OUTPUTS)}, got {dtype!r}")
        self.dtype = dtype
        self.channels_last = channels_last

    def check(self, device: str) -> None:
        """Raises ConfigError where a device does not make such pictures, or is none."""
        if device == "cpu":
            if self.dtype != "uint8" or self.channels_last:
                raise ConfigError(
                    f"device='cpu' makes contiguous uint8, got output={self.dtype!r}, "
                    f"channels_last={self.channels_last}; choose a CUDA device for these"
                )
        elif device.split(":")[0] != "cuda":
            raise ConfigError(f"device must be cpu or cuda (cuda:0, ...), got {device!r}")

    def empty(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Memory for pictures (B, 3, H, W), uninitialised."""
        import torch

        order = torch.channels_last if self.channels_last else torch.contiguous_format
        dtype = getattr(torch, self.dtype)
        return torch.empty(shape, dtype=dtype, device=device, memory_format=order)

    def convert(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 pictures as this output, by torch, with the same bits as the renderer's."""
        import torch

        order = torch.channels_last if self.channels_last else torch.contiguous_format
        if self.dtype != "uint8":
            pictures = (pictures.float() / 255).to(getattr(torch, self.dtype))
        return pictures.contiguous(memory_format=order)


class CudaQueue:
    """A stream of a CUDA device.

    Args:
        device: which one.

    Raises:
        ConfigError: torch finds no such device, or the native core was built without CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        from yolodata import _native

        if not torch.cuda.is_available():
            raise ConfigError(
                f"device={str(device)!r} was asked for, but torch finds no CUDA device; use "
                "device='cpu', or install a torch with CUDA and a driver"
            )
        if _native.cuda_build() == "none":
            raise ConfigError(
                "yolodata was built without CUDA; install it again with YOLODATA_CUDA=on, or use "
                "device='cpu'"
            )
        index = torch.cuda.current_device() if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f"device={str(device)!r} was asked for; there are {torch.cuda.device_count()} "
                "CUDA devices, counted from 0"
            )
        self.device = torch.device("cuda", index)
        self.stream: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._complained = False

    def pinned(self, nbytes: int) -> torch.Tensor:
        """See `Queue`."""
        import torch

        try:
            return page_locked(nbytes, self.lock, self.unlock)
        except RuntimeError as error:
            if not self._complained:
                log.warning("page-locked memory is torch's, and up to twice as large: %s", error)
            self._complained = True
        # In a thread of ours another device may be current, which would get a context for nothing.
        with torch.cuda.device(self.device):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def lock(self, address: int, nbytes: int) -> int:
        """See `Queue`."""
        import torch

        from yolodata import _native

        with torch.cuda.device(self.device):
            return _native.register_host(address, nbytes)

    def unlock(self, address: int) -> None:
        """See `Queue`."""
        import torch

        from yolodata import _native

        with torch.cuda.device(self.device):
            _native.unregister_host(address)

    def memory(self, nbytes: int) -> torch.Tensor:
        """See `Queue`."""
        import torch

        with torch.cuda.stream(self.stream):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """See `Queue`."""
        import torch

        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)

    def render(
        self,
        render_tasks: torch.Tensor,
        shape: tuple[int, ...],
        output: Output,
        into: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Queue`."""
        import torch

        from yolodata import _native

        with torch.cuda.stream(self.stream):
            pictures = output.empty(shape, self.device) if into is None else into
            count, _, height, width = shape
            _native.render_cuda(
                render_tasks.data_ptr(),
                count,
                height,
                width,
                pictures.data_ptr(),
                output.dtype,
                output.channels_last,
                self.stream.cuda_stream,
            )
            return pictures

    def filter(
        self, tasks: torch.Tensor, size: tuple[int, int], tiles: int, lab: torch.Tensor | None
    ) -> None:
        """See `Queue`."""
        import torch

        from yolodata import _native

        count = tasks.numel() // int(_native.FILTER_TASK_BYTES)
        tables = 0 if lab is None else lab.data_ptr()
        with torch.cuda.stream(self.stream):
            _native.filter_cuda(
                tasks.data_ptr(), count, *size, tiles, tables, self.stream.cuda_stream
            )

    def scale(self, pictures: torch.Tensor, output: Output) -> torch.Tensor:
        """See `Queue`."""
        import torch

        with torch.cuda.stream(self.stream):
            return output.convert(pictures)

    def mark(self) -> CudaMark:
        """See `Queue`."""
        return CudaMark(self.stream)

    def room(self) -> tuple[int, int]:
        """See `Queue`."""
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return free + unused, total

    def make_room(self) -> None:
        """See `Queue`."""
        import torch

        from yolodata.pipeline.dali import release_unused_memory

        torch.cuda.synchronize(self.device)
        release_unused_memory()
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()


class CudaMark:
    """An event on a stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._event = stream.record_event()

    def done(self) -> bool:
        """See `Mark`."""
        return bool(self._event.query())

    def wait(self) -> None:
        """See `Mark`."""
        self._event.synchronize()

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """See `Mark`."""
        import torch

        consumer = torch.cuda.current_stream(self._stream.device)
        consumer.wait_event(self._event)
        for tensor in tensors:  # or its memory could be given out again while still in use there
            tensor.record_stream(consumer)


def open_queue(device: torch.device) -> Queue:
    """The queue of a device."""
    return CudaQueue(device)


class Staging:
    """Page-locked memory that is used again once the device has read it."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._idle: list[torch.Tensor] = []
        self._read: list[tuple[torch.Tensor, Mark]] = []

    def take(self, nbytes: int) -> torch.Tensor:
        """uint8, at least `nbytes` long."""
        unread = []
        for memory, mark in self._read:
            if mark.done():
                self._idle.append(memory)
            else:
                unread.append((memory, mark))
        self._read = unread
        for i, memory in enumerate(self._idle):
            if memory.numel() >= nbytes:
                return self._idle.pop(i)
        self._idle.clear()  # all too small: batches of another kind
        return self._queue.pinned(nbytes)

    def give(self, memory: torch.Tensor, mark: Mark | None) -> None:
        """Take memory back; the device has read it at `mark`."""
        if mark is None:
            self._idle.append(memory)
        else:
            self._read.append((memory, mark))

    def clear(self) -> None:
        """Free it; the device has read everything."""
        self._idle.clear()
        self._read.clear()
