"""Draws docs/mosaic.png: a recipe, the canvas that is never made, and the picture.

python docs/draw_mosaic.py [FILE]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt

import yolodata

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Polygon, Rectangle

PAGE = Path(__file__).with_name("mosaic.png")
IMGSZ = 320
SIZES = [(320, 280), (280, 320), (320, 240), (260, 320), (320, 320), (300, 320)]  # height, width
COLOURS = ["#c8553d", "#588b8b", "#f2a65a", "#5b5f97", "#7a9e55", "#a05c7b"]
SEED, EPOCH, POSITION = 0, 47, 5
CONFIG = yolodata.AugmentConfig(imgsz=IMGSZ, degrees=8.0, scale=0.3, hsv_h=0.05)

Picture = npt.NDArray[np.uint8]


def draw_image(number: int) -> tuple[Picture, list[float]]:
    """Returns an image uint8 (H, W, 3) RGB, and its object: centre x, y, width, height in 0-1."""
    height, width = SIZES[number]
    colour = [round(255 * c) for c in matplotlib.colors.to_rgb(COLOURS[number])]
    light = np.linspace(0.75, 1.25, width)[None, :, None]
    image = np.clip(np.array(colour) * light, 0, 255).repeat(height, 0).astype(np.uint8)
    for at in range(40, max(height, width), 40):
        image[:, at : at + 1] = image[at : at + 1] = 235
    x, y, radius = round(width * (0.35 + 0.05 * number)), round(height * 0.55), 52
    cv2.circle(image, (x, y), radius, (250, 250, 250), -1, cv2.LINE_AA)
    text, scale, thick = str(number), 2.4, 6
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    cv2.putText(image, text, (x - w // 2, y + h // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, colour,
                thick, cv2.LINE_AA)  # fmt: skip
    return image, [x / width, y / height, 2 * radius / width, 2 * radius / height]


def pack_images(folder: Path) -> yolodata.ShardDataset:
    """Packs the drawn images."""
    for kind in ("images", "labels"):
        (folder / "set" / kind).mkdir(parents=True)
    for number in range(len(SIZES)):
        image, box = draw_image(number)
        cv2.imwrite(str(folder / "set" / "images" / f"{number}.png"), image[..., ::-1])
        row = "0 " + " ".join(f"{value:.6f}" for value in box)
        (folder / "set" / "labels" / f"{number}.txt").write_text(row, encoding="utf-8")
    data = folder / "set" / "data.yaml"
    data.write_text(
        f"path: {folder / 'set'}\ntrain: images\nval: images\nnames: {{0: disc}}\n",
        encoding="utf-8",
    )
    yolodata.pack(
        data,
        folder / "shards",
        yolodata.PackSettings(imgsz=IMGSZ),
        splits=["train"],
        progress=False,
    )
    return yolodata.open_shards(folder / "shards" / "train")


def described(values: dict[str, Any]) -> str:
    """Returns a recipe of one layer as text."""
    (layer,) = values["layers"]
    rows = np.reshape(layer["matrix"], (3, 3))[:2]
    hue, saturation, value = values["hsv"]
    lines = [
        f"(seed {SEED}, epoch {EPOCH}, position {POSITION})",
        "",
        "size      {} x {}".format(*values["size"]),
        "canvas    {} x {}".format(*layer["canvas"]),
        "tiles     image    at x, y     covers x, y to x, y",
    ]
    lines += [
        f"          {t['image']:>5}   {t['x0']:>4}, {t['y0']:>4}    "
        f"{t['x1']:>3}, {t['y1']:>3} to {t['x2']:>3}, {t['y2']:>3}"
        for t in layer["tiles"]
    ]
    lines += [
        "matrix    " + " ".join(f"{number:8.3f}" for number in rows[0]),
        "          " + " ".join(f"{number:8.3f}" for number in rows[1]),
        f"mixup     {values['mixup']}",
        f"cutmix    {values['cutmix']}",
        f"hsv       {hue:.3f}, {saturation:.3f}, {value:.3f}",
        f"fliplr    {values['fliplr']}",
        f"flipud    {values['flipud']}",
        f"bgr       {values['bgr']}",
    ]
    return "\n".join(lines)


def draw(file: Path) -> None:
    """Draws recipe, canvas and picture side by side."""
    with tempfile.TemporaryDirectory() as folder:
        shards = pack_images(Path(folder))
        recipe = yolodata.plan(CONFIG, shards, seed=SEED, epoch=EPOCH, position=POSITION)
        values = recipe.to_dict()
        (layer,) = values["layers"]
        images = {t["image"]: shards.image(t["image"]).copy() for t in layer["tiles"]}
        picture = yolodata.render(recipe, images).transpose(1, 2, 0)
        _, boxes = yolodata.labels(recipe, shards)
        shards.close()
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(14, 4.9), dpi=90, width_ratios=[1.35, 1, 1]
    )
    left.text(0, 0.97, described(values), family="monospace", fontsize=9.5, va="top")
    left.set_title("the recipe: plain data")
    left.axis("off")

    middle.set_title("the canvas that is never made")
    middle.set_facecolor("#727272")
    for tile in layer["tiles"]:
        x1, y1, x2, y2, x0, y0 = (tile[name] for name in ("x1", "y1", "x2", "y2", "x0", "y0"))
        part = images[tile["image"]][y1 - y0 : y2 - y0, x1 - x0 : x2 - x0]
        middle.imshow(part, extent=(x1, x2, y2, y1))
        middle.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white"))
    corners = np.array([[0, 0, 1], [IMGSZ, 0, 1], [IMGSZ, IMGSZ, 1], [0, IMGSZ, 1]], float)
    shown = corners @ np.linalg.inv(np.reshape(layer["matrix"], (3, 3))).T
    frame = {"fill": False, "edgecolor": "black", "linewidth": 2.5, "clip_on": False}
    middle.add_patch(Polygon(shown[:, :2] / shown[:, 2:], **frame))
    height, width = layer["canvas"]
    middle.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    middle.set_xlabel("frame: what the picture shows of it")

    right.set_title("the picture, with its boxes")
    right.imshow(picture, extent=(0, IMGSZ, IMGSZ, 0))
    for x, y, w, h in boxes * IMGSZ:
        box = Rectangle((x - w / 2, y - h / 2), w, h, fill=False, edgecolor="black", linewidth=1.5)
        right.add_patch(box)
    for axes in (middle, right):
        axes.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE)
