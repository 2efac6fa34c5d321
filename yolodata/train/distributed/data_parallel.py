"""The model of one rank, whose gradients travel to the others while it makes more of them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

_OWN_BUFFERS: dict[str, Any] = {"broadcast_buffers": False}
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters:
    _OWN_BUFFERS = {"forward_sync_buffers": False}  # its name from torch 2.13 on


def data_parallel(
    model: torch.nn.Module, device: torch.device, compiled: bool
) -> DistributedDataParallel:
    """Returns the model, wrapped as training wraps it; the ranks are connected already.

    Args:
        model: on `device`.
        device: of this rank.
        compiled: the network is compiled, so that every step uses the same parameters.
    """
    return DistributedDataParallel(
        model,
        device_ids=None if device.type == "cpu" else [device.index],
        # Upstream's: what its heads leave unused differs from batch to batch.
        find_unused_parameters=not compiled,
        static_graph=compiled,
        **_OWN_BUFFERS,
    )
