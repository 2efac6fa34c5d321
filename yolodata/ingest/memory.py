"""Keep the memory of pictures that come and go.

glibc gives a freed megabyte back to the system, and the next picture faults it in again page by
page, in every thread at once: measured on two cores, a tenth of the time of a decode. Elsewhere
than on glibc, these functions do nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt
_LARGE = 32 << 20  # the largest that glibc's own adaptation reaches
_NEVER = (1 << 31) - 1
ENVIRONMENT = {  # the same, for a process that is to be started
    "MALLOC_MMAP_THRESHOLD_": str(_LARGE),
    "MALLOC_TRIM_THRESHOLD_": str(_NEVER),
}


def keep() -> None:
    """Let the allocator keep what is freed, until `give_back`."""
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)


def give_back() -> None:
    """Return what is free, and leave the thresholds where glibc's own adaptation ends."""
    library = _glibc()
    if library is not None:
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
        library.malloc_trim(0)


def _glibc() -> Any:
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None
