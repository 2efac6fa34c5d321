"""A slow twin of the renderer in NumPy: the recipe's canvas is drawn, then sampled.

Written from the definition (OpenCV's linear sampling and 8-bit HSV), not from the C++.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
F = np.float32


def fused(a: Any, b: Any, c: Any) -> Any:
    """a * b + c in single precision, rounded once (double holds the exact product)."""
    return (np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)).astype(F)


def canvas(layer: dict[str, Any], images: dict[int, Picture]) -> Picture:
    """The mosaic as other pipelines draw it, uint8 (H, W, 3)."""
    height, width = layer["canvas"]
    drawn = np.full((height, width, 3), 114, np.uint8)
    for tile in layer["tiles"]:
        x1, y1, x2, y2 = (tile[k] for k in ("x1", "y1", "x2", "y2"))
        x, y = x1 - tile["x0"], y1 - tile["y0"]
        drawn[y1:y2, x1:x2] = images[tile["image"]][y : y + y2 - y1, x : x + x2 - x1]
    return drawn


def warp(layer: dict[str, Any], images: dict[int, Picture], height: int, width: int) -> Picture:
    """One layer of the output before colours and flips, uint8 (H, W, 3)."""
    source = np.pad(canvas(layer, images), ((2, 2), (2, 2), (0, 0)), constant_values=114)
    rows, columns = layer["canvas"]
    matrix = np.asarray(layer["matrix"], F).reshape(3, 3).astype(np.float64)
    m = np.linalg.inv(matrix).astype(F)
    y, x = (v.astype(F) for v in np.mgrid[0:height, 0:width])
    u, v = fused(m[0, 0], x, m[0, 1] * y + m[0, 2]), fused(m[1, 0], x, m[1, 1] * y + m[1, 2])
    with np.errstate(all="ignore"):
        if layer["perspective"]:
            w = fused(m[2, 0], x, m[2, 1] * y + m[2, 2])
            u, v = u / w, v / w
        inside = (u > -1) & (v > -1) & (u < columns) & (v < rows)
    u, v = np.where(inside, u, F(0)), np.where(inside, v, F(0))
    ix, iy = np.floor(u).astype(int), np.floor(v).astype(int)
    wx, wy = (u - ix.astype(F))[..., None], (v - iy.astype(F))[..., None]

    def at(dx: int, dy: int) -> Any:
        return source[iy + 2 + dy, ix + 2 + dx].astype(F)

    top, bottom = (fused(wx, at(1, d) - at(0, d), at(0, d)) for d in (0, 1))
    value = np.rint(fused(wy, bottom - top, top)).astype(np.uint8)
    value[~inside] = 114
    return value


def jitter(picture: Picture, draws: list[float]) -> Picture:
    """HSV gains as upstream applies them, through OpenCV itself; RGB in and out."""
    import cv2

    x = np.arange(0, 256, dtype=np.float64)
    hue = ((x + draws[0] * 180) % 180).astype(np.uint8)
    saturation, value = (np.clip(x * (d + 1), 0, 255).astype(np.uint8) for d in draws[1:])
    table = np.stack((hue, saturation, value), -1).reshape(1, 256, 3)
    hsv = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2HSV)
    changed: Picture = cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)
    return changed


def render(recipe: dict[str, Any], images: dict[int, Picture], *, colours: bool = True) -> Picture:
    """The whole recipe, uint8 (3, H, W)."""
    height, width = recipe["size"]
    layers = [warp(layer, images, height, width) for layer in recipe["layers"]]
    picture = layers[0]
    if recipe["mixup"]:
        ratio, other = recipe["mixup"]["ratio"], layers[recipe["mixup"]["layer"]]
        picture = (picture * ratio + other * (1 - ratio)).astype(np.uint8)
    if recipe["cutmix"]:
        x1, y1, x2, y2 = recipe["cutmix"]["area"]
        picture = picture.copy()
        picture[y1:y2, x1:x2] = layers[recipe["cutmix"]["layer"]][y1:y2, x1:x2]
    if recipe["hsv"] and colours:
        picture = jitter(picture, recipe["hsv"])
    if recipe["flipud"]:
        picture = picture[::-1]
    if recipe["fliplr"]:
        picture = picture[:, ::-1]
    if recipe["bgr"]:
        picture = picture[..., ::-1]
    return np.ascontiguousarray(picture.transpose(2, 0, 1))
