from collections.abc import Callable
from typing import Any, Protocol, type_check_only

import torch

_Loss = tuple[torch.Tensor, dict[str, torch.Tensor]]

@type_check_only
class Criterion(Protocol):
    """What a model asks of any loss, also of ours."""

    def __call__(self, preds: Any, batch: dict[str, torch.Tensor]) -> _Loss: ...

class v8DetectionLoss:
    """The loss of a head, and the base of those of the other tasks."""

    assigner: torch.nn.Module
    device: torch.device
    hyp: Any  # the model's arguments
    loss_names: tuple[str, ...]
    nc: int

    loss: Callable[..., _Loss]  # which we put ours in the place of

    def __call__(self, preds: Any, batch: dict[str, torch.Tensor]) -> _Loss: ...

class v8SegmentationLoss(v8DetectionLoss):
    bcedice_loss: torch.nn.Module
    overlap: bool

class v8PoseLoss(v8DetectionLoss): ...

class PoseLoss26(v8PoseLoss):
    rle_loss: torch.nn.Module | None

class E2ELoss:
    """The losses of a head with two kinds of assignment, and what each weighs."""

    one2many: v8DetectionLoss
    one2one: v8DetectionLoss
    updates: int

    def __call__(self, preds: Any, batch: dict[str, torch.Tensor]) -> _Loss: ...
    def update(self) -> None: ...
