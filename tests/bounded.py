"""A block that may take so much memory and so many seconds, and no more."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

_TIMERS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_REAL: signal.SIGALRM}


class TakesTooLong(BaseException):
    """No Exception, which readers of files catch, to say that a file is damaged."""


@contextlib.contextmanager
def bounded(memory: int = 2 << 30, seconds: float = 10) -> Iterator[None]:
    """Ends a block by MemoryError or TakesTooLong where it takes more.

    Args:
        memory: bytes of addresses beyond those that the process has, which are more than it
            touches: a thread alone reserves some 100 MB.
        seconds: of this process on the processors, and six times as many of wall time.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {number: signal.signal(number, _late) for number in _TIMERS.values()}
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, before[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
    try:
        yield
    finally:
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _late(*_: object) -> None:
    raise TakesTooLong
