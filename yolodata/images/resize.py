"""The resize rule of Ultralytics' `load_image`: the longer side becomes imgsz."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]


def resized_shape(height: int, width: int, imgsz: int) -> tuple[int, int]:
    """Gives the size of an image after its longer side was resized to `imgsz`.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        imgsz: in pixels.

    Returns:
        (height, width) in pixels; the shorter side is rounded up.
    """
    ratio = imgsz / max(height, width)
    if ratio == 1:
        return height, width
    return min(math.ceil(height * ratio), imgsz), min(math.ceil(width * ratio), imgsz)


def resized_shapes(height: Array, width: Array, imgsz: int) -> tuple[Array, Array]:
    """Does the same for columns of sizes (N,); returns whole numbers, as float64 columns (N,)."""
    h, w = height.astype(np.float64), width.astype(np.float64)
    ratio = imgsz / np.maximum(h, w)
    return np.minimum(np.ceil(h * ratio), imgsz), np.minimum(np.ceil(w * ratio), imgsz)


def resize(picture: Picture, shape: tuple[int, int], target: Picture | None = None) -> Picture:
    """Resizes pixels as upstream does: linear interpolation by OpenCV.

    Args:
        picture: uint8 (h, w, 3).
        shape: (height, width) in pixels.
        target: C-contiguous uint8 (height, width, 3), which is written to if anything is done.

    Returns:
        uint8 (height, width, 3): `picture` itself if it has this size, else `target` or new memory.
    """
    if shape == picture.shape[:2]:
        return picture
    import cv2

    resized: Picture = cv2.resize(picture, shape[::-1], target, interpolation=cv2.INTER_LINEAR)
    return resized
