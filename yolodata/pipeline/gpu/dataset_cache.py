"""Where decoded images live while a device renders from them: the `cache=` of a loader.

    device  the whole dataset in device memory
    host    the whole dataset in page-locked host memory, read by the kernel where it lies
    none    raw shards: CPU threads render and the pictures are uploaded
            JPEG shards: decoded onto the device when they are needed, kept for the reuse window

Every cache gives the same stream of raw shards. Pictures of JPEG shards are those of their decoder,
the GPU's in "device" and "none", the CPU's in "host": up to 3 grey levels apart. 4:2:0 storage,
half the size, was left out because it loses parity: of 60 photographs of COCO it changed 27 % of
the bytes by more than one grey level, half of the photographs by more than 100 somewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata import _native
from yolodata.errors import is_out_of_memory, lacking
from yolodata.machine import available_memory
from yolodata.pipeline.backend import wait_for
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.gpu.jpeg_decoder import RUNS
from yolodata.pipeline.gpu.stream import Output, StagingPool, Stream, render_task_bytes
from yolodata.pipeline.image_reader import checked, decode_into
from yolodata.pipeline.subset import Subset

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

_BELOW = {"device": "host", "host": "none"}
# Shares that `auto` takes at most. The training step has not yet allocated what it needs.
_OF_DEVICE, _OF_FREE_DEVICE, _OF_HOST = 0.3, 0.6, 0.5
_PIECE = 256 << 20  # bytes of device or page-locked memory that are allocated in one go
_UPLOAD = 32 << 20  # bytes of one upload while the dataset is brought to the device
_DECODED = 80 << 20  # bytes of pictures of one call of a decoder
_TIMED = 256  # pictures that are rendered from the map and from a copy, to see which is faster
_WORTH_COPYING = 0.95  # of the time from the map: a copy costs memory, and time to make
_ALIGNMENT = 64
_BATCH = 64  # pictures of one render while that is tried
_TURNS = 3  # of that, besides a first one, which costs what no other does


@dataclass(frozen=True)
class FreeMemory:
    """Memory in bytes: free and total of the device, available of the host."""

    device_free: int
    device_total: int
    host: int


@dataclass(frozen=True)
class CacheChoice:
    """A cache, and the reason for it."""

    cache: str
    why: str


def decoded_bytes(subset: Subset) -> int:
    """Returns bytes of all images of a subset, decoded and aligned."""
    return int(_sizes(subset).sum())


def choose(
    cache: str, codec: str, nbytes: int, memory: FreeMemory, window: int = 0, staging: int = 0
) -> CacheChoice:
    """Chooses the cache for a dataset of `nbytes` when decoded.

    Args:
        cache: what was asked for; "auto" takes the fastest that leaves enough memory.
        codec: of the shards.
        nbytes: see `decoded_bytes`.
        memory: that is there now, for this process.
        window: bytes of device memory for the pictures that are kept where JPEG shards are decoded
            when they are needed.
        staging: bytes of page-locked memory that CPU threads render batches into at most, where
            they do.
    """
    size = _human(nbytes)
    some = f", up to {_human(window)} of them in device memory" if window else ""
    if codec == "raw" and staging:
        some = f", into up to {_human(staging)} of page-locked memory"
    if cache != "auto":
        return CacheChoice(
            cache, f"asked for; {size} of decoded pictures{some if cache == 'none' else ''}"
        )
    limit = min(_OF_DEVICE * memory.device_total, _OF_FREE_DEVICE * memory.device_free)
    if nbytes <= limit:
        free = _human(memory.device_free)
        return CacheChoice(
            "device", f"{size} of decoded pictures fit into {free} of free device memory"
        )
    too_large = f"{size} of decoded pictures are more than the {_human(limit)} of device memory"
    if (codec == "raw" or window > limit) and nbytes <= _OF_HOST * memory.host:
        return CacheChoice("host", f"{too_large} that training can spare, and fit into host memory")
    how = (
        f"pictures are decoded when they are needed{some}"
        if codec != "raw"
        else f"CPU threads render{some}"
    )
    return CacheChoice("none", f"{too_large} that training can spare; {how}")


@dataclass
class CachedDataset:
    """All images of a subset in memory that a device can read.

    Attributes:
        shard, offset, base: image i lies at base[shard[i]] + offset[i], a device's address.
        unreadable: images that cannot be read, grey there, and why.
    """

    shard: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
    base: npt.NDArray[np.uint64]
    unreadable: dict[int, str] = field(default_factory=dict)
    memory: list[Any] = field(default_factory=list)
    release: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        """Frees the memory; nothing may be reading it any more."""
        while self.release:
            self.release.pop()()
        self.memory.clear()


def fill(
    choice: CacheChoice,
    subset: Subset,
    stream: Stream,
    *,
    threads: int,
    check: bool,
    decode: Decode | None = None,
) -> tuple[CacheChoice, CachedDataset | None]:
    """Brings the dataset where a cache has it; one cache lower, with a warning, if that fails.

    Args:
        choice: the cache to begin with.
        subset: which images.
        stream: of the device.
        threads: that read and decode.
        check: compare samples with their checksums.
        decode: decodes JPEG samples onto the device; None decodes them with CPU threads.

    Returns:
        The cache that was reached, and the dataset in the caches "device" and "host".
    """
    import torch

    while choice.cache != "none":
        filler = _Filler(subset, stream, threads, check)
        try:
            if choice.cache == "device":
                return choice, filler.device(decode)
            cached = filler.host()
            why = f"{choice.why}; {filler.how}" if filler.how else choice.why
            return CacheChoice("host", why), cached
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            filler.cached.close()
            stream.empty_cache()
            reason = _line(error)
            lower = CacheChoice(_BELOW[choice.cache], f"cache={choice.cache} failed: {reason}")
            log.warning("cache=%s does not work here, cache=%s is used instead: %s",
                        choice.cache, lower.cache, reason)  # fmt: skip
            choice = lower
    return choice, None


Decode = Callable[[list[int]], "list[tuple[Any, str]]"]
"""Images to tensors uint8 (h, w, 3) on the device, each with why it is only grey, or ""."""


class _Filler:
    def __init__(self, subset: Subset, stream: Stream, threads: int, check: bool) -> None:
        self._subset, self._stream = subset, stream
        self._threads, self._check = threads, check
        self.cached = self._nothing()
        self.how = ""  # what else is worth knowing

    def _nothing(self) -> CachedDataset:
        images = self._subset.images
        return CachedDataset(
            np.zeros(images, np.uint32), np.zeros(images, np.uint64), np.zeros(0, np.uint64)
        )

    def device(self, decode: Decode | None) -> CachedDataset:
        """Brings the images into device memory."""
        stream, staging = self._stream, StagingPool(self._stream)
        pieces = self._lay_out(stream.empty)
        if decode is not None and self._subset.shards.meta.codec != "raw":
            self._decode_all(decode, pieces)
            return self.cached
        for piece, images in pieces:
            for run, begin, end in self._runs(images, _UPLOAD):
                memory = staging.take(end - begin)[: end - begin]
                self._read(run, memory.numpy(), begin)
                stream.copy(memory, piece[begin:end])
                staging.give(memory, stream.record_event())
        stream.record_event().synchronize()
        return self.cached

    def host(self) -> CachedDataset:
        """Brings the images into page-locked memory: the shards' map or a copy, what is faster."""
        shards = self._subset.shards
        if shards.meta.codec != "raw" or not shards.mapped or self._check:
            return self._copy()
        try:
            self._map()
        except RuntimeError as error:
            self.how = f"the shards' map cannot be page-locked, a copy is: {_line(error)}"
            self._start_again()
            return self._copy()
        if self._should_copy():
            self._start_again()
            try:
                return self._copy()
            except (MemoryError, RuntimeError) as error:
                self.how += f", but {_line(error)}"
                self._start_again()
                self._map()
        return self.cached

    def _start_again(self) -> None:
        self.cached.close()
        self.cached = self._nothing()

    def _copy(self) -> CachedDataset:
        for piece, images in self._lay_out(self._stream.pinned):
            self._read(images, piece.numpy(), 0)
        return self.cached

    def _should_copy(self) -> bool:
        """Returns whether the device reads from a copy so much faster that it is worth its memory.

        Tried with the first few hundred images, of which a copy is made.
        """
        subset, mapped = self._subset, self.cached
        ends = np.cumsum(_sizes(subset))
        images = min(_TIMED, max(1, int(np.searchsorted(ends, _PIECE, side="right"))))
        copy = self._nothing()
        copy.offset[1:images] = ends[: images - 1]
        try:
            piece = self._stream.pinned(int(ends[images - 1]))
            copy.base = np.array([piece.data_ptr()], np.uint64)
            for image in range(images):
                pixels = subset.shards.sample(image)
                at = int(copy.offset[image])
                piece.numpy()[at : at + pixels.nbytes] = pixels
            places = {"map": mapped, "copy": copy}
            seconds = render_seconds(subset, self._stream, places, images)
        except (MemoryError, RuntimeError) as error:
            self.how = f"the shards' map, no copy could be tried: {_line(error)}"
            return False
        faster = seconds["copy"] < _WORTH_COPYING * seconds["map"]
        speeds = {name: f"{images / s:.0f}" for name, s in seconds.items()}
        chosen = "a copy" if faster else "the shards' map"
        self.how = (
            f"{chosen}: {speeds['map']} pictures/s are "
            f"rendered from the map, {speeds['copy']} from a copy"
        )
        if faster and available_memory() < ends[-1]:
            self.how += ", for which there is no room"
            return False
        return faster

    def _map(self) -> CachedDataset:
        shards, images = self._subset.shards, self._subset.images
        cached = self.cached
        cached.shard = np.ascontiguousarray(shards.shard[:images])
        cached.offset = np.ascontiguousarray(shards.offset[:images])
        count = int(cached.shard.max()) + 1 if images else 0
        cached.base = np.zeros(count, np.uint64)
        for s in range(count):
            data = shards.shard_data(s)
            # Whole pages are locked: from the beginning of the page that the data begins in.
            address, skip = data.ctypes.data, data.ctypes.data % 4096
            device = self._stream.register_host(address - skip, data.nbytes + skip)
            cached.memory.append(data)
            cached.release.append(partial(self._stream.unregister_host, address - skip))
            cached.base[s] = device + skip
        return cached

    def _lay_out(self, allocate: Callable[[int], Any]) -> list[tuple[Any, range]]:
        """Allocates pieces of memory, and says which images each one holds."""
        sizes = _sizes(self._subset)
        cached = self.cached
        pieces: list[tuple[Any, range]] = []
        ends = np.cumsum(sizes)
        first, images = 0, len(sizes)
        while first < images:
            start = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + _PIECE, side="right")))
            piece = allocate(int(ends[last - 1]) - start)
            cached.memory.append(piece)
            cached.shard[first:last] = len(pieces)
            cached.offset[first:last] = ends[first:last] - sizes[first:last] - start
            pieces.append((piece, range(first, last)))
            first = last
        cached.base = np.array([piece.data_ptr() for piece, _ in pieces], np.uint64)
        return pieces

    def _runs(self, images: range, nbytes: int) -> Iterator[tuple[range, int, int]]:
        """Yields runs of images of a piece, up to `nbytes` each; where they begin and end."""
        sizes = _sizes(self._subset)
        first = images.start
        while first < images.stop:
            begin = end = int(self.cached.offset[first])
            last = first
            while last < images.stop and (last == first or end + sizes[last] - begin <= nbytes):
                end += int(sizes[last])
                last += 1
            yield range(first, last), begin, end
            first = last

    def _read(self, images: range, memory: npt.NDArray[np.uint8], begin: int) -> None:
        """Fills `memory`, which is what begins at `begin` of a piece, with some of its images."""

        def one(image: int) -> None:
            at = int(self.cached.offset[image]) - begin
            height, width = self._size(image)
            target = memory[at : at + 3 * height * width]
            try:
                self._into(image, (height, width), target)
            except Exception as error:  # any broken file: the run goes on without it
                if is_out_of_memory(error):  # a smaller cache may leave enough
                    raise MemoryError(" ".join(str(error).split())) from None
                if lacking(error):
                    raise  # the file may be a good one
                target[:] = _native.FILL
                self.cached.unreadable[image] = str(error) or type(error).__name__

        with ThreadPoolExecutor(self._threads, thread_name_prefix="yolodata-read") as pool:
            list(pool.map(one, images))

    def _into(self, image: int, size: tuple[int, int], target: npt.NDArray[np.uint8]) -> None:
        shards = self._subset.shards
        if shards.meta.codec != "raw":
            decode_into(shards, image, size, self._subset.imgsz, target, self._check)
        else:
            target[:] = checked(shards, image) if self._check else shards.sample(image)

    def _decode_all(self, decode: Decode, pieces: list[tuple[Any, range]]) -> None:
        runs = [
            (piece, run) for piece, images in pieces for run, *_ in self._runs(images, _DECODED)
        ]
        with ThreadPoolExecutor(RUNS, thread_name_prefix="yolodata-read") as pool:
            for _ in pool.map(lambda run: self._decode(decode, *run), runs):
                pass

    def _decode(self, decode: Decode, piece: Any, images: range) -> None:
        stream = self._stream
        kept = decode(list(images))
        for image, (pixels, why) in zip(images, kept, strict=True):
            at = int(self.cached.offset[image])
            height, width = self._size(image)
            if why:
                self.cached.unreadable[image] = why
            stream.copy(pixels, piece[at : at + 3 * height * width].view(height, width, 3))
        stream.record_event().synchronize()  # before the decoder's memory goes

    def _size(self, image: int) -> tuple[int, int]:
        return int(self._subset.height[image]), int(self._subset.width[image])


def _sizes(subset: Subset) -> npt.NDArray[np.int64]:
    area = subset.height.astype(np.int64) * subset.width.astype(np.int64) * 3
    return -(-area // _ALIGNMENT) * _ALIGNMENT


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def render_seconds(
    subset: Subset, stream: Stream, places: Mapping[str, CachedDataset], images: int
) -> dict[str, float]:
    """Times the renderer on the first images, which lie in several places, in turns.

    Args:
        subset: whose images they are.
        stream: of the device; nothing else should be going on there.
        places: names, and where the first `images` images are.
        images: how many pictures are rendered, each from one image.

    Returns:
        for each place the seconds of its fastest turn.
    """
    config = subset.plan_config(AugmentConfig(imgsz=subset.imgsz, mosaic=0.0), False)
    shape = (3, subset.imgsz, subset.imgsz)
    engine = _native.Engine(1)
    try:
        batches = {
            name: [
                _uploaded(engine, subset, stream, config, place, first, min(images, first + _BATCH))
                for first in range(0, images, _BATCH)
            ]
            for name, place in places.items()
        }
        best = dict.fromkeys(places, float("inf"))
        for turn in range(1 + _TURNS):
            for name, tasks in batches.items():
                stream.record_event().synchronize()
                start = time.perf_counter()
                for count, memory in tasks:
                    stream.render(memory, (count, *shape), Output())
                stream.record_event().synchronize()
                if turn:
                    best[name] = min(best[name], time.perf_counter() - start)
        return best
    finally:
        engine.close()


def _uploaded(
    engine: _native.Engine,
    subset: Subset,
    stream: Stream,
    config: _native.PlanConfig,
    place: CachedDataset,
    first: int,
    last: int,
) -> tuple[int, torch.Tensor]:
    """Returns how many pictures, and on the device what the renderer needs to know of them."""
    count = last - first
    host, device = stream.pinned(render_task_bytes(count)), stream.empty(render_task_bytes(count))
    wait_for(
        engine.submit(
            subset.index(), config, 0, 0, np.arange(first, last), host.numpy(),
            place.shard, place.offset, place.base,
        )
    )  # fmt: skip
    stream.copy(host, device)
    stream.record_event().synchronize()
    return count, device


def _human(nbytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"
