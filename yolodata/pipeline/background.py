"""A thread for what need not be done between two steps of training.

Note [not an executor]. Asking a `ThreadPoolExecutor` and looking whether it is done costs the
asking thread about 100 us where its caches hold a training step; two queues cost a tenth of that.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from yolodata.pipeline.fork_safety import check_process, finalize

Call = Callable[[], Any]


class Background:
    """A thread that calls one function at a time; it ends with this object, or with the process.

    Belongs to the process that made it, and is used by one thread at a time.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._ends: SimpleQueue[None] = SimpleQueue()
        self._end: weakref.finalize[Any, Background] | None = None
        self._busy = False
        self._process = os.getpid()

    def begin(self, call: Call) -> None:
        """Have the thread call a function; what it raises is forgotten. Settle first."""
        assert not self._busy
        if self._end is None or not self._end.alive:
            thread = threading.Thread(
                target=_serve, args=(self._calls, self._ends), name="yolodata-ahead", daemon=True
            )
            thread.start()
            self._end = finalize(self, _end, thread, self._calls)
        self._busy = True
        self._calls.put(call)

    def settle(self) -> None:
        """Wait until the function has returned; may be interrupted (Ctrl-C) and called again.

        Raises:
            ConfigError: in a forked child, where it would never return.
        """
        if os.getpid() != self._process:
            check_process(self._process)
        if self._busy:
            self._ends.get()
            self._busy = False

    def close(self) -> None:
        """End the thread, after the function that it may be calling."""
        self.settle()
        if self._end is not None:
            self._end()


def _serve(calls: SimpleQueue[Call | None], ends: SimpleQueue[None]) -> None:
    while (call := calls.get()) is not None:
        with contextlib.suppress(BaseException):
            call()
        ends.put(None)
        call = None  # or it would be kept alive until the next one; may finalize who waits for it


def _end(thread: threading.Thread, calls: SimpleQueue[Call | None]) -> None:
    calls.put(None)
    if thread is not threading.current_thread():  # whose call had the last reference to its owner
        thread.join()
