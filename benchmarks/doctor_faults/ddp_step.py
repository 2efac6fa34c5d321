"""Milliseconds of a step of plain DistributedDataParallel; torchrun starts it, rank 0 prints them.

torchrun --nproc-per-node=2 ddp_step.py SIDE PICTURES SECONDS
"""

from __future__ import annotations

import itertools
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.utils.torch_utils import ModelEMA

WARM_UP = 5
"""Steps that are not counted."""


def main() -> None:
    side, pictures, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    torch.manual_seed(0)
    model = YOLO("yolo26n.yaml").model.train()
    model.args = get_cfg()
    for parameter in model.parameters():
        parameter.requires_grad = True
    average = ModelEMA(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, nesterov=True)
    dist.init_process_group("gloo")
    parallel = DistributedDataParallel(model, find_unused_parameters=True, **{_buffers(): False})
    objects = 8 * pictures
    batch = {
        "img": torch.rand(pictures, 3, side, side),
        "cls": torch.zeros(objects, 1),
        "bboxes": torch.rand(objects, 4) * 0.3 + 0.1,
        "batch_idx": torch.arange(pictures).repeat_interleave(8).float(),
    }
    begun = passed = 0.0
    for steps in itertools.count(1 - WARM_UP):
        loss = parallel(batch)[0].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parallel.parameters(), max_norm=10.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        if steps <= 0:
            begun = time.perf_counter()
            continue
        passed = time.perf_counter() - begun
        over = torch.tensor(float(passed > seconds))
        dist.broadcast(over, 0)
        if over:
            break
    if dist.get_rank() == 0:
        # The mean, as beside a quota steps take one period or two.
        print(f"step_ms={1e3 * passed / steps}")
    dist.destroy_process_group()


def _buffers() -> str:
    import inspect

    names = inspect.signature(DistributedDataParallel.__init__).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"


if __name__ == "__main__":
    main()
