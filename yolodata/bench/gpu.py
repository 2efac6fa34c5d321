"""What bounds a loader on a GPU: copies, and DALI's decoding. Runs in a child process.

Everything here takes its device from the task and also runs on the CPU, which is how it is tested;
figures from there mean nothing.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from yolodata.bench.rows import Row
from yolodata.bench.subject import Subject, Task
from yolodata.errors import ConfigError

if TYPE_CHECKING:
    import torch

_IN_FLIGHT = 2  # batches that a consumer has not finished when it asks for the next
POOL_BYTES = 512 << 20  # what a ceiling rotates among: many times any GPU's L2
_BURST_SECONDS = 0.02  # of one measurement by events: thousands of times what an event costs


class Pace:
    """Keeps a consumer from running ahead of its device, as a training step would.

    Loaders only enqueue work. A consumer that took batch after batch without using them would
    measure how fast work can be enqueued, and fill the device's memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: deque[Any] = deque()

    def keep(self) -> None:
        """Say that a batch was taken: waits for the one that was taken two turns before."""
        if self._device.type != "cuda":
            return
        import torch

        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)
        while len(self._events) > _IN_FLIGHT:
            self._events.popleft().synchronize()

    def finish(self) -> None:
        """Wait for everything on the device."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        self._events.clear()


class Clock:
    """Times what is enqueued on a device, with CUDA events; on the CPU with the system's clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def time(self, work: Callable[[], None]) -> float:
        """Seconds from the beginning to the end of `work` on the device's current stream."""
        if self._device.type != "cuda":
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        import torch

        begin, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def repeats(self, work: Callable[[], None]) -> int:
        """How often to repeat `work` so that timing it once is worth it."""
        work()  # the first time costs what no other does
        return max(1, round(_BURST_SECONDS / max(self.time(work), 1e-7)))


class Burst(Subject):
    """Work that is timed on the device itself, several launches at a time."""

    def __init__(self, task: Task) -> None:
        import torch

        self.device = torch.device(task.device)
        self.warm_up = 4 * task.batch
        self._clock = Clock(self.device)

    def once(self) -> Any:
        """Enqueue one batch on the current stream; returns its pictures (B, 3, H, W)."""
        raise NotImplementedError

    def batches(self) -> Iterator[dict[str, Any]]:
        """See `Subject`."""
        pictures = self.once()
        repeats = self._clock.repeats(lambda: self.once())

        def burst() -> None:
            for _ in range(repeats):
                self.once()

        while True:
            seconds = self._clock.time(burst)
            yield {"img": _Many(pictures, repeats), "seconds": seconds}

    def finish(self) -> None:
        """See `Subject`."""
        Pace(self.device).finish()


class _Many:
    """The pictures of one batch, counted as often as the batch was made."""

    def __init__(self, pictures: Any, repeats: int) -> None:
        self._pictures, self._repeats = pictures, repeats
        self.shape, self.dtype = pictures.shape, pictures.dtype

    def __len__(self) -> int:
        return len(self._pictures) * self._repeats

    def __getitem__(self, index: Any) -> Any:
        return self._pictures[index]


class Transfer(Burst):
    """Copies of pictures of the output's size: the ceiling of everything that has to move them.

    Args:
        row: `cache` says from where: "device" (to another place on the device), "host"
            (page-locked memory) or "map" (raw shards, page-locked where they are mapped).
        task: batch and size of the pictures; for "map", `data`.

    Raises:
        ConfigError: the shards are smaller than a batch.
    """

    def __init__(self, row: Row, task: Task) -> None:
        import torch

        super().__init__(task)
        shape = (task.batch, 3, task.imgsz, task.imgsz)
        nbytes = int(np.prod(shape))
        pool = POOL_BYTES if self.device.type == "cuda" else 8 * nbytes
        count = max(2, pool // nbytes)
        self._release: list[Callable[[], None]] = []
        if row.cache == "map":
            self._sources = self._mapped(task, shape)[:count]
        elif row.cache == "host":
            pinned = self.device.type == "cuda"
            self._sources = [torch.ones(shape, dtype=torch.uint8) for _ in range(count)]
            if pinned:
                self._sources = [source.pin_memory() for source in self._sources]
        else:
            self._sources = [
                torch.ones(shape, dtype=torch.uint8, device=self.device) for _ in range(count)
            ]
        self._targets = [torch.zeros_like(s, device=self.device) for s in self._sources]
        # A copy on the device reads and writes its memory; one to the device crosses once.
        self._bytes = 3.0 * task.imgsz * task.imgsz * (2 if row.cache == "device" else 1)
        self._turn = 0

    def once(self) -> Any:
        """See `Burst`."""
        at = self._turn % len(self._sources)
        self._turn += 1
        return self._targets[at].copy_(self._sources[at], non_blocking=True)

    def _mapped(self, task: Task, shape: tuple[int, ...]) -> list[torch.Tensor]:
        import torch

        from yolodata.pipeline.device import open_queue
        from yolodata.shards import reader

        assert task.data is not None
        shards = reader.open(task.data, io="mmap")
        nbytes = int(np.prod(shape))
        found = []
        for s in range(len(shards.meta.shards)):
            data = shards.shard_data(s)
            if self.device.type == "cuda":
                queue, skip = open_queue(self.device), data.ctypes.data % 4096
                queue.lock(data.ctypes.data - skip, data.nbytes + skip)
                self._release.append(partial(queue.unlock, data.ctypes.data - skip))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is read-only
                whole = torch.from_numpy(data)
            ends = range(nbytes, len(whole) + 1, nbytes)
            found += [whole[end - nbytes : end].view(shape) for end in ends]
        if not found:
            raise ConfigError(f"{task.data} is smaller than a batch of {task.batch}; pack more")
        return found

    def close(self) -> None:
        """See `Subject`."""
        self.finish()
        while self._release:
            self._release.pop()()

    def facts(self) -> dict[str, float]:
        """Bytes that a picture moves."""
        return {"bytes_each": self._bytes}


class Decoding(Subject):
    """DALI decodes and resizes the files of JPEG shards to where they are needed, and that is all.

    The first batch goes through `DaliDecoder.decode`, which sees whether files are fit for it; from
    there on it is a graph of DALI's with a queue of its own. Pictures have different sizes; `img`
    is a stand-in of the right length.
    """

    def __init__(self, row: Row, task: Task) -> None:
        import torch

        from yolodata.pipeline.dali import DaliDecoder
        from yolodata.shards import reader

        assert task.data is not None
        self._shards = reader.open(task.data)
        self._decoder: Any = DaliDecoder(
            task.imgsz,
            device=task.device,
            batch_size=task.batch,
            threads=row.threads,
            hw_decoder_load=task.hw_decoder_load,
        )
        self._rng = np.random.default_rng(task.seed)
        self._batch = task.batch
        self._pace = Pace(torch.device(task.device))
        self._stand_in = np.zeros((task.batch, 3, 1, 1), np.uint8)
        self.warm_up = 4 * task.batch

    def _orders(self) -> Iterator[list[int]]:
        while True:
            order = self._rng.permutation(len(self._shards))
            for first in range(0, len(order) - self._batch + 1, self._batch):
                yield [int(i) for i in order[first : first + self._batch]]

    def _files(self, images: list[int]) -> tuple[list[Any], list[tuple[int, int]]]:
        shards = self._shards
        sizes = [(int(shards.height[i]), int(shards.width[i])) for i in images]
        return [shards.sample(i) for i in images], sizes

    def batches(self) -> Iterator[dict[str, Any]]:
        """See `Subject`."""
        orders, shards = self._orders(), self._shards
        images = next(orders)
        files, sizes = self._files(images)
        for picture in self._decoder.decode(files, [shards.name(i) for i in images], sizes):
            if picture.pixels is None or picture.fallback:
                raise ValueError(
                    f"a picture of {shards.path} is not for DALI: {picture.reason or 'no JPEG'}"
                )
        for _ in self._decoder.endless(self._files(images) for images in orders):
            self._pace.keep()
            yield {"img": self._stand_in}

    def finish(self) -> None:
        """See `Subject`."""
        self._pace.finish()

    def facts(self) -> dict[str, float]:
        """The share of the files that the GPU's JPEG engine decodes."""
        share = self._decoder.hw_decoder_load
        return {} if share is None else {"hw_decoder_load": share}

    def close(self) -> None:
        """See `Subject`."""
        self._decoder.close()
