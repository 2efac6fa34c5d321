"""How much memory each part of a training takes at its peak: loaders, model, step.

    python benchmarks/gpu/memory.py RAW_SHARDS JPEG_SHARDS OUT.json [--device cuda]

Each part is made alone, one after the other. Of the device there are the peak that torch allocated,
what it had reserved, and what the driver says is gone (with DALI's memory and the libraries' own);
of the host, the growth of the process's resident memory, page-locked memory included. A part that
fails says why and does not stop the others.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

import yolodata
from yolodata.bench import results

LOADERS = tuple(itertools.product(("raw", "jpeg"), ("device", "host", "none")))
BATCHES = 8  # more than are made ahead


class Memory:
    """What is taken between two moments, in GiB.

    Args:
        device: whose memory is looked at, beside the host's.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.start()

    def start(self) -> None:
        """From now on."""
        gc.collect()
        self._resident = psutil.Process().memory_info().rss
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._free = torch.cuda.mem_get_info()[0]
            self._allocated = torch.cuda.memory_allocated()

    def read(self) -> dict[str, float]:
        """Until now."""
        found = {"host": psutil.Process().memory_info().rss - self._resident}
        if self._cuda:
            torch.cuda.synchronize()
            found["allocated_peak"] = torch.cuda.max_memory_allocated() - self._allocated
            found["reserved"] = torch.cuda.memory_reserved()
            found["driver"] = self._free - torch.cuda.mem_get_info()[0]
        return {name: round(value / 2**30, 3) for name, value in found.items()}


def load(folder: Path, cache: str, device: torch.device, batch: int) -> Any:
    """A loader as the trainer makes it, that has delivered some batches; its last batch."""
    on_gpu = {"device": device, "cache": cache, "output": "float16"}
    options = yolodata.DeviceOptions(**(on_gpu if device.type == "cuda" else {}))
    augment = yolodata.AugmentConfig(imgsz=int(yolodata.open_shards(folder).meta.imgsz))
    loader = yolodata.Loader(folder, batch, augment=augment, device=options)
    batches = iter(loader)
    for _ in range(min(BATCHES, len(loader))):
        made = next(batches)
    return loader, made


def train_step(model_name: str, batch: dict[str, Any], device: torch.device, note: Any) -> None:
    """The parts of a training step, without a loader: each adds to those before."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import DEFAULT_CFG

    memory = Memory(device)
    model = DetectionModel(model_name, verbose=False).to(device)
    model.args = get_cfg(DEFAULT_CFG)
    model.train()
    name = f"{model_name}, batch {len(batch['img'])}"
    note(f"{name}: weights", memory.read())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)
    amp = torch.float16 if device.type == "cuda" else torch.bfloat16
    for when in ("first step", "later step"):
        with torch.autocast(device.type, amp):
            made = {**batch, "img": batch["img"] if device.type == "cuda" else batch["img"] / 255}
            loss, _ = model(made)
        note(f"{name}: {when}: forward", memory.read())
        total = loss.sum() if isinstance(loss, torch.Tensor) else sum(loss.values())
        total.backward()
        note(f"{name}: {when}: backward", memory.read())
        optimizer.step()
        note(f"{name}: {when}: update", memory.read())
        del loss, total


def main(argv: list[str] | None = None) -> int:
    """1 if a part failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("jpeg", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--model", default="yolo26n.yaml")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    document = results.about("gpu-memory", batch=args.batch, model=args.model)
    document |= {"parts": [], "complete": False}

    def note(name: str, found: dict[str, Any]) -> None:
        document["parts"].append({"name": name, **found})
        print(f"memory: {name}: " + ", ".join(f"{k} {v}" for k, v in found.items()), flush=True)
        results.save(args.out, document)

    def attempt(name: str, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            note(name, {"error": f"{type(error).__name__}: {error}"})

    kept: dict[str, Any] = {}

    def one_loader(name: str, codec: str, cache: str) -> None:
        memory = Memory(device)
        loader, batch = load(getattr(args, codec), cache, device, args.batch)
        with closing(loader):
            note(name, memory.read())
            if not kept:
                kept.update((k, v.clone() if hasattr(v, "clone") else v) for k, v in batch.items())
        del loader, batch
        note(f"{name}, closed", memory.read())

    for codec, cache in LOADERS if device.type == "cuda" else (("raw", "cpu"), ("jpeg", "cpu")):
        name = f"loader, {codec} shards, cache={cache}"
        attempt(name, partial(one_loader, name, codec, cache))
    attempt(args.model, lambda: train_step(args.model, kept, device, note))
    results.save(args.out, document | {"complete": True})
    return int(any("error" in part for part in document["parts"]))


if __name__ == "__main__":
    sys.exit(main())
