"""Who opens what: a new loader is a new row in `rows` and a new entry here, nothing else."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from yolodata.bench.subject import Row, Subject, Task
from yolodata.errors import ConfigError

# By kind of row; modules are imported in the process that measures, since they import torch.
KINDS = {
    "ultralytics": "yolodata.bench.loader_ultralytics:open_loader",
    "yolodata": "yolodata.bench.loader_yolodata:open_loader",
    "copy": "yolodata.bench.copy_bound:open_copy",
    "gpu-copy": "yolodata.bench.copy_bound:DeviceCopy",
    "gpu-kernel": "yolodata.bench.kernel:Kernel",
    "gpu-decode": "yolodata.bench.decoding:open_decoder",
}
IN_TRAINER = {
    "ultralytics": "yolodata.bench.loader_ultralytics:open_in_trainer",
    "yolodata": "yolodata.bench.loader_yolodata:open_in_trainer",
    "fixed": "yolodata.bench.loader_yolodata:open_fixed",
}


def make(row: Row, task: Task, *trainer: Any) -> Subject:
    """Build what a row measures; rows that train are given their trainer.

    Raises:
        ConfigError: nobody knows the row's kind.
    """
    kinds = IN_TRAINER if trainer else KINDS
    if row.kind not in kinds:
        raise ConfigError(f"row {row.id!r} is of kind {row.kind!r}; kinds are {', '.join(kinds)}")
    subject: Subject = resolve_name(kinds[row.kind])(row, task, *trainer)
    return subject
