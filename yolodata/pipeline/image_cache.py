"""Memory of pictures: the output of batches, and decoded source pictures.

Note [fresh memory is slow]. A batch of 16 pictures is 20 MB, which the allocator takes from the
operating system anew and gives back each time: 4,600 page faults, measured at 0.7 ms a picture,
about as much as rendering it. Buffers are therefore used again as soon as nobody refers to them.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import is_out_of_memory
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch


Bytes = npt.NDArray[np.uint8]
_LINE = 64  # bytes of a cache line: rows that begin at one can be written past the caches
FILL = 114  # grey of padding, and of a picture that cannot be read


def _references(items: list[Bytes], i: int) -> int:
    return sys.getrefcount(items[i])


class BatchBuffers:
    """Hands out uint8 tensors (B, 3, H, W) and takes their memory back when they are forgotten.

    A tensor made from a NumPy array holds a reference to that array for as long as any view of it
    lives, in Python or in C++. The array's reference count therefore tells whether somebody may
    still look at the memory.

    Args:
        spare: how many idle buffers to hold on to, besides the one that is handed out next.
        pin_memory: page-locked memory, from torch's own pool, which tracks copies to the device.
        allocate: makes other memory, uint8 (nbytes,), for whoever tracks copies himself.
    """

    def __init__(
        self,
        spare: int,
        pin_memory: bool = False,
        allocate: Callable[[int], Bytes] | None = None,
    ) -> None:
        self._spare = spare
        self._pin = pin_memory
        self._allocate = allocate or (lambda nbytes: np.empty(nbytes, np.uint8))
        self._arrays: list[Bytes] = []
        self._idle_references = _references([np.empty(1, np.uint8)], 0)

    def take(self, count: int, height: int, width: int) -> torch.Tensor:
        """Memory for `count` pictures, uninitialised; it is the caller's until forgotten."""
        import torch

        shape = (count, 3, height, width)
        if self._pin:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        need = math.prod(shape)
        arrays = self._arrays
        idle = [i for i in range(len(arrays)) if _references(arrays, i) <= self._idle_references]
        fitting = [i for i in idle if need + _LINE <= arrays[i].nbytes <= 2 * need + _LINE]
        if fitting:
            at = min(fitting, key=lambda i: arrays[i].nbytes)
            idle.remove(at)
        else:
            at = len(arrays)
            arrays.append(self._allocate(need + _LINE))
        array = arrays[at]
        start = -array.ctypes.data % _LINE
        picture = torch.from_numpy(array[start : start + need].reshape(shape))
        del array  # it would count as a user of the memory
        for i in reversed(idle[: max(0, len(idle) - self._spare)]):  # the oldest ones go
            del arrays[i]
        return picture

    def clear(self) -> None:
        """Free what is idle, and the rest when it is forgotten."""
        self._arrays.clear()


@dataclass
class Load:
    """How pictures get into memory."""

    read: Callable[[int, Bytes | None], Bytes]  # (image, memory to use again) -> HWC RGB bytes
    size: Callable[[int], tuple[int, int]]  # height, width of the result
    threads: int
    capacity: int  # pictures to keep besides those in use
    refresh: bool = False  # every use, not only the first one, makes a picture young again
    recycle: bool = False  # `read` uses memory again


@dataclass
class BatchLoad:
    """How pictures get into the memory of a device, several at a time."""

    # images -> for each, something with `data_ptr()`, and why it is only a substitute, or ""
    read: Callable[[list[int]], Sequence[tuple[Any, str]]]
    chunk: int  # pictures of one call at most
    capacity: int  # as in Load
    threads: int = 1
    refresh: bool = False
    recycle: bool = False
    close: Callable[[], None] = lambda: None


@dataclass(eq=False)
class _Picture:
    age: int
    pixels: Any = None
    users: int = 0
    waiting: list[Lease] = field(default_factory=list)


@dataclass(eq=False)
class Lease:
    """Pictures that one batch needs; they stay in memory until `Pictures.release`."""

    images: npt.NDArray[np.int64]  # sorted, unique
    ready: Callable[[Lease], None]  # called by any thread when all pictures are there, or `error`
    missing: int = 0
    bad: set[int] = field(default_factory=set)
    error: BaseException | None = None  # why the pictures are not there; see `Pictures.again`


class Pictures:
    """Decoded pictures, each read once and kept until `capacity` others are younger.

    `acquire` never blocks: it starts what is missing on the reading threads. A picture that cannot
    be read becomes grey, and is named in the lease and in `bad`. Pictures for which a device has no
    memory just now are put off: leases that wait for them get the error, and may ask `again`.
    """

    def __init__(self, load: Load | BatchLoad, telemetry: Telemetry) -> None:
        self.bad: dict[int, str] = {}  # image -> why it cannot be read
        self._telemetry = telemetry
        self._load = load
        self._lock = threading.Lock()
        self._pictures: dict[int, _Picture] = {}
        self._oldest: list[tuple[int, int]] = []  # heap of (age, image), possibly outdated
        self._free: list[Bytes] = []
        self._unread: deque[int] = deque()
        self._put_off: list[list[int]] = []  # chunks that there was no memory for
        self._pool = ThreadPoolExecutor(load.threads, thread_name_prefix="yolodata-read")
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="yolodata-ask")
        self._closed = False
        self._error: BaseException | None = None  # reading itself failed: nothing comes any more

    def ask(self, action: Callable[[], None]) -> None:
        """Carry out what acquires pictures, to its end, also if the caller is interrupted.

        Ctrl-C strikes the main thread alone. In the middle of `acquire` it would leave pictures
        behind that everybody waits for and nobody reads. An action that may be asked for again
        after an interruption has to do nothing the second time; no two run at once.
        """
        self._asker.submit(action).result()

    def acquire(
        self,
        images: npt.NDArray[np.int64],
        ready: Callable[[Lease], None],
        *,
        age: int = 0,
        bases: frozenset[int] = frozenset(),
    ) -> Lease:
        """Ask for pictures.

        Args:
            images: sorted, unique dataset indexes.
            ready: called when all are there, maybe before this returns; or when `error` is set.
            age: place of this batch in the stream; larger is younger.
            bases: images whose turn it is now, which makes them as young as this batch.

        Raises:
            whatever an earlier `BatchLoad.read` raised.
        """
        if self._error is not None:
            raise self._error
        lease = Lease(images, ready)
        started: list[int] = []
        with self._lock:
            for image in images.tolist():
                picture = self._pictures.get(image)
                if picture is None:
                    picture = self._pictures[image] = _Picture(age)
                    heappush(self._oldest, (age, image))
                    started.append(image)
                elif picture.age < age and (self._load.refresh or image in bases):
                    picture.age = age
                    heappush(self._oldest, (age, image))
                picture.users += 1
                if picture.pixels is None:
                    picture.waiting.append(lease)
                    lease.missing += 1
                elif image in self.bad:
                    lease.bad.add(image)
            waits = lease.missing > 0
        self._telemetry.count("decodes", len(started))
        self._telemetry.count("hits", len(lease.images) - len(started))
        if not waits:
            ready(lease)
        if isinstance(self._load, BatchLoad):
            chunk = self._load.chunk
            self._read(started[first : first + chunk] for first in range(0, len(started), chunk))
            if waits:
                self._read(self._take_put_off())  # it may wait for some of these
        else:
            self._unread.extend(started)
            for _ in started[: self._load.threads]:  # a task for each picture costs more
                self._pool.submit(self._fetch_all, self._load)
        return lease

    def again(self, lease: Lease) -> None:
        """Read what there was no memory for; `ready` is called again, also if it was called."""
        with self._lock:
            lease.error = self._error
            complete = lease.missing == 0 or lease.error is not None
        if complete:
            lease.ready(lease)
        self._read(self._take_put_off())

    def settled(self, lease: Lease) -> bool:
        """Whether all pictures of a lease are there, or its error.

        `ready` alone does not say: called for an error, it may come after `again`.
        """
        with self._lock:
            return lease.missing == 0 or lease.error is not None

    def _take_put_off(self) -> list[list[int]]:
        with self._lock:
            chunks, self._put_off = self._put_off, []
        return chunks

    def _read(self, chunks: Iterable[list[int]]) -> None:
        for chunk in chunks:
            self._pool.submit(self._fetch_chunk, self._load, chunk)

    def pixels(self, lease: Lease) -> list[Any]:
        """Pictures of a lease whose `ready` was called, as they were read."""
        return [self._pictures[image].pixels for image in lease.images.tolist()]

    def pointers(self, lease: Lease) -> npt.NDArray[np.uint64]:
        """Addresses (U,) of the pictures of a lease whose `ready` was called."""
        addresses = [
            p.ctypes.data if isinstance(p, np.ndarray) else p.data_ptr() for p in self.pixels(lease)
        ]
        return np.array(addresses, dtype=np.uint64)

    def release(self, lease: Lease) -> None:
        """Give pictures back; nothing may read them through this lease any more."""
        with self._lock:
            if self._closed:
                return
            for image in lease.images.tolist():
                self._pictures[image].users -= 1
            self._evict()
            if len(self._oldest) > 2 * len(self._pictures) + 1024:  # mostly outdated
                self._oldest = [(p.age, image) for image, p in self._pictures.items()]
                heapify(self._oldest)

    def close(self) -> None:
        """Stop reading; waits for pictures being read just now. Those that were read stay."""
        self._closed = True
        self._asker.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(self._load, BatchLoad):
            self._load.close()

    def forget(self) -> None:
        """Free the memory of a closed store, once nobody renders from it any more."""
        self._pictures.clear()
        self._free.clear()

    def _evict(self) -> None:
        busy: list[tuple[int, int]] = []
        while len(self._pictures) > self._load.capacity and self._oldest:
            age, image = heappop(self._oldest)
            picture = self._pictures.get(image)
            if picture is None or picture.age != age:
                continue  # outdated: gone, or younger since
            if picture.users or picture.pixels is None:
                busy.append((age, image))
                if len(busy) == 1024:  # everything old is in use: try again later
                    break
                continue
            del self._pictures[image]
            if self._load.recycle:
                self._free.append(picture.pixels)
        for entry in busy:
            heappush(self._oldest, entry)

    def _fetch_all(self, load: Load) -> None:
        while not self._closed:
            try:
                image = self._unread.popleft()
            except IndexError:
                return
            self._fetch(load, image)

    def _fetch(self, load: Load, image: int) -> None:
        start = time.perf_counter()
        with self._lock:
            memory = self._free.pop() if self._free else None
        why = ""
        try:
            pixels = load.read(image, memory)
        except Exception as error:  # any broken file: the run goes on without it
            height, width = load.size(image)
            pixels = np.full(height * width * 3, FILL, np.uint8)
            why = str(error) or type(error).__name__
        self._telemetry.add("decode", time.perf_counter() - start)
        self._store([image], [(pixels, why)])

    def _fetch_chunk(self, load: Load | BatchLoad, images: list[int]) -> None:
        assert isinstance(load, BatchLoad)
        if self._closed:
            return
        with self._telemetry.time("decode"):
            try:
                pictures = load.read(images)
            except BaseException as error:  # it substitutes what is broken: this is no such thing
                self._fail(images, error.with_traceback(None))  # whose frames hold pictures
                return
        self._store(images, pictures)

    def _store(self, images: list[int], pictures: Sequence[tuple[Any, str]]) -> None:
        finished: list[Lease] = []
        with self._lock:
            for image, (pixels, why) in zip(images, pictures, strict=True):
                if why:
                    self.bad.setdefault(image, why)
                picture = self._pictures[image]
                picture.pixels = pixels
                for lease in picture.waiting:
                    lease.missing -= 1
                    if why:
                        lease.bad.add(image)
                    if lease.missing == 0:
                        lease.error = None
                        finished.append(lease)
                picture.waiting.clear()
        for lease in finished:
            lease.ready(lease)

    def _fail(self, images: list[int], error: BaseException) -> None:
        with self._lock:
            if is_out_of_memory(error):
                self._put_off.append(images)
            else:
                self._error = error
            waiting = [lease for image in images for lease in self._pictures[image].waiting]
            for lease in waiting:
                lease.error = error
        for lease in dict.fromkeys(waiting):
            lease.ready(lease)
