"""What a forked child does with threads and devices of its parent: nothing.

Threads do not survive a fork, a lock that one of them held is held for ever, and CUDA ends a child
that calls it. A child must therefore neither close what the parent opened nor free it: memory of a
device, events and page-locked memory ask the driver when they are freed.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any

from yolodata.errors import ConfigError


def finalize(owner: object, close: Callable[..., Any], *args: Any) -> weakref.finalize[Any, Any]:
    """Makes a `weakref.finalize` that does nothing in a forked child.

    There, `close` and `args`, and with them what they refer to, live as long as the process.
    """
    return weakref.finalize(owner, _close, os.getpid(), close, args)


def _close(process: int, close: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if os.getpid() == process:
        close(*args)
    else:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object((close, args)))  # never freed, at exit neither


def check_process(process: int) -> None:
    """Raises ConfigError where a loader made in `process` is used in another one."""
    if os.getpid() != process:
        raise ConfigError(
            f"the loader was made in process {process} and is used in {os.getpid()}; native "
            "threads do not survive a fork: make the loader in the process that uses it"
        )
