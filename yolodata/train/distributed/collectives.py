"""Weights and gradients, made equal on all ranks."""

from __future__ import annotations

from typing import Any

import torch

from yolodata.train.distributed.process_group import ProcessGroup


def broadcast_weights(model: torch.nn.Module) -> None:
    """Gives every rank the weights and buffers of rank 0."""
    import torch.distributed as dist

    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)


def average_gradients(model: torch.nn.Module, ranks: int) -> None:
    """Gives every rank the mean of the gradients that wait for an update.

    The mean over ranks at the update is the same as without this. It makes them one for all ranks,
    whatever their number will be.

    Args:
        model: not wrapped by DistributedDataParallel, or wrapped.
        ranks: how many there are.
    """
    import torch.distributed as dist

    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks


def mean_items(items: dict[str, torch.Tensor], process_group: ProcessGroup) -> dict[str, Any]:
    """Returns the mean over ranks of the items of a loss."""
    import torch.distributed as dist

    if process_group.alone:
        return items
    values = torch.stack([value.detach().float().reshape(()) for value in items.values()])
    dist.all_reduce(values)
    return dict(zip(items, values / process_group.size, strict=True))
