"""Who may use a loader: one process, and one of its threads at a time. Others are told so."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import NoReturn, SupportsIndex

from yolodata.errors import ArgumentError, ConfigError
from yolodata.pipeline.fork_safety import check_process


class Owner:
    """Entered around whatever moves the place in the stream, or uses the memory of batches.

    The thread that is inside may enter again: what is called for an error may reset the loader.

    Raises:
        ConfigError: on entering, in another process, or while another thread is inside.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        check_process(self.process)
        if not self._lock.acquire(blocking=False):
            raise ConfigError(
                "the loader is used by another thread at this moment, and both would get the same "
                "batch; one thread at a time may use it: hold a lock around each use, or give each "
                "thread a loader of its own (ranks=Ranks(rank, world_size) shares out the images)"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


class NotCopied:
    """What neither `pickle` nor `copy` may copy; they are told what to do instead."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raises ArgumentError, which is a TypeError: that is what pickle's callers expect."""
        raise ArgumentError(
            f"{type(self).__name__} cannot be pickled or copied: its threads and its memory "
            "belong to one process; pass on what it is made of (the path of the shards, "
            "batch_size, the options), and make the loader in the process that uses it; the place "
            "in the stream goes along as state_dict()"
        )
