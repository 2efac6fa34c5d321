"""Notes in the run's journal how long a start took: what an interruption costs beside lost work."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch

from yolodata.telemetry.journal import Journal
from yolodata.train.distributed.process_group import ProcessGroup


class StartNote:
    """A callback of `on_train_batch_end` that notes the first batch.

    Args:
        journal: of the run.
        ranks: that train.
        resumed: the run goes on from a checkpoint.
    """

    def __init__(self, journal: Journal, ranks: ProcessGroup, resumed: bool) -> None:
        self._journal, self._ranks, self._resumed = journal, ranks, resumed
        self._noted = False

    def __call__(self, trainer: Any) -> None:
        """A step has ended."""
        if self._noted:
            return
        self._noted = True
        device, ranks = trainer.device, self._ranks
        self._journal.add(
            "start",
            resumed=self._resumed,
            after_s=round(time.time() - psutil.Process().create_time(), 3),
            ranks=ranks.size,
            ranks_a_machine=ranks.local_size,
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        )
