"""The dataset of the examples: yours, or a small drawn one, packed into shards."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import yolodata
import yolodata.shards

COLOURS = {"red": (220, 50, 50), "green": (50, 190, 80), "blue": (60, 80, 220)}
IMAGES = {"train": 21, "val": 8}  # 21: two processes cannot share the last batch equally
SIDE = 160  # pixels


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that every example has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="YAML file of a dataset, or a folder of shards; none: drawn")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/examples"), help="where everything is written"
    )
    return parser


def packed(data: str | None, folder: Path, *, codec: str = "raw", imgsz: int = SIDE) -> Path:
    """Returns a folder of shards, one dataset a split; packs what is not packed yet.

    Args:
        data: YAML file of a dataset, or a folder of shards; None draws a dataset.
        folder: where drawn images and shards go; made if it is not there.
        codec: "raw" (pixels) or "jpeg" (the original files).
        imgsz: longer side of the images, in pixels.

    Raises:
        DatasetError: the dataset cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if data is not None and yolodata.shards.splits(data):
        return Path(data)
    source = draw(folder / "drawn") if data is None else Path(data)
    shards = folder / f"{source.stem}-{codec}-{imgsz}"
    yolodata.pack(source, shards, yolodata.PackSettings(codec, imgsz), progress=False)
    return shards


def draw(folder: Path) -> Path:
    """Draws coloured rectangles on grey noise, with YOLO labels; returns the YAML file."""
    yaml = folder / "drawn.yaml"
    if yaml.exists():
        return yaml
    random = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            height, width = int(random.integers(SIDE // 2, SIDE)), SIDE
            noise = random.integers(90, 160, (height, width, 3), dtype=np.uint8)
            image, lines = Image.fromarray(noise), []
            for _ in range(int(random.integers(1, 4))):
                colour = int(random.integers(len(COLOURS)))
                w, h = random.uniform(0.2, 0.5, 2)
                x, y = random.uniform(0, 1 - w), random.uniform(0, 1 - h)
                corners = [x * width, y * height, (x + w) * width, (y + h) * height]
                ImageDraw.Draw(image).rectangle(corners, fill=list(COLOURS.values())[colour])
                lines.append(f"{colour} {x + w / 2:.6f} {y + h / 2:.6f} {w:.6f} {h:.6f}\n")
            image.save(folder / "images" / split / f"{number:02d}.jpg", quality=95)
            (folder / "labels" / split / f"{number:02d}.txt").write_text(
                "".join(lines), encoding="utf-8"
            )
    names = ", ".join(COLOURS)
    yaml.write_text(
        f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames: [{names}]\n",
        encoding="utf-8",
    )
    return yaml
