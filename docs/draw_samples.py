"""Draws docs/samples.jpg: training pictures above the recipes that they were made of.

    python docs/draw_samples.py DATA.yaml [FILE]

The one in the repository shows BCCD (github.com/Shenggan/BCCD_Dataset): blood cells under a
microscope. Its licence, docs/samples-licence.txt, allows that.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import yolodata
from yolodata.overlay import colour_of

PAGE = Path(__file__).with_name("samples.jpg")
IMGSZ = 480
CONFIG = yolodata.AugmentConfig(imgsz=IMGSZ, degrees=10.0, mixup=0.3, cutmix=0.3)
SEED = 0
SAMPLES = ((3, 65), (3, 107), (1, 64))  # epoch and position of a mosaic, of a mixup, of a cutmix
INK = "#1f2328"
_COLUMN, _SIDE, _TOP, _LINE = 2.66, 2.5, 0.42, 0.148  # inches


def described(values: dict[str, Any], epoch: int, position: int) -> list[str]:
    """Returns a recipe as short lines of text: what `Recipe.to_dict` says, without places."""
    lines = [f"seed {SEED}, epoch {epoch}, position {position}"]
    for number, layer in enumerate(values["layers"]):
        images = " ".join(f"{tile['image']:>3}" for tile in layer["tiles"])
        rows = np.reshape(layer["matrix"], (3, 3))[:2]
        lines.append(f"layer {number}: images {images}")
        lines += [
            f"{name:7}" + " ".join(f"{value:7.2f}" for value in row)
            for name, row in zip(("matrix", ""), rows, strict=True)
        ]
    if values["mixup"]:
        share = values["mixup"]["ratio"]
        lines.append(f"mixup  {share:.3f} layer 0 + {1 - share:.3f} layer 1")
    if values["cutmix"]:
        x1, y1, x2, y2 = values["cutmix"]["area"]
        lines.append(f"cutmix layer 1 in {x1},{y1} to {x2},{y2}")
    lines.append("hsv    " + " ".join(f"{gain:7.3f}" for gain in values["hsv"]))
    return [*lines, f"fliplr {values['fliplr']}"]


def draw(data: Path, file: Path) -> None:
    """Packs a dataset, and draws three samples of its first split."""
    with tempfile.TemporaryDirectory() as folder:
        yolodata.pack(
            data, folder, yolodata.PackSettings(imgsz=IMGSZ), splits=["train"], progress=False
        )
        with yolodata.open_shards(folder) as shards:
            names = shards.meta.names
            samples = [sample(shards, epoch, at % len(shards)) for epoch, at in SAMPLES]
    rows = max(len(lines) for _, _, _, lines in samples)
    width, height = 3 * _COLUMN + 0.05, _TOP + _SIDE + 0.15 + rows * _LINE
    figure = Figure(figsize=(width, height), facecolor="white")

    def write(x: float, y: float, text: str, **style: Any) -> float:
        """Returns how wide the text is, in inches."""
        style = {"va": "center", "color": INK} | style
        written = figure.text(x / width, 1 - y / height, text, **style)
        return float(written.get_window_extent().width) / figure.dpi

    write(0.1, 0.2, "Training pictures, and the recipes they are made of", size=11, weight="bold")
    x = width - 0.1
    for cls in sorted({int(c) for _, classes, _, _ in samples for c in classes}, reverse=True):
        x -= write(x, 0.2, names[cls], size=8.5, ha="right") + 0.05
        x -= write(x, 0.2, "■", size=10, ha="right", color=shade(cls)) + 0.12
    for column, (picture, classes, boxes, lines) in enumerate(samples):
        left = 0.1 + column * _COLUMN
        box = (left / width, 1 - (_TOP + _SIDE) / height, _SIDE / width, _SIDE / height)
        axes = figure.add_axes(box)
        axes.imshow(picture, extent=(0, 1, 1, 0))
        for cls, (cx, cy, w, h) in zip(classes, boxes, strict=True):
            axes.add_patch(Rectangle((cx - w / 2, cy - h / 2), w, h, fill=False, lw=1.3,
                                     edgecolor=shade(int(cls))))  # fmt: skip
        axes.axis("off")
        for number, line in enumerate(lines):
            style = {"weight": "bold"} if number == 0 else {}
            y = _TOP + _SIDE + 0.12 + number * _LINE
            write(left, y, line, size=7.6, family="monospace", **style)
    figure.savefig(file, dpi=150, pil_kwargs={"quality": 88})


def sample(
    shards: yolodata.ShardDataset, epoch: int, position: int
) -> tuple[Any, Any, Any, list[str]]:
    """Returns picture (H, W, 3), classes (n,), boxes (n, 4) in 0-1, and lines of the recipe."""
    recipe = yolodata.plan(CONFIG, shards, seed=SEED, epoch=epoch, position=position)
    values = recipe.to_dict()
    images = {tile["image"] for layer in values["layers"] for tile in layer["tiles"]}
    picture = yolodata.render(recipe, {i: np.asarray(shards.image(i)) for i in images})
    classes, boxes = yolodata.labels(recipe, shards)
    return picture.transpose(1, 2, 0), classes.ravel(), boxes, described(values, epoch, position)


def shade(cls: int) -> tuple[float, ...]:
    """The colour of a class, as `yolodata view` has it."""
    return tuple(value / 255 for value in colour_of(cls))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else PAGE)
