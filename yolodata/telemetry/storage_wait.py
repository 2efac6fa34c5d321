"""How long a thread stands still because it reads from storage."""

from __future__ import annotations

import time

try:
    import resource

    _OF_THREAD: int | None = getattr(resource, "RUSAGE_THREAD", None)
except ImportError:  # not a Unix
    _OF_THREAD = None


class StorageWait:
    """Of the thread that makes it, from then on; see csrc/engine/storage_wait.h.

    Args:
        mapped: a page of a mapped file that is not in memory is a major fault, and only time with
            such a fault counts. False counts all time without the processor: the file is read by
            calls, which wait.
    """

    def __init__(self, mapped: bool) -> None:
        self._mapped = mapped
        self._faults = _faults() if mapped else 0
        self._processor = time.thread_time()

    def of(self, seconds: float) -> float | None:
        """Returns how many of the `seconds` since were spent waiting.

        None where the system does not tell.
        """
        if self._mapped:
            if _OF_THREAD is None:
                return None
            if _faults() == self._faults:
                return 0.0
        return max(0.0, seconds - (time.thread_time() - self._processor))


def _faults() -> int:
    return 0 if _OF_THREAD is None else resource.getrusage(_OF_THREAD).ru_majflt
