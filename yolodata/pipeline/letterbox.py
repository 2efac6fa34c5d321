"""Validation pictures: which go together, how large they get, and where their objects end up.

Every operation on a label is done in the order and the precision of upstream's `LetterBox` and
`Format`, so that the numbers are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def aspect_order(height: npt.NDArray[Any], width: npt.NDArray[Any]) -> Int64:
    """Images (N,) from the widest to the tallest, ties as NumPy's default sort leaves them."""
    return (height.astype(np.int64) / width.astype(np.int64)).argsort().astype(np.int64)


def batch_shapes(
    height: npt.NDArray[Any],
    width: npt.NDArray[Any],
    batch_size: int,
    imgsz: int,
    stride: int,
    pad: float,
) -> Int64:
    """Returns height and width (batches, 2) of batches of images sorted by aspect ratio.

    A batch of wide images is as high as its highest one needs, a batch of tall ones as wide;
    others are square. Sides are multiples of `stride`, with `pad` strides of margin.
    """
    ratio = height.astype(np.int64) / width.astype(np.int64)
    shapes = []
    for start in range(0, len(ratio), batch_size):
        part = ratio[start : start + batch_size]
        low, high = part.min(), part.max()
        shapes.append([high, 1] if high < 1 else [1, 1 / low] if low > 1 else [1, 1])
    sides = np.array(shapes, dtype=np.float64) * imgsz / stride + pad
    return np.ceil(sides).astype(np.int64) * stride


class Placement(NamedTuple):
    """A picture inside its padded output."""

    height: int  # after shrinking, where the output is smaller than the picture
    width: int
    top: int
    left: int
    ratio: Any  # float, or numpy.float64: labels are scaled in that precision


def place(height: int, width: int, shape: Sequence[Any]) -> Placement:
    """Centres an image in an output of `shape` (height, width); it is never enlarged."""
    ratio = min(min(shape[0] / height, shape[1] / width), 1.0)
    new_width, new_height = max(round(width * ratio), 1), max(round(height * ratio), 1)
    # Half a pixel too much goes to the bottom and to the right.
    top = round((shape[0] - new_height) / 2 - 0.1)
    left = round((shape[1] - new_width) / 2 - 0.1)
    return Placement(new_height, new_width, top, left, ratio)


def recipe(image: int, placement: Placement, shape: Sequence[Any]) -> dict[str, Any]:
    """Returns the recipe (as a dict) that copies one image into its padded output."""
    height, width, top, left, _ = placement
    tile = {"image": image, "x1": 0, "y1": 0, "x2": width, "y2": height, "x0": 0, "y0": 0}
    layer = {
        "canvas": [height, width],
        "tiles": [{**tile, "height": height, "width": width}],
        "matrix": [1.0, 0.0, float(left), 0.0, 1.0, float(top), 0.0, 0.0, 1.0],
        "perspective": False,
        "scale": 1.0,
    }
    return {"size": [int(shape[0]), int(shape[1])], "layers": [layer]}


def padded_boxes(
    box: Float32,
    size: tuple[int, int],
    placement: Placement,
    shape: Sequence[Any],
) -> Float32:
    """Boxes (n, 4) centre x, centre y, width, height: from 0-1 of a picture to 0-1 of its output.

    Args:
        box: float32 labels.
        size: height and width of the picture before placing.
        placement: from `place`.
        shape: height and width of the output.
    """
    height, width = size
    half = box[:, 2:] / 2
    corners = np.concatenate((box[:, :2] - half, box[:, :2] + half), axis=1)
    corners *= np.array([width, height, width, height], dtype=np.float32)
    if placement.ratio != 1:
        corners *= placement.ratio  # in the precision of the ratio's own type
    corners += np.array([placement.left, placement.top] * 2, dtype=np.float32)
    x1, y1, x2, y2 = corners.T
    result = np.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), axis=1)
    result /= np.array([shape[1], shape[0]] * 2, dtype=np.float32)
    return result


def oriented_boxes(outlines: Sequence[Float32], shape: Sequence[Any]) -> Float32:
    """Returns oriented boxes (n, 5) of outlines (k, 2) in pixels of an output of `shape`.

    See `yolodata.pipeline.batch.assemble` for what the numbers are. The training planner finds
    these rectangles natively; here they are OpenCV's, to the bit.
    """
    import cv2

    boxes = []
    for outline in outlines:
        (x, y), (width, height), degrees = cv2.minAreaRect(outline)
        angle = degrees / 180 * np.pi
        if width < height:
            width, height, angle = height, width, angle + np.pi / 2
        while angle >= 3 * np.pi / 4:
            angle -= np.pi
        while angle < -np.pi / 4:
            angle += np.pi
        boxes.append((x, y, width, height, angle))
    result = np.array(boxes, dtype=np.float32).reshape(-1, 5)
    result[:, :4] /= np.array([shape[1], shape[0]] * 2, dtype=np.float32)
    return result


def padded_keypoints(
    keypoints: Float32,
    size: tuple[int, int],
    placement: Placement,
    shape: Sequence[Any],
) -> Float32:
    """Keypoints (n, K, 3) x, y, visibility: from 0-1 of a picture to 0-1 of its output.

    Arguments as for `padded_boxes`.
    """
    height, width = size
    result: Float32 = keypoints.copy()
    result[..., :2] *= np.array([width, height], dtype=np.float32)
    if placement.ratio != 1:
        result[..., :2] *= placement.ratio
    result[..., :2] += np.array([placement.left, placement.top], dtype=np.float32)
    result[..., :2] /= np.array([shape[1], shape[0]], dtype=np.float32)
    return result
