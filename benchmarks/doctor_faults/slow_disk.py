"""A disk far away: a folder's files through FUSE, with a latency for each read and a shared link.

The kernel caches what was read, as it does for any disk, so a file is slow once. Requests overlap,
each with a latency of its own; their bytes share one link. Names and sizes are free: a network
file system has them from listing the folder.
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

LOOKUP, FORGET, GETATTR, READ, STATFS, INIT, READDIR = 1, 2, 3, 15, 17, 26, 28
INTERRUPT, DESTROY, BATCH_FORGET = 36, 38, 42
WITHOUT_ANSWER = (FORGET, BATCH_FORGET, INTERRUPT)
ASYNC_READ, NO_OPEN, PARALLEL_DIROPS, NO_OPENDIR = 1 << 0, 1 << 17, 1 << 18, 1 << 24
LONG = 3600  # seconds for which the kernel may keep names and sizes
ROOT = 1
READ_ONLY = 0x1 | 0x2 | 0x4  # MS_RDONLY | MS_NOSUID | MS_NODEV
DETACH = 2  # MNT_DETACH
PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
NEW_MOUNTS = 0x20000  # CLONE_NEWNS
KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@contextmanager
def slow(folder: Path, latency_ms: float, mb_s: float) -> Iterator[None]:
    """Makes reading the files of a folder slow while the context lasts; it must hold only files.

    Args:
        folder: is covered by a mount of itself, with nothing in the kernel's cache.
        latency_ms: milliseconds from each request for data (128 KiB at most) to its answer.
        mb_s: megabytes a second of all requests together.

    Raises:
        OSError: there is no /dev/fuse, or this process may not mount.
    """
    _own_mounts()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    source = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        _call("mount", b"disk", os.fsencode(folder), b"fuse", READ_ONLY, options)
        server = subprocess.Popen(
            [sys.executable, __file__, str(device), str(source), str(latency_ms), str(mb_s)],
            pass_fds=(device, source),
        )
    finally:
        # The server alone has them: if it ends, reads fail, and nobody waits for an answer.
        os.close(source)
        os.close(device)
    try:
        yield
    finally:
        _call("umount2", os.fsencode(folder), DETACH)
        server.terminate()
        server.wait()


@cache
def _own_mounts() -> None:
    """Has this process and its children see mounts of their own, which end with the last of them.

    Also when it is killed, nothing stays mounted.
    """
    _call("unshare", NEW_MOUNTS)
    _call("mount", b"none", b"/", None, PRIVATE, None)


def _call(name: str, *arguments: bytes | int | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}; a throttled disk needs root")


class Server:
    """Answers the kernel's requests, in FUSE's protocol 7.31.

    Args:
        device: /dev/fuse, opened and mounted.
        source: the folder, opened before it was covered.
        latency_ms: see `slow`.
        mb_s: see `slow`.
    """

    def __init__(self, device: int, source: int, latency_ms: float, mb_s: float) -> None:
        self._device, self._source = device, source
        self._latency, self._bytes_s = latency_ms / 1e3, mb_s * 1e6
        self._link_free = 0.0  # when the link has sent all that was asked for
        self._due: list[tuple[float, int, bytes]] = []  # (time, request, answer)
        self._changed = threading.Condition()
        self._names = sorted(os.listdir(source))
        self._node = {name: number for number, name in enumerate(self._names, ROOT + 1)}
        self._open: dict[int, int] = {}

    def run(self) -> None:
        """Serves until the folder is unmounted."""
        threading.Thread(target=self._send, daemon=True).start()
        while True:
            try:
                request = os.read(self._device, 1 << 20)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # ENODEV: unmounted
            _, kind, number, node = struct.unpack_from("<IIQQ", request)
            if kind in WITHOUT_ANSWER:
                continue
            try:
                answer, when = self._answer(kind, node, request[40:])
                self._queue(when, number, struct.pack("<IiQ", 16 + len(answer), 0, number) + answer)
            except OSError as error:
                self._queue(0.0, number, struct.pack("<IiQ", 16, -(error.errno or 5), number))

    def _queue(self, when: float, number: int, answer: bytes) -> None:
        if when == 0.0:
            self._write(answer)
            return
        with self._changed:
            heapq.heappush(self._due, (when, number, answer))
            self._changed.notify()

    def _send(self) -> None:
        """Sends answers when they are due."""
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    left = self._due[0][0] - time.monotonic() if self._due else None
                    self._changed.wait(left if left is None else max(left, 0.0))
                _, _, answer = heapq.heappop(self._due)
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        try:
            os.write(self._device, answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # who asked was interrupted
                raise

    def _answer(self, kind: int, node: int, body: bytes) -> tuple[bytes, float]:
        """Returns the answer and the time at which it is due; 0 is at once."""
        if kind == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            data = os.pread(self._file(node), size, offset)
            begin = max(time.monotonic(), self._link_free)
            self._link_free = begin + len(data) / self._bytes_s
            return data, self._link_free + self._latency
        if kind == INIT:
            _, _, readahead, offered = struct.unpack_from("<IIII", body)
            flags = offered & (ASYNC_READ | NO_OPEN | PARALLEL_DIROPS | NO_OPENDIR)
            background = (256, 192)  # requests under way
            head = struct.pack("<IIIIHHIIHH", 7, 31, readahead, flags, *background, 4096, 1, 0, 0)
            return head + bytes(64 - len(head)), 0.0
        if kind == LOOKUP:
            found = self._node.get(os.fsdecode(body.rstrip(b"\0")), 0)
            attributes = self._attributes(found) if found else bytes(88)
            return struct.pack("<QQQQII", found, 0, LONG, LONG, 0, 0) + attributes, 0.0
        if kind == GETATTR:
            return struct.pack("<QII", LONG, 0, 0) + self._attributes(node), 0.0
        if kind == READDIR:
            _, offset, size = struct.unpack_from("<QQI", body)
            return self._entries(offset, size), 0.0
        if kind == STATFS:
            return struct.pack("<QQQQQIII", 1 << 30, 1 << 29, 1 << 29, 0, 0, 4096, 255, 4096) + (
                bytes(24)
            ), 0.0
        if kind == DESTROY:
            return b"", 0.0
        raise OSError(errno.ENOSYS, "not needed: the kernel does without")

    def _file(self, node: int) -> int:
        """A descriptor of the file; a few stay open."""
        if node not in self._open:
            if len(self._open) >= 64:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[node] = os.open(self._names[node - 2], os.O_RDONLY, dir_fd=self._source)
        return self._open[node]

    def _attributes(self, node: int) -> bytes:
        if node == ROOT:
            found = os.stat(self._source)
        else:
            found = os.stat(self._names[node - 2], dir_fd=self._source)
        # To the nanosecond: Ultralytics' cache of labels is of files with these times.
        times = [
            divmod(ns, 10**9) for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        ]
        seconds, rest = zip(*times, strict=True)
        owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid)
        return struct.pack(
            "<QQQQQQIIIIIIIIII",
            node, found.st_size, found.st_blocks, *seconds, *rest, *owner, 0, 4096, 0,
        )  # fmt: skip

    def _entries(self, offset: int, size: int) -> bytes:
        made = b""
        for place in range(offset, len(self._names)):
            name = os.fsencode(self._names[place])
            kind = stat.S_IFREG >> 12
            entry = struct.pack("<QQII", place + 2, place + 1, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(made) + len(entry) > size:
                break
            made += entry
        return made


if __name__ == "__main__":
    _call("prctl", KILLED_WITH_PARENT, signal.SIGKILL)
    Server(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])).run()
