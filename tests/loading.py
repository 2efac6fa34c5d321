"""Datasets and hashes shared by the tests of the loaders."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ingesting import pack_arguments

from yolodata.shards import reader

NAMES = {0: "circle", 1: "square", 2: "bar"}


def draw_dataset(
    root: Path, counts: dict[str, int], *, sides: tuple[int, int] = (70, 180), seed: int = 0
) -> Path:
    """A YOLO dataset of drawn pictures of many sizes, some larger than others are wide.

    About one picture in eight is a background without objects.

    Returns:
        the path of its YAML file.
    """
    random = np.random.default_rng(seed)
    for split, count in counts.items():
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            height, width = (int(side) for side in random.integers(*sides, 2))
            noise = random.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            lines = []
            for _ in range(0 if i % 8 == 7 else int(random.integers(1, 6))):
                cls = int(random.integers(0, 3))
                w, h = random.uniform(0.15, 0.6, 2)
                x, y = random.uniform(w / 2, 1 - w / 2), random.uniform(h / 2, 1 - h / 2)
                corner = (int((x - w / 2) * width), int((y - h / 2) * height))
                opposite = (int((x + w / 2) * width), int((y + h / 2) * height))
                colour = tuple(int(c) for c in random.integers(0, 255, 3))
                cv2.rectangle(picture, corner, opposite, colour, -1)
                lines.append(f"{cls} {x:.6f} {y:.6f} {w:.6f} {h:.6f}")
            name = f"{split}{i:03d}"
            cv2.imwrite(str(root / "images" / split / f"{name}.jpg"), picture)
            (root / "labels" / split / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return write_yaml(root, list(counts))


def write_yaml(root: Path, splits: list[str]) -> Path:
    lines = [f"path: {root}", *(f"{s}: images/{s}" for s in splits), "names:"]
    lines += [f"  {number}: {name}" for number, name in NAMES.items()]
    if "train" not in splits:
        lines.insert(1, f"train: images/{splits[0]}")
    if "val" not in splits:
        lines.insert(1, f"val: images/{splits[0]}")
    path = root / "data.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def packed(yaml: Path, out: Path, codec: str, imgsz: int, **settings: Any) -> Path:
    from yolodata.ingest import pack

    how = {"codec": codec, "imgsz": imgsz, "workers": 1, "progress": False, **settings}
    pack(yaml, out, **pack_arguments(**how))
    return out


def digest(batch: dict[str, Any]) -> str:
    """A hash of everything in a batch."""
    total = hashlib.sha256()
    for key, value in batch.items():
        total.update(key.encode())
        if isinstance(value, torch.Tensor):
            total.update(f"{value.dtype}{tuple(value.shape)}".encode() + value.numpy().tobytes())
        else:
            total.update(repr(value).encode())
    return total.hexdigest()


def sample_digests(batch: dict[str, Any]) -> list[str]:
    """A hash of each picture of a batch together with its labels and description."""
    result = []
    for i in range(len(batch["im_file"])):
        mine = batch["batch_idx"] == i
        sample = {
            key: value[mine] if key in ("cls", "bboxes") else value[i]
            for key, value in batch.items()
            if key != "batch_idx"
        }
        result.append(digest(sample))
    return result


def damage(shards: Path, out: Path, images: list[int]) -> Path:
    """A copy whose samples of some images are overwritten."""
    shutil.copytree(shards, out)
    with reader.open(out, split="train") as dataset:
        places = [dataset.locate(i) for i in images]
        sizes = [int(dataset.nbytes[i]) for i in images]
    for place, size in zip(places, sizes, strict=True):
        file, _, byte = place.rpartition(": byte ")
        with open(file, "r+b") as shard:
            shard.seek(int(byte))
            shard.write(bytes(min(size, 64)))
    return out


def grouped(**flat: Any) -> dict[str, Any]:
    """Arguments of a loader: those of its groups of options may be given one by one."""
    from dataclasses import fields

    from yolodata.pipeline import options

    groups = {
        "labels": options.LabelOptions,
        "ranks": options.Ranks,
        "epochs": options.EpochOptions,
        "reading": options.ReadOptions,
        "device": options.DeviceOptions,
    }
    for name, group in groups.items():
        own = {f.name: flat.pop(f.name) for f in fields(group) if f.name in flat}
        if own:
            flat[name] = group(**own)
    return flat
