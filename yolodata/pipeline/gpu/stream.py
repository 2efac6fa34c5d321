"""A CUDA stream of the loader's own, and what is enqueued on it: copies, renders, events.

Everything happens on that stream in order. Nothing here makes the host wait, but
`Event.synchronize` and `empty_cache`. Tests put a stream of the same methods in its place that does
everything later, on the CPU, with the kernel's own body.

To be settled on a device: whether events and `record_stream` cost enough to be noticed at a few
hundred batches a second.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from yolodata.checks import one_of
from yolodata.errors import ConfigError
from yolodata.pipeline.gpu.jpeg_decoder import release_unused_memory
from yolodata.pipeline.gpu.pinned import page_locked
from yolodata.pipeline.options import OUTPUTS

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")


class Event(Protocol):
    """A point in a stream."""

    def query(self) -> bool:
        """Returns whether everything enqueued before it has happened."""

    def synchronize(self) -> None:
        """Blocks the host until then."""

    def make_consumer_wait(self, tensors: Iterable[torch.Tensor]) -> tuple[Any, Any]:
        """Makes the consumer's current stream wait until then, and own `tensors` from there on.

        Returns:
            the moments of that stream before and after waiting; see `Stream.seconds`.
        """


class Stream(Protocol):
    """Copies, renders and events on a device, in the order they were enqueued.

    Attributes:
        device: which one.
        near: cores from which `pinned` memory is touched first, so that it lies near the device;
            none leaves that to whoever asks for it.
    """

    device: torch.device
    near: tuple[int, ...]

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Allocates page-locked host memory, uint8 (nbytes,), aligned to 16 bytes at least.

        It may be forgotten once the device has read it, and is freed then.
        """

    def register_host(self, address: int, nbytes: int) -> int:
        """Page-locks host memory that is there, read-only; returns its address on the device.

        Raises:
            RuntimeError: the driver does not do that, or not with this memory.
        """

    def unregister_host(self, address: int) -> None:
        """Undoes `register_host`; the device may not be reading it any more."""

    def empty(self, nbytes: int) -> torch.Tensor:
        """Allocates device memory, uint8 (nbytes,), aligned to 16 bytes at least."""

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Enqueues a copy; `source` must not change before it has happened.

        Both are on the device or page-locked, `source` complete when the stream comes to it.
        """

    def render(
        self,
        tasks: torch.Tensor,
        shape: tuple[int, ...],
        output: Output,
        into: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Enqueues the renderer.

        Args:
            tasks: uint8 (B * RENDER_TASK_BYTES,) on the device.
            shape: (B, 3, H, W) of the pictures.
            output: what they are made as.
            into: device memory for them; None allocates it.
        """

    def filter(
        self, tasks: torch.Tensor, size: tuple[int, int], tiles: int, lab: torch.Tensor | None
    ) -> None:
        """Enqueues filters of pictures (H, W, 3) of one size, into other pictures.

        Args:
            tasks: uint8 (K * FILTER_TASK_BYTES,) on the device.
            size: H, W.
            tiles: the most that any of the filters has.
            lab: the tables of Lab on the device, where there are tiles.
        """

    def convert(self, pictures: torch.Tensor, output: Output) -> torch.Tensor:
        """Enqueues the conversion of uint8 pictures on the device into another output."""

    def record_event(self) -> Event:
        """Records an event after everything enqueued so far."""

    def now(self) -> Any:
        """Returns the moment at which everything enqueued so far has happened."""

    def seconds(self, begun: Any, ended: Any) -> float | None:
        """Returns the seconds between two moments of a stream of the device.

        None while the second has not come; nobody waits for it.
        """

    def mem_get_info(self) -> tuple[int, int]:
        """Returns free and total bytes of the device; free counts what torch could give back."""

    def empty_cache(self) -> None:
        """Frees memory that is allocated and unused; waits for everything on the device."""


def render_task_bytes(count: int) -> int:
    """Returns bytes of the render tasks of `count` pictures."""
    from yolodata import _native

    return count * int(_native.RENDER_TASK_BYTES)


class Output:
    """What pictures are made as.

    Args:
        dtype: "uint8" (0 to 255), "float16" or "bfloat16" (0 to 1: `x.float() / 255`, rounded).
        channels_last: memory in the order (B, H, W, 3).

    Raises:
        ConfigError: there is no such output.
    """

    def __init__(self, dtype: str = "uint8", channels_last: bool = False) -> None:
        self.dtype = one_of("output", dtype, OUTPUTS)
        self.channels_last = channels_last

    def empty(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Allocates pictures (B, 3, H, W), uninitialised."""
        import torch

        order = torch.channels_last if self.channels_last else torch.contiguous_format
        dtype = getattr(torch, self.dtype)
        return torch.empty(shape, dtype=dtype, device=device, memory_format=order)

    def convert(self, pictures: torch.Tensor) -> torch.Tensor:
        """Converts uint8 pictures to this output by torch, with the same bits as the renderer's."""
        import torch

        order = torch.channels_last if self.channels_last else torch.contiguous_format
        if self.dtype != "uint8":
            pictures = (pictures.float() / 255).to(getattr(torch, self.dtype))
        return pictures.contiguous(memory_format=order)


def check_device(device: torch.device | str) -> None:
    """Raises ConfigError if torch finds no such device, or the native core has no CUDA."""
    import torch

    from yolodata import _native

    if not torch.cuda.is_available():
        raise ConfigError(
            f"device={str(device)!r} was asked for, but torch finds no CUDA device; use "
            "device='cpu', or install a torch with CUDA and a driver"
        )
    if _native.cuda_build() == "none":
        raise ConfigError(
            f"device={str(device)!r} was asked for, but yolodata was built without CUDA; install "
            "it again with YOLODATA_CUDA=on, or use device='cpu'"
        )
    index = torch.device(device).index
    if index is not None and index >= torch.cuda.device_count():
        raise ConfigError(
            f"device={str(device)!r} was asked for; there are {torch.cuda.device_count()} "
            "CUDA devices, counted from 0"
        )


class CudaStream:
    """`Stream` of a CUDA device.

    Args:
        device: which one.

    Raises:
        ConfigError: torch finds no such device, or the native core was built without CUDA.
    """

    near: tuple[int, ...] = ()

    def __init__(self, device: torch.device) -> None:
        import torch

        check_device(device)
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.torch_stream: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._complained = False

    def pinned(self, nbytes: int) -> torch.Tensor:
        """See `Stream`."""
        import torch

        try:
            return page_locked(nbytes, self.register_host, self.unregister_host, self.near)
        except RuntimeError as error:
            if not self._complained:
                log.warning("page-locked memory is torch's, and up to twice as large: %s", error)
            self._complained = True
        # In a thread of ours another device may be current, which would get a context for nothing.
        with torch.cuda.device(self.device):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def register_host(self, address: int, nbytes: int) -> int:
        """See `Stream`."""
        import torch

        from yolodata import _native

        with torch.cuda.device(self.device):
            return _native.register_host(address, nbytes)

    def unregister_host(self, address: int) -> None:
        """See `Stream`."""
        import torch

        from yolodata import _native

        with torch.cuda.device(self.device):
            _native.unregister_host(address)

    def empty(self, nbytes: int) -> torch.Tensor:
        """See `Stream`."""
        import torch

        with torch.cuda.stream(self.torch_stream):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """See `Stream`."""
        import torch

        with torch.cuda.stream(self.torch_stream):
            target.copy_(source, non_blocking=True)

    def render(
        self,
        tasks: torch.Tensor,
        shape: tuple[int, ...],
        output: Output,
        into: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Stream`."""
        import torch

        from yolodata import _native

        with torch.cuda.stream(self.torch_stream):
            pictures = output.empty(shape, self.device) if into is None else into
            count, _, height, width = shape
            _native.render_cuda(
                tasks.data_ptr(),
                count,
                height,
                width,
                pictures.data_ptr(),
                output.dtype,
                output.channels_last,
                self.torch_stream.cuda_stream,
            )
            return pictures

    def filter(
        self, tasks: torch.Tensor, size: tuple[int, int], tiles: int, lab: torch.Tensor | None
    ) -> None:
        """See `Stream`."""
        import torch

        from yolodata import _native

        count = tasks.numel() // int(_native.FILTER_TASK_BYTES)
        tables = 0 if lab is None else lab.data_ptr()
        with torch.cuda.stream(self.torch_stream):
            _native.filter_cuda(
                tasks.data_ptr(), count, *size, tiles, tables, self.torch_stream.cuda_stream
            )

    def convert(self, pictures: torch.Tensor, output: Output) -> torch.Tensor:
        """See `Stream`."""
        import torch

        with torch.cuda.stream(self.torch_stream):
            return output.convert(pictures)

    def record_event(self) -> CudaEvent:
        """See `Stream`."""
        return CudaEvent(self.torch_stream)

    def now(self) -> Any:
        """See `Stream`."""
        return _moment(self.torch_stream)

    def seconds(self, begun: Any, ended: Any) -> float | None:
        """See `Stream`."""
        return 1e-3 * float(begun.elapsed_time(ended)) if ended.query() else None

    def mem_get_info(self) -> tuple[int, int]:
        """See `Stream`."""
        import torch

        free, total = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return free + unused, total

    def empty_cache(self) -> None:
        """See `Stream`."""
        import torch

        torch.cuda.synchronize(self.device)
        release_unused_memory()
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()


class CudaEvent:
    """`Event` of a CUDA stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._event = stream.record_event()

    def query(self) -> bool:
        """See `Event`."""
        return bool(self._event.query())

    def synchronize(self) -> None:
        """See `Event`."""
        self._event.synchronize()

    def make_consumer_wait(self, tensors: Iterable[torch.Tensor]) -> tuple[Any, Any]:
        """See `Event`."""
        import torch

        # The one place where the training stream waits for the loader.
        consumer = torch.cuda.current_stream(self._stream.device)
        before = _moment(consumer)
        consumer.wait_event(self._event)
        for tensor in tensors:  # or its memory could be given out again while still in use there
            tensor.record_stream(consumer)
        return before, _moment(consumer)


def _moment(stream: Any) -> Any:
    """An event of a CUDA stream that knows when it was; costs the host a few microseconds."""
    import torch

    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(stream)
    return event


def open_stream(device: torch.device) -> Stream:
    """Opens a stream of a device."""
    return CudaStream(device)


class StagingPool:
    """Page-locked memory that is used again once the device has read it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._idle: list[torch.Tensor] = []
        self._read: list[tuple[torch.Tensor, Event]] = []

    def take(self, nbytes: int) -> torch.Tensor:
        """Returns uint8, at least `nbytes` long."""
        unread = []
        for memory, event in self._read:
            if event.query():
                self._idle.append(memory)
            else:
                unread.append((memory, event))
        self._read = unread
        for i, memory in enumerate(self._idle):
            if memory.numel() >= nbytes:
                return self._idle.pop(i)
        self._idle.clear()  # all too small: batches of another kind
        return self._stream.pinned(nbytes)

    def give(self, memory: torch.Tensor, event: Event | None) -> None:
        """Takes memory back; the device has read it at `event`."""
        if event is None:
            self._idle.append(memory)
        else:
            self._read.append((memory, event))

    def clear(self) -> None:
        """Frees it; the device has read everything."""
        self._idle.clear()
        self._read.clear()
