from pathlib import Path
from typing import Any

import torch
from ultralytics.utils.loss import Criterion

class BaseModel(torch.nn.Module):
    args: Any
    criterion: Criterion | None
    names: dict[int, str]
    stride: torch.Tensor
    task: str
    yaml: dict[str, Any]

    def init_criterion(self) -> Criterion: ...
    def loss(
        self, batch: dict[str, Any], preds: Any = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]: ...

class DetectionModel(BaseModel):
    def __init__(
        self, cfg: Any = ..., ch: int = 3, nc: int | None = None, verbose: bool = True
    ) -> None: ...

class OBBModel(DetectionModel): ...
class SegmentationModel(DetectionModel): ...
class PoseModel(DetectionModel): ...

def guess_model_task(model: str | Path | torch.nn.Module) -> str: ...
def load_checkpoint(
    weight: str | Path, device: torch.device | None = None, inplace: bool = True, fuse: bool = False
) -> tuple[BaseModel, dict[str, Any]]: ...
def yaml_model_load(path: str | Path) -> dict[str, Any]: ...
