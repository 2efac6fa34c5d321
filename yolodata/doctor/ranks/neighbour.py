"""A second rank beside this one, on the same machine: what a step takes over a link like that."""

from __future__ import annotations

import queue
import threading
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]


class Neighbour:
    """A thread that is the other one of two ranks, over the loopback interface; it only adds.

    Raises:
        RuntimeError: this machine has no loopback interface, or it is down.
    """

    def __init__(self) -> None:
        self._sizes: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._store = HashStore()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        _device()  # says so here if there is none
        self._thread.start()
        self._pair = self._connect(0)

    def mean(self, gradients: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
        """Returns the mean over the two ranks, once it is there; in the tensor's own memory."""
        self._sizes.put(gradients.numel())
        work = self._pair.allreduce([gradients])
        mean: torch.futures.Future[torch.Tensor] = work.get_future().then(
            lambda done: done.value()[0].div_(2)
        )
        return mean

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Adds the other rank's tensor, which holds zeros."""
        self._sizes.put(tensor.numel())
        self._pair.allreduce([tensor]).wait()

    def close(self) -> None:
        """Ends the thread."""
        self._sizes.put(-1)
        self._thread.join(timeout=30)

    def _connect(self, rank: int) -> Any:
        options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timedelta(seconds=30)
        options._devices = [_device()]
        return dist.ProcessGroupGloo(self._store, rank, 2, options)

    def _answer(self) -> None:
        pair = self._connect(1)
        while (size := self._sizes.get()) >= 0:
            pair.allreduce([torch.zeros(size)]).wait()


def _device() -> Any:
    return dist.ProcessGroupGloo.create_device(interface="lo")
