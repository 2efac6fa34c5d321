from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import BaseModel

class EarlyStopping:
    best_epoch: int
    best_fitness: float
    possible_stop: bool

    def __call__(self, epoch: int, fitness: float | None) -> bool: ...

class ModelEMA:
    ema: BaseModel
    updates: int

    def update_attr(
        self, model: torch.nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ()
    ) -> None: ...

def autocast(enabled: bool | torch.dtype, device: str = "cuda") -> AbstractContextManager[None]: ...
def init_seeds(seed: int = 0, deterministic: bool = False) -> None: ...
def parse_device(device: Any = "") -> str: ...
def strip_optimizer(
    f: str | Path = "best.pt", s: str | Path = "", updates: dict[str, Any] | None = None
) -> dict[str, Any]: ...
def torch_distributed_zero_first(local_rank: int) -> AbstractContextManager[None]: ...
def unwrap_model(m: torch.nn.Module) -> BaseModel: ...  # of a trainer's
