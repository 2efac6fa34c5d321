"""Memory whose pages come late, as those of a file on slow storage do (Linux: userfaultfd)."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import struct
import threading
import time

import numpy as np
import numpy.typing as npt
import pytest

_CALL = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
_API, _REGISTER, _ZERO = 0xC018AA3F, 0xC020AA00, 0xC020AA04


def slow_memory(nbytes: int, seconds: float) -> npt.NDArray[np.uint8]:
    """Zeros; whoever reads one first waits so long, and has all of them then."""
    size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    flags = os.O_CLOEXEC | _USER_MODE_ONLY
    handle = ctypes.CDLL(None).syscall(_CALL.get(platform.machine(), -1), flags)
    if handle < 0:
        pytest.skip("userfaultfd is not allowed here")
    fcntl.ioctl(handle, _API, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
    whole = memory.ctypes.data, size
    fcntl.ioctl(handle, _REGISTER, bytearray(struct.pack("QQQQ", *whole, 1, 0)))

    def serve() -> None:
        os.read(handle, 32)  # the first fault
        time.sleep(seconds)
        fcntl.ioctl(handle, _ZERO, bytearray(struct.pack("QQQq", *whole, 0, 0)))

    threading.Thread(target=serve, daemon=True).start()
    return memory
