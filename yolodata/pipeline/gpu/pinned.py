"""Page-locked host memory, as much as is asked for, and given back when it is forgotten.

torch's own rounds up to a power of two (the 157 MB of 128 pictures are 268) and keeps for good what
was freed. But torch knows which copies from its memory are under way; whoever forgets this one must
know that the device has read it. Batches in host memory, which users copy themselves, are torch's.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from yolodata.pipeline.fork_safety import finalize
from yolodata.topology import touch

if TYPE_CHECKING:
    import torch


def page_locked(
    nbytes: int,
    lock: Callable[[int, int], int],
    unlock: Callable[[int], None],
    near: Collection[int] = (),
) -> torch.Tensor:
    """Allocates uint8 (nbytes,), zeros, at the beginning of a page that is its own.

    Args:
        nbytes: how much, 1 at least.
        lock, unlock, near: see `yolodata.pipeline.gpu.stream.Stream`.

    Raises:
        RuntimeError: the memory cannot be locked, or has another address on the device.
    """
    import torch

    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Else a fork could leave the old page to the device, and a copy of it to the parent who writes.
    memory.madvise(mmap.MADV_DONTFORK)
    owner = np.frombuffer(memory, np.uint8)
    address = owner.ctypes.data
    if near:  # locking touches the pages that are not there yet, from this thread
        touch(owner, near)
    # Locked read-only where the driver can: the device reads, the host writes.
    device = lock(address, nbytes)
    freed = finalize(owner, unlock, address)  # is called before `memory` is unmapped
    freed.atexit = False  # the device may be reading, and the driver frees everything
    if device != address:
        freed()
        raise RuntimeError("locked memory has another address on the device")
    return torch.from_numpy(owner)
