"""Who opens a row: the table of loaders and ceilings. Nothing that it names imports it."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from yolodata.bench.subject import Row, Subject, Task
from yolodata.errors import ConfigError

# By the kind of a row. Modules import torch: they are imported where it is measured.
KINDS = {
    "ultralytics": "yolodata.bench.loader_ultralytics:open_loader",
    "yolodata": "yolodata.bench.loader_yolodata:open_loader",
    "copy": "yolodata.bench.ceilings:open_copy",
    "scaling": "yolodata.bench.scaling:open_loader",
    "memory": "yolodata.bench.scaling:open_memory",
    "gpu-copy": "yolodata.bench.ceilings:DeviceCopy",
    "gpu-kernel": "yolodata.bench.kernel:Kernel",
    "gpu-decode": "yolodata.bench.ceilings:open_decoder",
    "peer-dali": "yolodata.bench.peers.dali:open_loader",
    "peer-torchvision": "yolodata.bench.peers.torchvision:open_loader",
    "peer-albumentations": "yolodata.bench.peers.albumentations:open_loader",
    "peer-libreyolo": "yolodata.bench.peers.libreyolo:open_loader",
    "peer-litdata": "yolodata.bench.peers.litdata:open_loader",
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
