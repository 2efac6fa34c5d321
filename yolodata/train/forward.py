"""The forward pass of a training step, as Ultralytics' trainer makes it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import autocast, unwrap_model


def precision(trainer: BaseTrainer) -> AbstractContextManager[None]:
    """Gives the context in which a trainer prepares batches and goes forward: by `amp`."""
    kind = torch.bfloat16 if trainer.args.amp == "bf16" else trainer.amp
    entered: AbstractContextManager[None] = autocast(kind, device=trainer.device.type)
    return entered


def forward(
    trainer: BaseTrainer, batch: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the loss of a batch that is prepared, and its items; call it within `precision`."""
    found: tuple[torch.Tensor, dict[str, torch.Tensor]]
    if trainer.args.compile:  # only the network is compiled
        predictions = trainer.model(batch["img"])
        found = unwrap_model(trainer.model).loss(batch, predictions)
    else:
        found = trainer.model(batch)
    return found


def largest_side(imgsz: int, multi_scale: float, stride: int) -> int:
    """Returns the longest side that `multi_scale` gives pictures, in pixels.

    To a multiple of the stride, as upstream rounds: what is drawn down, and what it makes of a
    picture up, which for some sides adds a stride.

    Args:
        imgsz: side of the pictures that the loader makes.
        multi_scale: the argument.
        stride: of the trainer: at least 32, whatever the network's is.
    """
    if not multi_scale:
        return imgsz
    drawn = (int(imgsz * (1 + multi_scale) + stride) - 1) // stride * stride
    return math.ceil(imgsz * (drawn / imgsz) / stride) * stride
