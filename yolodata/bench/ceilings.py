"""What bounds every loader: copying its pictures; and on a GPU, decoding them by DALI alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import numpy as np
import torch

from yolodata.bench.burst import POOL_BYTES, Burst, Pace
from yolodata.bench.subject import Batch, Row, Subject, Task
from yolodata.errors import ConfigError
from yolodata.shards import reader

_SOURCE_BYTES = 256 << 20  # more than a processor caches
_BATCHES = 6  # as many as a loader that prefetches 4 has in use


def open_copy(row: Row, task: Task) -> Subject:
    """Copies of pictures of the output's size, from random places of a large pool into batches.

    Any loader that keeps decoded pictures in memory has to read and to write this much; how fast
    that goes is the memory's speed as one core (or as many as the row has) can use it.
    """
    nbytes, rng = 3 * task.imgsz * task.imgsz, np.random.default_rng(task.seed)
    pool = np.ones((max(2, min(2048, _SOURCE_BYTES // nbytes)), nbytes), np.uint8)
    shape = (task.batch, 3, task.imgsz, task.imgsz)
    targets = [np.ones(shape, np.uint8) for _ in range(_BATCHES)]
    threads = ThreadPoolExecutor(row.threads)

    def copy(out: Any, images: Any, first: int) -> None:
        rows = out.reshape(len(out), -1)
        for i in range(first, len(out), row.threads):
            np.copyto(rows[i], pool[images[i]])

    def batches() -> Iterator[Batch]:
        while True:
            for out in targets:
                images = rng.integers(len(pool), size=len(out))
                if row.threads == 1:
                    copy(out, images, 0)
                else:
                    list(threads.map(lambda k: copy(out, images, k), range(row.threads)))  # noqa: B023
                yield {"img": out}

    return Subject(batches(), warm_up=4 * task.batch, close=threads.shutdown)


class DeviceCopy(Burst):
    """Copies of pictures of the output's size to a device, or on it.

    Args:
        row: `cache` says from where: "device" (to another place on the device), "host"
            (page-locked memory) or "map" (raw shards, page-locked where they are mapped).
        task: batch and size of the pictures; for "map", `data`.

    Raises:
        ConfigError: the shards are smaller than a batch.
    """

    def __init__(self, row: Row, task: Task) -> None:
        super().__init__(task)
        shape = (task.batch, 3, task.imgsz, task.imgsz)
        nbytes, on_gpu = int(np.prod(shape)), self.device.type == "cuda"
        count = max(2, (POOL_BYTES if on_gpu else 8 * nbytes) // nbytes)
        self._locked: list[tuple[Any, int]] = []
        self.close = self._unlock
        if row.cache == "map":
            sources = self._mapped(task, shape)[:count]
        else:
            where: dict[str, Any] = {"device": self.device}
            if row.cache == "host":
                where = {"pin_memory": on_gpu}
            sources = [torch.ones(shape, dtype=torch.uint8, **where) for _ in range(count)]
        targets = [torch.zeros_like(source, device=self.device) for source in sources]
        self._pairs = cycle(list(zip(targets, sources, strict=True)))
        # A copy on the device reads and writes its memory; one to the device crosses once.
        self.bytes_each = 3.0 * task.imgsz * task.imgsz * (2 if row.cache == "device" else 1)

    def once(self) -> Any:
        """See `Burst`."""
        target, source = next(self._pairs)
        return target.copy_(source, non_blocking=True)

    def _mapped(self, task: Task, shape: tuple[int, ...]) -> list[torch.Tensor]:
        from yolodata.pipeline.gpu.stream import open_stream

        assert task.data is not None
        shards = reader.open(task.data, io="mmap")
        nbytes = int(np.prod(shape))
        found: list[torch.Tensor] = []
        for data in map(shards.shard_data, range(len(shards.meta.shards))):
            if self.device.type == "cuda":
                stream, skip = open_stream(self.device), data.ctypes.data % 4096
                stream.register_host(data.ctypes.data - skip, data.nbytes + skip)
                self._locked.append((stream, data.ctypes.data - skip))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is read-only
                whole = torch.from_numpy(data)
            ends = range(nbytes, len(whole) + 1, nbytes)
            found += [whole[end - nbytes : end].view(shape) for end in ends]
        if not found:
            raise ConfigError(f"{task.data}: is smaller than a batch of {task.batch}; pack more")
        return found

    def _unlock(self) -> None:
        self.finish()
        while self._locked:
            stream, address = self._locked.pop()
            stream.unregister_host(address)


def open_decoder(row: Row, task: Task) -> Subject:
    """DALI decodes and resizes the files of JPEG shards to where they are needed, and that is all.

    The first batch goes through `DaliDecoder.decode`, which sees whether files are fit for it; from
    there on it is a graph of DALI's with a queue of its own. Pictures have different sizes; `img`
    is a stand-in of the right length. The fact hw_decoder_load is the share of the files that the
    GPU's JPEG engine decodes.

    Raises:
        ValueError: a file is not for DALI.
    """
    from yolodata.pipeline.gpu.jpeg_decoder import DaliDecoder

    assert task.data is not None
    shards, rng = reader.open(task.data), np.random.default_rng(task.seed)
    decoder: Any = DaliDecoder(
        task.imgsz, device=task.device, batch_size=task.batch, threads=row.threads,
        hw_decoder_load=task.hw_decoder_load,
    )  # fmt: skip
    pace, share = Pace(torch.device(task.device)), decoder.hw_decoder_load
    stand_in = np.zeros((task.batch, 3, 1, 1), np.uint8)

    def orders() -> Iterator[list[int]]:
        while True:
            order = rng.permutation(len(shards)).tolist()
            for first in range(0, len(order) - task.batch + 1, task.batch):
                yield order[first : first + task.batch]

    def files(images: list[int]) -> tuple[list[Any], list[tuple[int, int]]]:
        sizes = [(int(shards.height[i]), int(shards.width[i])) for i in images]
        return [shards.sample(i) for i in images], sizes

    def batches() -> Iterator[Batch]:
        images = next(orders())
        data, sizes = files(images)
        for picture in decoder.decode(data, [shards.name(i) for i in images], sizes):
            if picture.pixels is None or picture.fallback:
                raise ValueError(
                    f"a picture of {shards.path} is not for DALI: {picture.reason or 'no JPEG'}"
                )
        for _ in decoder.endless(map(files, orders())):
            pace.keep()
            yield {"img": stand_in}

    facts = {} if share is None else {"hw_decoder_load": share}
    return Subject(batches(), warm_up=4 * task.batch, finish=pace.finish, facts=lambda: facts,
                   close=decoder.close)  # fmt: skip
