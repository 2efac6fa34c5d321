from pathlib import Path
from typing import Any

import torch
from ultralytics.engine.trainer import BaseTrainer, Batches
from ultralytics.utils import IterableSimpleNamespace

class BaseValidator:
    """What is None until a validation begins is declared as it is from then on."""

    args: IterableSimpleNamespace
    batch_i: int
    data: dict[str, Any]
    dataloader: Batches
    device: torch.device
    save_dir: Path
    stride: int

    def __init__(
        self,
        dataloader: Any = None,
        save_dir: Path | None = None,
        args: Any = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None: ...
    def __call__(
        self, trainer: BaseTrainer | None = None, model: Any = None, **kwargs: Any
    ) -> dict[str, float]: ...
    def get_dataloader(self, dataset_path: str, batch_size: int) -> Batches: ...
    def run_callbacks(self, event: str) -> None: ...
