"""yolodata's own training loader, over the user's shards or over shards of a sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolodata.doctor.data.pace import Batch
from yolodata.doctor.setup import Setup
from yolodata.ingest import PackSettings, pack
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader
from yolodata.pipeline.options import DeviceOptions, LabelOptions, ReadOptions
from yolodata.pipeline.schedule import reuse_window
from yolodata.shards import ShardDataset
from yolodata.ultralytics.dataset import label_options


@dataclass
class ShardFeed:
    """See `Feed`; `producers` are threads, which are in this process."""

    batches: Iterator[Batch]
    prefetched: int
    producers: int
    loader: Loader

    def close(self) -> None:
        """Ends the threads."""
        self.loader.close()


def pack_sample(
    folder: Path, data: Mapping[str, Any], out: Path, setup: Setup, task: str, codec: str
) -> Path:
    """Packs copied images; returns the folder of the split.

    Args:
        folder: with `images/` and `labels/`.
        data: names, and the skeleton of a pose.
        out: folder to write to.
        setup: gives imgsz.
        task: of the model.
        codec: "raw" or "jpeg".
    """
    keep = ("names", "nc", "kpt_shape", "flip_idx", "channels")
    source = {key: data[key] for key in keep if key in data}
    source |= {"path": str(folder), "train": "images", "val": "images"}
    rules = "pose" if task == "pose" else "detect"
    settings = PackSettings(codec, setup.imgsz, task=rules, single_cls=bool(setup.train.single_cls))
    pack(source, out, settings, splits=["train"], progress=False)
    return out / "train"


def save_images(shards: ShardDataset, folder: Path, count: int, seed: int) -> None:
    """Writes some images of JPEG shards, and their boxes, as files, to pack them in another way."""
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(exist_ok=True)
    chosen = np.random.default_rng(seed).choice(len(shards), min(count, len(shards)), replace=False)
    for i in map(int, chosen):
        (images / f"{i:08d}.jpg").write_bytes(shards.sample(i).tobytes())
        first, last = map(int, shards.object_offset[i : i + 2])
        rows = [
            f"{int(shards.cls[o])} " + " ".join(f"{value:.6f}" for value in shards.box[o])
            for o in range(first, last)
        ]
        (labels / f"{i:08d}.txt").write_text("\n".join(rows), encoding="utf-8")


@contextmanager
def opened(
    shards: ShardDataset | Path, setup: Setup, task: str, threads: int, device: torch.device
) -> Iterator[ShardFeed]:
    """Opens our loader, and closes it.

    Args:
        shards: a dataset.
        setup: gives augmentation, batch size and seed.
        task: of the model.
        threads: native ones.
        device: on which batches are made.
    """
    dataset = ShardDataset(shards) if isinstance(shards, Path) else shards
    labels = label_options(setup.train, {}, "train", task)
    if isinstance(shards, Path):  # a sample is too small to be shared out again
        labels = LabelOptions(task, labels.classes, labels.single_cls)
    ours = setup.ours
    cache = "auto" if device.type == "cpu" else ours.cache
    loader = Loader(
        dataset, setup.batch, augment=AugmentConfig.from_ultralytics(vars(setup.train)),
        labels=labels, seed=setup.seed,
        device=DeviceOptions(device, cache, ours.hw_decoder_load),
        reading=ReadOptions(threads, ours.prefetch),
    )  # fmt: skip

    def endless() -> Iterator[Batch]:
        while True:
            yield from loader

    window = reuse_window(len(dataset))
    pictures = window["streams"] * window["window"] if dataset.meta.codec == "jpeg" else 0
    # Decoded pictures are kept for a window, which fills in the beginning.
    feed = ShardFeed(
        endless(), max(ours.prefetch, min(-(-pictures // setup.batch), 8)), threads, loader
    )
    try:
        yield feed
    finally:
        feed.close()
        if isinstance(shards, Path):
            dataset.close()
