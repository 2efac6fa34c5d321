"""What a recipe looks like, the slow way: an oracle in NumPy.

It does what the native renderer avoids: lays every canvas out in memory, warps it as a whole, then
mixes, cuts, recolours and flips whole pictures. Written from what Ultralytics and OpenCV 5 do;
where they compute in single precision, so does this, operation by operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

GREY = 114
F32 = np.float32
Array = npt.NDArray[Any]


def render(recipe: dict[str, Any], images: dict[int, Array]) -> Array:
    """A recipe's picture, uint8 (3, H, W), from uint8 (h, w, 3) RGB images by number."""
    picture = shown(recipe, 0, images)
    if recipe["mixup"]:
        ratio = recipe["mixup"]["ratio"]
        other = shown(recipe, recipe["mixup"]["layer"], images)
        picture = (picture * ratio + other * (1 - ratio)).astype(np.uint8)
    if recipe["cutmix"]:
        x1, y1, x2, y2 = recipe["cutmix"]["area"]
        other = shown(recipe, recipe["cutmix"]["layer"], images)
        picture[y1:y2, x1:x2] = other[y1:y2, x1:x2]
    if recipe["hsv"]:
        picture = recolour(picture, recipe["hsv"])
    if recipe["flipud"]:
        picture = picture[::-1]
    if recipe["fliplr"]:
        picture = picture[:, ::-1]
    if recipe["bgr"]:
        picture = picture[..., ::-1]
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def shown(recipe: dict[str, Any], which: int, images: dict[int, Array]) -> Array:
    """One layer as the picture shows it, with what is pasted onto it."""
    layer, (height, width) = recipe["layers"][which], recipe["size"]
    pixels, paste = canvas(layer, images), layer.get("paste")
    if paste and paste["layer"] == which:
        mask = covered(paste["runs"], *pixels.shape[:2])
        pixels[mask] = pixels[:, ::-1][mask]
    picture = warp(pixels, layer, height, width)
    if paste and paste["layer"] != which:
        mask = covered(paste["runs"], height, width)
        picture[mask] = shown(recipe, paste["layer"], images)[mask]
    return picture


def covered(runs: list[list[int]], height: int, width: int) -> Array:
    """bool (H, W) of runs [row, x1, x2]."""
    mask = np.zeros((height, width), bool)
    for y, x1, x2 in runs:
        mask[y, x1:x2] = True
    return mask


def canvas(layer: dict[str, Any], images: dict[int, Array]) -> Array:
    """The mosaic: tiles in their order on grey."""
    height, width = layer["canvas"]
    pixels = np.full((height, width, 3), GREY, np.uint8)
    for tile in layer["tiles"]:
        x1, y1, x2, y2, x0, y0 = (tile[key] for key in ("x1", "y1", "x2", "y2", "x0", "y0"))
        if x1 < x2 and y1 < y2:
            shown = images[tile["image"]][y1 - y0 : y2 - y0, x1 - x0 : x2 - x0]
            assert shown.shape[:2] == (y2 - y1, x2 - x1)
            pixels[y1:y2, x1:x2] = shown
    return pixels


def inverse(layer: dict[str, Any]) -> Array:
    """Picture to canvas, float32: by cofactors, in double precision."""
    m = np.asarray(layer["matrix"], F32).astype(np.float64).reshape(3, 3)
    a = np.roll(m, (-1, -1), (0, 1)) * np.roll(m, (-2, -2), (0, 1))
    b = np.roll(m, (-1, -2), (0, 1)) * np.roll(m, (-2, -1), (0, 1))
    cofactors = a - b
    with np.errstate(all="ignore"):
        determinant = m[0, 0] * cofactors[0, 0] + m[0, 1] * cofactors[0, 1]
        return (cofactors / (determinant + m[0, 2] * cofactors[0, 2])).T.astype(F32)


def fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32, rounded once.

    The product is exact in double precision. Its sum with c is rounded to odd (an inexact result
    takes the neighbour whose last bit is set), after which rounding to float32 is right.
    """
    a, b, c = np.broadcast_arrays(*(np.asarray(v, F32).astype(np.float64) for v in (a, b, c)))
    with np.errstate(all="ignore"):
        product = a * b
        total = product + c
        back = total - product
        error = (product - (total - back)) + (c - back)
        even = (total.view(np.int64) & 1) == 0
        towards = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
        inexact = np.isfinite(total) & (error != 0) & even
        return np.where(inexact, towards, total).astype(F32)


def coordinates(layer: dict[str, Any], height: int, width: int) -> tuple[Array, Array]:
    """Where on the canvas each output pixel's centre lies: x and y, float32 (H, W)."""
    m = inverse(layer)
    y, x = (grid.astype(F32) for grid in np.mgrid[0:height, 0:width])
    with np.errstate(all="ignore"):
        u, v, w = (fused(row[0], x, row[1] * y + row[2]) for row in m)
        return (u / w, v / w) if layer["perspective"] else (u, v)


def warp(pixels: Array, layer: dict[str, Any], height: int, width: int) -> Array:
    """Linear sampling: two blends across, one down. Each neighbour off the canvas is grey."""
    u, v = coordinates(layer, height, width)
    rows, columns = pixels.shape[:2]
    inside = (u > -1) & (v > -1) & (u < columns) & (v < rows)  # not where they are no numbers
    u, v = np.where(inside, u, F32(0)), np.where(inside, v, F32(0))
    left, top = np.floor(u), np.floor(v)
    across, down = (u - left)[..., None], (v - top)[..., None]
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), constant_values=GREY).astype(F32)
    i, j = top.astype(int) + 1, left.astype(int) + 1

    def blend(a: Array, b: Array, weight: Array) -> Array:
        return fused(weight, b - a, a)

    upper = blend(padded[i, j], padded[i, j + 1], across)
    lower = blend(padded[i + 1, j], padded[i + 1, j + 1], across)
    sampled = np.rint(blend(upper, lower, down)).astype(np.uint8)
    return np.where(inside[..., None], sampled, np.uint8(GREY))


def jitter(rgb: Array, draws: list[float]) -> Array:
    """HSV jitter as Ultralytics does it, by OpenCV itself; uint8 (H, W, 3) RGB in and out."""
    import cv2

    table = np.stack(tables(draws), -1).astype(np.uint8)[None]
    hsv = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2HSV)
    changed: Array = cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)
    return changed


def recolour(rgb: Array, draws: list[float]) -> Array:
    """The same written out."""
    hue_table, saturation_table, value_table = tables(draws)
    hue, saturation, value = to_hsv(rgb)
    return from_hsv(hue_table[hue], saturation_table[saturation], value_table[value])


def tables(draws: list[float]) -> tuple[Array, Array, Array]:
    """Where each hue, saturation and value goes."""
    x = np.arange(256, dtype=np.float64)
    hue = ((x + draws[0] * 180) % 180).astype(np.int64)
    saturation, value = (np.clip(x * (draw + 1), 0, 255).astype(np.int64) for draw in draws[1:])
    return hue, saturation, value


def to_hsv(rgb: Array) -> tuple[Array, Array, Array]:
    """OpenCV's integer conversion: hue 0..179, saturation and value 0..255."""
    r, g, b = (rgb[..., c].astype(np.int64) for c in range(3))
    value = np.maximum(np.maximum(r, g), b)
    spread = value - np.minimum(np.minimum(r, g), b)
    numbers = np.maximum(np.arange(256), 1)
    by_value = np.rint((255 << 12) / numbers).astype(np.int64)
    by_spread = np.rint((180 << 12) / (6.0 * numbers)).astype(np.int64)
    wheel = np.where(
        value == r, g - b, np.where(value == g, b - r + 2 * spread, r - g + 4 * spread)
    )
    half = 1 << 11
    saturation = (spread * by_value[value] + half) >> 12
    hue = (wheel * by_spread[spread] + half) >> 12
    return np.where(hue < 0, hue + 180, hue), saturation, value


def from_hsv(hue: Array, saturation: Array, value: Array) -> Array:
    """OpenCV's conversion in single precision, cut off to uint8 (its loop over whole registers)."""
    unit = F32(1) / F32(255)
    s, v = saturation.astype(F32) * unit, value.astype(F32) * unit
    sixths = hue.astype(F32) * (F32(6) / F32(180))
    sector = sixths.astype(np.int64)
    past = sixths - sector.astype(F32)
    share = np.where(sector % 2 == 1, past, F32(1) - past)
    middle = (v * fused(-s, share, F32(1)) * F32(255)).astype(np.uint8)
    low = (v * (F32(1) - s) * F32(255)).astype(np.uint8)
    top = value.astype(np.uint8)
    red = np.choose(sector, [top, middle, low, low, middle, top])
    green = np.choose(sector, [middle, top, top, middle, low, low])
    blue = np.choose(sector, [low, low, middle, top, top, middle])
    return np.stack([red, green, blue], -1)
