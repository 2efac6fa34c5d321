"""A block that may take so much memory and so many seconds, and no more."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def bounded(memory: int = 2 << 30, seconds: float = 10) -> Iterator[None]:
    """Ends a block by MemoryError or TimeoutError where it takes more.

    Args:
        memory: bytes of addresses beyond those that the process has, which are more than it
            touches: a thread alone reserves some 100 MB.
        seconds: of wall time. What waits in a system call is interrupted, too.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, before[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def _late(*_: object) -> None:
    raise TimeoutError("the block takes too long")
