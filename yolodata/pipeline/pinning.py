"""Where the threads of one loader run: `ReadOptions.pin`, its device and its rank decide."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from yolodata import topology
from yolodata.machine import ranks_here

if TYPE_CHECKING:
    from yolodata.pipeline.options import DeviceOptions


def pinning(
    pin: str, threads: int, device: DeviceOptions, rank: int, world_size: int
) -> topology.Pinning:
    """Returns where a loader's threads run.

    Near the GPU that the loader makes batches for, or page-locked batches (`pin_memory`); without
    one, or where its node is not known, evenly over the nodes. Nothing is pinned where all usable
    cores are of one node, or with `pin` "off".

    Args:
        pin: see `ReadOptions`.
        threads: of the loader.
        device: see `DeviceOptions`.
        rank, world_size: see `Ranks`.
    """
    if pin == "off" or len(topology.nodes()) < 2:
        return topology.Pinning()
    here = ranks_here(world_size)
    local = int(os.environ.get("LOCAL_RANK", rank)) % here
    gpu = None if device.on_cpu and not device.pin_memory else _index(device.device)
    near = None if gpu is None else gpu_node(gpu)
    if gpu is None or near is None:
        return topology.spread(threads, rank=local, ranks=here)
    return topology.gather(threads, f"cuda:{gpu}", near, sharing=_sharing(near, here))


def gpu_node(index: int) -> int | None:
    """Returns the NUMA node of a GPU, by torch's number; None where the machine does not say."""
    import torch

    found: Any = torch.cuda.get_device_properties(index)
    try:
        place = found.pci_domain_id, found.pci_bus_id, found.pci_device_id
    except AttributeError:  # a torch that does not tell
        return None
    return topology.device_node("{:04x}:{:02x}:{:02x}.0".format(*place))


def _index(device: Any) -> int | None:
    """torch's number of a CUDA device, of the current one for "cpu"; None without any."""
    import torch

    if not torch.cuda.is_available():
        return None
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def _sharing(near: int, here: int) -> int:
    """How many ranks of this machine have their GPU at a node.

    Rank i has the i-th GPU, as torchrun's users have it. Where each rank sees its own alone, they
    are taken to be spread evenly.
    """
    import torch

    if torch.cuda.device_count() < here:
        return -(-here // len(topology.nodes()))
    return max(1, sum(gpu_node(index) == near for index in range(here)))
