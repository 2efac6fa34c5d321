"""Memory with nothing behind it: whoever reads or writes on ends by a signal.

NumPy's own arrays lie among others, where a few bytes too many are not seen.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

_LIBC = ctypes.CDLL(None, use_errno=True)


def guarded(nbytes: int) -> NDArray[np.uint8]:
    """Zeros (nbytes,) whose last byte is the last one before a page that nobody may touch."""
    room = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, room + mmap.PAGESIZE)
    whole = np.frombuffer(pages, np.uint8)
    behind = ctypes.c_void_p(whole.ctypes.data + room)
    if _LIBC.mprotect(behind, ctypes.c_size_t(mmap.PAGESIZE), 0):  # PROT_NONE
        raise OSError(ctypes.get_errno(), "mprotect")
    return whole[room - nbytes : room]


def guarded_bytes(data: bytes) -> NDArray[np.uint8]:
    """The same with what some bytes hold."""
    copy = guarded(len(data))
    copy[:] = np.frombuffer(data, np.uint8)
    return copy
