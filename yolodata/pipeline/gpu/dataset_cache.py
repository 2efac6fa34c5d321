"""Where decoded source pictures live while a device renders from them: the `cache=` of a loader.

    device  the whole dataset in device memory
    host    the whole dataset in page-locked host memory, read by the kernel where it lies
    none    raw shards: CPU threads render and the pictures are uploaded
            JPEG shards: decoded onto the device when they are needed, kept for the reuse window

Every tier gives the same stream of raw shards. Pictures of JPEG shards are those of their decoder,
the GPU's in "device" and "none", the CPU's in "host": up to 3 grey levels apart. 4:2:0 storage,
half the size, was left out because it loses parity: of 60 photographs of COCO it changed 27 % of
the bytes by more than one grey level, half of the photographs by more than 100 somewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil

from yolodata.errors import ConfigError
from yolodata.pipeline.gpu.jpeg_decoder import RUNS
from yolodata.pipeline.gpu.render_timing import render_seconds
from yolodata.pipeline.gpu.stream import Queue, Staging
from yolodata.pipeline.image_cache import FILL
from yolodata.pipeline.image_reader import checked, decode_into
from yolodata.pipeline.subset import Selection

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

CACHES = ("auto", "device", "host", "none")
_BELOW = {"device": "host", "host": "none"}
# Shares that `auto` takes at most. The training step has not yet allocated what it needs.
_OF_DEVICE, _OF_FREE_DEVICE, _OF_HOST = 0.3, 0.6, 0.5
_PIECE = 256 << 20  # bytes of device or page-locked memory that are allocated in one go
_UPLOAD = 32 << 20  # bytes of one upload while the dataset is brought to the device
_DECODED = 80 << 20  # bytes of pictures of one call of a decoder
_TIMED = 256  # pictures that are rendered from the map and from a copy, to see which is faster
_WORTH_COPYING = 0.95  # of the time from the map: a copy costs memory, and time to make
_ALIGNMENT = 64


@dataclass(frozen=True)
class Room:
    """Memory in bytes: free and total of the device, available of the host."""

    device_free: int
    device_total: int
    host: int


@dataclass(frozen=True)
class Choice:
    """A tier, and the reason for it."""

    tier: str
    why: str


def decoded_bytes(selection: Selection) -> int:
    """Size of all pictures of a selection, decoded and aligned."""
    return int(_sizes(selection).sum())


def choose(
    cache: str, codec: str, nbytes: int, room: Room, window: int = 0, staging: int = 0
) -> Choice:
    """The tier for a dataset of `nbytes` when decoded.

    Args:
        cache: what was asked for; "auto" takes the fastest that leaves enough room.
        codec: of the shards.
        nbytes: see `decoded_bytes`.
        room: memory that is there now, for this process.
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
        return Choice(
            cache, f"asked for; {size} of decoded pictures{some if cache == 'none' else ''}"
        )
    limit = min(_OF_DEVICE * room.device_total, _OF_FREE_DEVICE * room.device_free)
    if nbytes <= limit:
        free = _human(room.device_free)
        return Choice("device", f"{size} of decoded pictures fit into {free} of free device memory")
    too_large = f"{size} of decoded pictures are more than the {_human(limit)} of device memory"
    if (codec == "raw" or window > limit) and nbytes <= _OF_HOST * room.host:
        return Choice("host", f"{too_large} that training can spare, and fit into host memory")
    how = (
        f"pictures are decoded when they are needed{some}"
        if codec != "raw"
        else f"CPU threads render{some}"
    )
    return Choice("none", f"{too_large} that training can spare; {how}")


@dataclass
class Resident:
    """All pictures of a selection in memory that a device can read.

    Attributes:
        shard, offset, base: picture i lies at base[shard[i]] + offset[i], a device's address.
        bad: images that cannot be read, grey there, and why.
    """

    shard: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
    base: npt.NDArray[np.uint64]
    bad: dict[int, str] = field(default_factory=dict)
    memory: list[Any] = field(default_factory=list)
    release: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        """Free the memory; nothing may be reading it any more."""
        while self.release:
            self.release.pop()()
        self.memory.clear()


def fill(
    choice: Choice,
    selection: Selection,
    queue: Queue,
    *,
    threads: int,
    check: bool,
    decode: Decode | None = None,
) -> tuple[Choice, Resident | None]:
    """Bring the dataset where a tier has it; one tier lower, with a warning, if that fails.

    Args:
        choice: the tier to begin with.
        selection: which pictures.
        queue: of the device.
        threads: that read and decode.
        check: compare samples with their checksums.
        decode: decodes JPEG samples onto the device; None decodes them with CPU threads.

    Returns:
        The tier that was reached, and the pictures of the tiers "device" and "host".
    """
    import torch

    while choice.tier != "none":
        filler = _Filler(selection, queue, threads, check)
        try:
            if choice.tier == "device":
                return choice, filler.device(decode)
            resident = filler.host()
            why = f"{choice.why}; {filler.how}" if filler.how else choice.why
            return Choice("host", why), resident
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            filler.resident.close()
            queue.make_room()
            reason = _line(error)
            lower = Choice(_BELOW[choice.tier], f"cache={choice.tier} failed: {reason}")
            log.warning("cache=%s does not work here, cache=%s is used instead: %s",
                        choice.tier, lower.tier, reason)  # fmt: skip
            choice = lower
    return choice, None


Decode = Callable[[list[int]], "list[tuple[Any, str]]"]
"""Images to tensors uint8 (h, w, 3) on the device, each with why it is only grey, or ""."""


class _Filler:
    def __init__(self, selection: Selection, queue: Queue, threads: int, check: bool) -> None:
        self._selection, self._queue = selection, queue
        self._threads, self._check = threads, check
        self.resident = self._nothing()
        self.how = ""  # what else is worth knowing

    def _nothing(self) -> Resident:
        images = self._selection.images
        return Resident(
            np.zeros(images, np.uint32), np.zeros(images, np.uint64), np.zeros(0, np.uint64)
        )

    def device(self, decode: Decode | None) -> Resident:
        """Pictures in device memory."""
        queue, staging = self._queue, Staging(self._queue)
        pieces = self._lay_out(queue.memory)
        if decode is not None and self._selection.shards.meta.codec != "raw":
            self._decode_all(decode, pieces)
            return self.resident
        for piece, images in pieces:
            for run, begin, end in self._runs(images, _UPLOAD):
                memory = staging.take(end - begin)[: end - begin]
                self._read(run, memory.numpy(), begin)
                queue.copy(memory, piece[begin:end])
                staging.give(memory, queue.mark())
        queue.mark().wait()
        return self.resident

    def host(self) -> Resident:
        """Pictures in page-locked memory: the shards' own map or a copy, whichever is faster."""
        shards = self._selection.shards
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
        return self.resident

    def _start_again(self) -> None:
        self.resident.close()
        self.resident = self._nothing()

    def _copy(self) -> Resident:
        for piece, images in self._lay_out(self._queue.pinned):
            self._read(images, piece.numpy(), 0)
        return self.resident

    def _should_copy(self) -> bool:
        """Whether the device reads from a copy so much faster that it is worth its memory.

        Tried with the first few hundred pictures, of which a copy is made.
        """
        selection, mapped = self._selection, self.resident
        ends = np.cumsum(_sizes(selection))
        images = min(_TIMED, max(1, int(np.searchsorted(ends, _PIECE, side="right"))))
        copy = self._nothing()
        copy.offset[1:images] = ends[: images - 1]
        try:
            piece = self._queue.pinned(int(ends[images - 1]))
            copy.base = np.array([piece.data_ptr()], np.uint64)
            for image in range(images):
                pixels = selection.shards.sample(image)
                at = int(copy.offset[image])
                piece.numpy()[at : at + pixels.nbytes] = pixels
            places = {"map": mapped, "copy": copy}
            seconds = render_seconds(selection, self._queue, places, images)
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
        if faster and psutil.virtual_memory().available < ends[-1]:
            self.how += ", for which there is no room"
            return False
        return faster

    def _map(self) -> Resident:
        shards, images = self._selection.shards, self._selection.images
        resident = self.resident
        resident.shard = np.ascontiguousarray(shards.shard[:images])
        resident.offset = np.ascontiguousarray(shards.offset[:images])
        count = int(resident.shard.max()) + 1 if images else 0
        resident.base = np.zeros(count, np.uint64)
        for s in range(count):
            data = shards.shard_data(s)
            # Whole pages are locked: from the beginning of the page that the data begins in.
            address, skip = data.ctypes.data, data.ctypes.data % 4096
            device = self._queue.lock(address - skip, data.nbytes + skip)
            resident.memory.append(data)
            resident.release.append(partial(self._queue.unlock, address - skip))
            resident.base[s] = device + skip
        return resident

    def _lay_out(self, allocate: Callable[[int], Any]) -> list[tuple[Any, range]]:
        """Allocate pieces of memory, and say which images each one holds."""
        sizes = _sizes(self._selection)
        resident = self.resident
        pieces: list[tuple[Any, range]] = []
        ends = np.cumsum(sizes)
        first, images = 0, len(sizes)
        while first < images:
            start = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + _PIECE, side="right")))
            piece = allocate(int(ends[last - 1]) - start)
            resident.memory.append(piece)
            resident.shard[first:last] = len(pieces)
            resident.offset[first:last] = ends[first:last] - sizes[first:last] - start
            pieces.append((piece, range(first, last)))
            first = last
        resident.base = np.array([piece.data_ptr() for piece, _ in pieces], np.uint64)
        return pieces

    def _runs(self, images: range, nbytes: int) -> Iterator[tuple[range, int, int]]:
        """Neighbouring images of a piece, up to `nbytes` together; where they begin and end."""
        sizes = _sizes(self._selection)
        first = images.start
        while first < images.stop:
            begin = end = int(self.resident.offset[first])
            last = first
            while last < images.stop and (last == first or end + sizes[last] - begin <= nbytes):
                end += int(sizes[last])
                last += 1
            yield range(first, last), begin, end
            first = last

    def _read(self, images: range, memory: npt.NDArray[np.uint8], begin: int) -> None:
        """Fill `memory`, which is what begins at `begin` of a piece, with some of its images."""

        def one(image: int) -> None:
            at = int(self.resident.offset[image]) - begin
            height, width = self._size(image)
            target = memory[at : at + 3 * height * width]
            try:
                self._into(image, (height, width), target)
            except Exception as error:  # any broken file: the run goes on without it
                target[:] = FILL
                self.resident.bad[image] = str(error) or type(error).__name__

        with ThreadPoolExecutor(self._threads, thread_name_prefix="yolodata-read") as pool:
            list(pool.map(one, images))

    def _into(self, image: int, size: tuple[int, int], target: npt.NDArray[np.uint8]) -> None:
        shards = self._selection.shards
        if shards.meta.codec != "raw":
            decode_into(shards, image, size, self._selection.imgsz, target, self._check)
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
        queue = self._queue
        kept = decode(list(images))
        for image, (pixels, why) in zip(images, kept, strict=True):
            at = int(self.resident.offset[image])
            height, width = self._size(image)
            if why:
                self.resident.bad[image] = why
            queue.copy(pixels, piece[at : at + 3 * height * width].view(height, width, 3))
        queue.mark().wait()  # before the decoder's memory goes

    def _size(self, image: int) -> tuple[int, int]:
        return int(self._selection.height[image]), int(self._selection.width[image])


def _sizes(selection: Selection) -> npt.NDArray[np.int64]:
    area = selection.height.astype(np.int64) * selection.width.astype(np.int64) * 3
    return -(-area // _ALIGNMENT) * _ALIGNMENT


def grey(queue: Queue, height: int, width: int) -> torch.Tensor:
    """A picture (h, w, 3) on the device in place of one that cannot be read."""
    memory = queue.pinned(3 * height * width)
    memory.fill_(FILL)
    picture = queue.memory(memory.numel())
    queue.copy(memory, picture)
    queue.mark().wait()
    return picture.view(height, width, 3)


def check_cache(cache: str, on_device: bool) -> None:
    """Refuse a cache that is none.

    Raises:
        ConfigError: unknown, or one that needs a device where there is none.
    """
    if cache not in CACHES:
        raise ConfigError(f"cache must be one of {', '.join(CACHES)}, got {cache!r}")
    if not on_device and cache in ("device", "host"):
        raise ConfigError(
            f"cache={cache!r} is for a CUDA device; device='cpu' reads pixels from the map"
        )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _human(nbytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"
