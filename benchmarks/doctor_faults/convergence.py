"""Faults of learning: a rate that is too large, no warm-up, validation images that are in train.

Nothing is said of time, so there is no gain to check: the cause has to come first, and a healthy
set-up must get no complaint.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fault import Case

NAMES = ("circle", "square", "bar")
TRAIN, VAL = (150, 300), (40, 80)  # images, drawn anew for each run
COMMON = ("model=yolo26n.yaml", "device=cpu", "batch=16")

Severity = Mapping[str, Any]


def drawn(rng: random.Random) -> dict[str, Any]:
    """Sizes and seed of a dataset."""
    return {
        "train": rng.randint(*TRAIN), "val": rng.randint(*VAL), "data_seed": rng.getrandbits(31)
    }  # fmt: skip


def dataset(folder: Path, severity: Severity) -> Path:
    """Draws a dataset whose images all differ; returns its YAML."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(severity["data_seed"])
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(severity[split]):
            height, width = (int(side) for side in rng.integers(96, 200, 2))
            noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            rows = []
            for _ in range(int(rng.integers(1, 8))):
                cls = int(rng.integers(0, len(NAMES)))
                w, h = rng.uniform(0.1, 0.5, 2)
                x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
                left, top = int((x - w / 2) * width), int((y - h / 2) * height)
                size = int(w * width), int(h * height)
                _shape(picture, cls, (left, top), size, [int(c) for c in rng.integers(0, 256, 3)])
                rows.append(f"{cls} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n")
            name = f"{number:05d}"
            cv2.imwrite(str(folder / "images" / split / f"{name}.jpg"), picture)
            (folder / "labels" / split / f"{name}.txt").write_text("".join(rows), encoding="utf-8")
    yaml = folder / "data.yaml"
    yaml.write_text(
        f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [{', '.join(NAMES)}]\n",
        encoding="utf-8",
    )
    return yaml


def _shape(
    picture: Any, cls: int, corner: tuple[int, int], size: tuple[int, int], colour: list[int]
) -> None:
    import cv2

    (left, top), (width, height) = corner, size
    if cls == 0:
        centre, axes = (left + width // 2, top + height // 2), (width // 2, height // 2)
        cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, -1)
    elif cls == 1:
        cv2.rectangle(picture, corner, (left + width, top + height), colour, -1)
    else:
        cv2.line(picture, corner, (left + width, top + height), colour, 3)


@dataclass(frozen=True)
class Settings:
    """Settings of a run under which learning fails, or does not.

    Attributes:
        name: of it.
        cause: of the finding; "" where nothing is wrong.
        rates: least and largest learning rate by optimizer.
        warmup: `warmup_epochs`, least and largest.
    """

    name: str
    cause: str
    rates: Mapping[str, tuple[float, float]]
    warmup: tuple[float, float]
    sections: tuple[str, ...] = ("convergence",)
    seconds: float = 60.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws optimizer, rate (evenly by its logarithm), warm-up and dataset."""
        optimizer = rng.choice(sorted(self.rates))
        low, high = self.rates[optimizer]
        return {
            **drawn(rng), "optimizer": optimizer,
            "lr0": float(f"{low * (high / low) ** rng.random():.3g}"),
            "warmup_epochs": round(rng.uniform(*self.warmup), 1),
        }  # fmt: skip

    @contextmanager
    def inject(self, severity: Severity, folder: Path) -> Iterator[Case]:
        """Passes the settings."""
        given = [f"{key}={severity[key]}" for key in ("optimizer", "lr0", "warmup_epochs")]
        yield Case([str(dataset(folder, severity)), *COMMON, *given])


@dataclass(frozen=True)
class Overlap:
    """Copies of train images in val, under names of their own."""

    name: str = "overlap"
    cause: str = "overlap"
    sections: tuple[str, ...] = ("convergence",)
    seconds: float = 60.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws the share of val that is replaced, and the dataset."""
        return {**drawn(rng), "share": round(0.03 * (0.6 / 0.03) ** rng.random(), 3)}

    @contextmanager
    def inject(self, severity: Severity, folder: Path) -> Iterator[Case]:
        """Copies images with their labels."""
        yaml = dataset(folder, severity)
        rng = random.Random(severity["data_seed"])
        count = max(1, round(severity["share"] * severity["val"]))
        targets = rng.sample(range(severity["val"]), count)
        sources = rng.sample(range(severity["train"]), count)
        for source, target in zip(sources, targets, strict=True):
            for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
                shutil.copyfile(
                    folder / kind / "train" / f"{source:05d}{suffix}",
                    folder / kind / "val" / f"{target:05d}{suffix}",
                )
        yield Case([str(yaml), *COMMON])


FAULTS = [
    Settings(
        "learning rate",
        "learning_rate",
        {"SGD": (0.35, 1.0), "MuSGD": (0.4, 1.0)},
        (2.0, 5.0),
    ),
    Settings("no warm-up", "no_warmup", {"AdamW": (0.15, 0.25)}, (0.0, 0.0)),
    Overlap(),
    Settings(
        "healthy learning",
        "",
        {"SGD": (0.002, 0.03), "AdamW": (0.0003, 0.004), "auto": (0.01, 0.01)},
        (2.0, 5.0),
    ),
]
