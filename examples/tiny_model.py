"""A model that trains in a moment: it says which classes a picture shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TinyModel(nn.Sequential):
    """Two convolutions; turns float (B, 3, H, W) in 0-1 into one logit a class, (B, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=4),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, classes),
        )


def loss_of(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Returns the loss of a batch; its tensors are where the model is."""
    logits = model(batch["img"].float() / 255)
    # Objects of all pictures stand one after the other; batch_idx says which picture has which.
    shown = torch.zeros_like(logits)
    shown[batch["batch_idx"].long(), batch["cls"][:, 0].long()] = 1
    return nn.functional.binary_cross_entropy_with_logits(logits, shown)
