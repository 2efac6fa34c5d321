"""Memory of batches in host memory, used again.

Note [fresh memory is slow]. A batch of 16 pictures is 20 MB. The allocator takes it from the
operating system anew and gives it back each time: 4,600 page faults, measured at 0.7 ms a picture,
about as much as rendering it.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolodata.machine import fresh_memory

if TYPE_CHECKING:
    import torch

Bytes = npt.NDArray[np.uint8]
_LINE = 64  # bytes of a cache line: rows that begin at one can be written past the caches


class BufferPool:
    """Hands out uint8 tensors (B, 3, H, W), and takes their memory back when they are forgotten.

    A tensor is made from an array of its own over the memory. The array lives as long as any view
    of the tensor, in Python or in C++; when it dies, the memory is idle.

    Args:
        spare: how many idle buffers to keep, besides the one that is handed out next.
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
        self._allocate = allocate or fresh_memory
        self._idle: deque[Bytes] = deque()  # the longest idle first; any thread appends

    def take(self, count: int, height: int, width: int) -> torch.Tensor:
        """Returns memory for `count` pictures, uninitialised; the caller's until forgotten."""
        import torch

        shape = (count, 3, height, width)
        if self._pin:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        need = math.prod(shape)
        memory = self._fitting(need)
        if memory is None:
            memory = self._allocate(need + _LINE)
        # Of the buffer, not of the array: NumPy's views of views refer to the array beneath.
        owner = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(owner, self._idle.append, memory).atexit = False
        start = -owner.ctypes.data % _LINE
        return torch.from_numpy(owner[start : start + need].reshape(shape))

    def _fitting(self, need: int) -> Bytes | None:
        """Takes the smallest idle buffer that is large enough, and forgets those beyond `spare`."""
        idle = [self._idle.popleft() for _ in range(len(self._idle))]
        fitting = [i for i, m in enumerate(idle) if need + _LINE <= m.nbytes <= 2 * need + _LINE]
        found = idle.pop(min(fitting, key=lambda i: idle[i].nbytes)) if fitting else None
        self._idle.extendleft(reversed(idle[max(0, len(idle) - self._spare) :]))
        return found

    def clear(self) -> None:
        """Frees what is idle; the rest is freed when it is forgotten."""
        self._idle = deque()
