"""Decoded source images: kept after they are read, while others are older."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import is_out_of_memory
from yolodata.telemetry import Telemetry

Bytes = npt.NDArray[np.uint8]

Read = Callable[[list[int], "list[Bytes]"], "Sequence[tuple[Any, str]]"]
"""(images, memory to use again) to, for each image, its pixels and why they are only grey, or "".

Pixels are an array of host memory, or something on a device with `data_ptr()`. What this raises is
no broken image, but that reading does not work, or that a device has no memory.
"""


@dataclass(frozen=True)
class ImageSource:
    """How images get into memory.

    Attributes:
        read: reads some images; called by several threads at once.
        threads: that call it.
        capacity: images to keep besides those in use.
        chunk: images of one call at most.
        refresh: every use, not only the first one, makes an image young again.
        recycle: `read` uses memory again.
        close: stops what `read` needs.
        begin: what each thread does first.
    """

    read: Read
    threads: int
    capacity: int
    chunk: int = 1
    refresh: bool = False
    recycle: bool = False
    close: Callable[[], None] = lambda: None
    begin: Callable[[], None] | None = None


@dataclass(eq=False)
class _Image:
    age: int
    pixels: Any = None
    users: int = 0
    waiting: list[Lease] = field(default_factory=list)


@dataclass(eq=False)
class Lease:
    """Images that one batch needs; they stay in memory until `ImageCache.release`."""

    images: npt.NDArray[np.int64]  # sorted, unique
    ready: Callable[[Lease], None]  # called by any thread when all are there, or `error`
    missing: int = 0
    unreadable: set[int] = field(default_factory=set)
    error: BaseException | None = None  # why they are not there; see `ImageCache.again`


class ImageCache:
    """Decoded images, each read once and kept until `capacity` others are younger.

    `acquire` never blocks: it starts what is missing on the reading threads. An image that cannot
    be read becomes grey, and is named in the lease and in `unreadable`. Images for which a device
    has no memory just now are put off: their leases get the error, and may ask `again`.

    Args:
        source: how images are read.
        telemetry: counts "decodes" and "hits", and adds up seconds of "decode".

    Attributes:
        unreadable: images that cannot be read, and why.
    """

    def __init__(self, source: ImageSource, telemetry: Telemetry) -> None:
        self.unreadable: dict[int, str] = {}
        self._telemetry = telemetry
        self._source = source
        self._lock = threading.Lock()
        self._images: dict[int, _Image] = {}
        self._oldest: list[tuple[int, int]] = []  # heap of (age, image), possibly outdated
        self._free: list[Bytes] = []
        self._unread: deque[list[int]] = deque()
        self._put_off: list[list[int]] = []  # chunks that there was no memory for
        self._pool = ThreadPoolExecutor(source.threads, "yolodata-read", source.begin)
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="yolodata-ask")
        self._closed = False
        self._error: BaseException | None = None  # reading itself failed: nothing comes any more

    def ask(self, action: Callable[[], None]) -> None:
        """Carries out what acquires images, to its end, also if the caller is interrupted.

        Ctrl-C strikes the main thread alone. In the middle of `acquire` it would leave images
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
        """Asks for images.

        Args:
            images: sorted, unique dataset indexes.
            ready: called when all are there, maybe before this returns; or when `error` is set.
            age: place of this batch in the stream; larger is younger.
            bases: images whose turn it is now, which makes them as young as this batch.

        Raises:
            whatever an earlier `ImageSource.read` raised.
        """
        if self._error is not None:
            raise self._error
        lease = Lease(images, ready)
        started: list[int] = []
        with self._lock:
            for image in images.tolist():
                held = self._images.get(image)
                if held is None:
                    held = self._images[image] = _Image(age)
                    heappush(self._oldest, (age, image))
                    started.append(image)
                elif held.age < age and (self._source.refresh or image in bases):
                    held.age = age
                    heappush(self._oldest, (age, image))
                held.users += 1
                if held.pixels is None:
                    held.waiting.append(lease)
                    lease.missing += 1
                elif image in self.unreadable:
                    lease.unreadable.add(image)
            waits = lease.missing > 0
        self._telemetry.count("decodes", len(started))
        self._telemetry.count("hits", len(lease.images) - len(started))
        if not waits:
            ready(lease)
        chunk = self._source.chunk
        self._start(started[first : first + chunk] for first in range(0, len(started), chunk))
        if waits:
            self._start(self._take_put_off())  # it may wait for some of these
        return lease

    def again(self, lease: Lease) -> None:
        """Reads what there was no memory for; `ready` is called again, also if it was called."""
        with self._lock:
            lease.error = self._error
            complete = lease.missing == 0 or lease.error is not None
        if complete:
            lease.ready(lease)
        self._start(self._take_put_off())

    def settled(self, lease: Lease) -> bool:
        """Returns whether all images of a lease are there, or its error.

        `ready` alone does not say: called for an error, it may come after `again`.
        """
        with self._lock:
            return lease.missing == 0 or lease.error is not None

    def _take_put_off(self) -> list[list[int]]:
        with self._lock:
            chunks, self._put_off = self._put_off, []
        return chunks

    def _start(self, chunks: Iterable[list[int]]) -> None:
        started = list(chunks)
        self._unread.extend(started)
        for _ in started[: self._source.threads]:  # a task for each chunk costs more
            self._pool.submit(self._read_all)

    def pixels(self, lease: Lease) -> list[Any]:
        """Returns the images of a lease whose `ready` was called, as they were read."""
        return [self._images[image].pixels for image in lease.images.tolist()]

    def pointers(self, lease: Lease) -> npt.NDArray[np.uint64]:
        """Returns addresses (U,) of the images of a lease whose `ready` was called."""
        addresses = [
            p.ctypes.data if isinstance(p, np.ndarray) else p.data_ptr() for p in self.pixels(lease)
        ]
        return np.array(addresses, dtype=np.uint64)

    def release(self, lease: Lease) -> None:
        """Gives images back; nothing may read them through this lease any more."""
        with self._lock:
            if self._closed:
                return
            for image in lease.images.tolist():
                self._images[image].users -= 1
            self._evict()
            if len(self._oldest) > 2 * len(self._images) + 1024:  # mostly outdated
                self._oldest = [(p.age, image) for image, p in self._images.items()]
                heapify(self._oldest)

    def close(self) -> None:
        """Stops reading; waits for images being read just now. Those that were read stay."""
        self._closed = True
        self._asker.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._source.close()

    def forget(self) -> None:
        """Frees the memory of a closed cache, once nobody renders from it any more."""
        self._images.clear()
        self._free.clear()

    def _evict(self) -> None:
        busy: list[tuple[int, int]] = []
        while len(self._images) > self._source.capacity and self._oldest:
            age, image = heappop(self._oldest)
            held = self._images.get(image)
            if held is None or held.age != age:
                continue  # outdated: gone, or younger since
            if held.users or held.pixels is None:
                busy.append((age, image))
                if len(busy) == 1024:  # everything old is in use: try again later
                    break
                continue
            del self._images[image]
            if self._source.recycle:
                self._free.append(held.pixels)
        for entry in busy:
            heappush(self._oldest, entry)

    def _read_all(self) -> None:
        while not self._closed:
            try:
                images = self._unread.popleft()
            except IndexError:
                return
            self._read(images)

    def _read(self, images: list[int]) -> None:
        start = time.perf_counter()
        with self._lock:
            memory = [self._free.pop() for _ in images[: len(self._free)]]
        try:
            pictures = self._source.read(images, memory)
        except BaseException as error:  # it substitutes what is broken: this is no such thing
            self._fail(images, error.with_traceback(None))  # whose frames hold images
            return
        finally:
            self._telemetry.add("decode", time.perf_counter() - start)
        self._store(images, pictures)

    def _store(self, images: list[int], pictures: Sequence[tuple[Any, str]]) -> None:
        finished: list[Lease] = []
        with self._lock:
            for image, (pixels, why) in zip(images, pictures, strict=True):
                if why:
                    self.unreadable.setdefault(image, why)
                held = self._images[image]
                held.pixels = pixels
                for lease in held.waiting:
                    lease.missing -= 1
                    if why:
                        lease.unreadable.add(image)
                    if lease.missing == 0:
                        lease.error = None
                        finished.append(lease)
                held.waiting.clear()
        for lease in finished:
            lease.ready(lease)

    def _fail(self, images: list[int], error: BaseException) -> None:
        with self._lock:
            if is_out_of_memory(error):
                self._put_off.append(images)
            else:
                self._error = error
            waiting = [lease for image in images for lease in self._images[image].waiting]
            for lease in waiting:
                lease.error = error
        for lease in dict.fromkeys(waiting):
            lease.ready(lease)
