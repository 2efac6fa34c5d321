"""What several ranks, and large batches, ask of learning rates and gradients."""

from __future__ import annotations

import os

import torch


def lr_factor(optimizer: str, larger: float, scale: str) -> float:
    """What learning rates are multiplied with.

    Args:
        optimizer: name of its class.
        larger: batch of an update, in units of `nbs`.
        scale: see `TrainSettings.scale_lr`.
    """
    adam = optimizer in {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp", "RMSprop"}
    if scale == "auto":
        scale = "sqrt" if adam else "none"
    if larger <= 1 or scale == "none":
        return 1.0
    return larger if scale == "linear" else larger**0.5


def spread_weights(model: torch.nn.Module) -> None:
    """Every rank gets the weights and buffers of rank 0."""
    import torch.distributed as dist

    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)


def share_gradients(model: torch.nn.Module, ranks: int) -> None:
    """Every rank gets the mean of the gradients that wait for an update.

    The mean over ranks at the update is the same as without this. It makes them one for all ranks,
    whatever their number will be.
    """
    import torch.distributed as dist

    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks


def share_cores(processes: int) -> None:
    """Upstream gives torch all cores of the machine in each process."""
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
