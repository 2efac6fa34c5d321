"""What COCO train2017 is like, in numbers, so that drawn pictures can be like it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# train2017: 118,287 pictures in a zip file (stored, not deflated) of 19,336,861,798 bytes, and
# 860,001 boxes. The mean area is that of a sample of 159 pictures of it, in which 70 % had JPEG
# quality 96, 30 % quality 90, and all of them full chroma resolution (4:4:4).
IMAGES = 118_287
BYTES_PER_IMAGE = 163_500
PIXELS_PER_IMAGE = 274_000
OBJECTS_PER_IMAGE = 7.27

QUALITIES = ((96, 0.7), (90, 0.3))

# Width, height and share of all pictures; the rest (None) has one side of 640 and another at will.
SIZES: tuple[tuple[tuple[int, int] | None, float], ...] = (
    ((640, 480), 0.225), ((640, 427), 0.16), ((480, 640), 0.08), ((640, 426), 0.05),
    ((427, 640), 0.04), ((500, 375), 0.04), ((640, 428), 0.035), ((640, 425), 0.03),
    ((640, 424), 0.025), ((375, 500), 0.02), ((500, 333), 0.02), ((333, 500), 0.01),
    ((640, 360), 0.015), ((426, 640), 0.015), ((612, 612), 0.015), ((640, 640), 0.01), (None, 0.21),
)  # fmt: skip

# Share of pictures with at most this many objects.
_OBJECTS = (
    (0, 0.009), (1, 0.18), (2, 0.325), (3, 0.43), (4, 0.515), (5, 0.585), (6, 0.642), (7, 0.69),
    (8, 0.73), (9, 0.765), (10, 0.788), (14, 0.868), (18, 0.915), (23, 0.948), (28, 0.969),
    (33, 0.988), (50, 0.9985), (93, 1.0),
)  # fmt: skip

# Bytes a pixel by JPEG quality: quantiles of the same sample.
_SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BYTES_PER_PIXEL = {
    90: (0.18, 0.232, 0.314, 0.386, 0.488, 0.628, 0.72),
    96: (0.3, 0.431, 0.55, 0.699, 0.786, 0.926, 1.1),
}

# Side (root of the area) of boxes, in pixels: log-normal. 41 % of COCO's objects cover less than
# 32 x 32 pixels and 76 % less than 96 x 96; a box is about 1.6 times as large as its object.
BOX_SIDE_MEDIAN = 52.0
BOX_SIDE_SPREAD = 1.18

POINTS_PER_OUTLINE = 16  # median of 731 objects of COCO train2017

CLASSES = 80
PERSON_SHARE = 0.305  # of all objects; the other classes fall off like 1 / (rank + 8)


def object_counts(u: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Numbers of objects at quantiles `u` (0-1)."""
    counts, shares = zip(*_OBJECTS, strict=True)
    at = np.interp(u, shares, counts)
    return np.ceil(np.where(u <= shares[0], 0, at) - 1e-9).astype(np.int64)


def bytes_per_pixel(quality: int, u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bytes a pixel of files of a JPEG quality that COCO has, at quantiles `u` (0-1)."""
    return np.interp(u, _SHARES, _BYTES_PER_PIXEL[quality])


def class_shares() -> npt.NDArray[np.float64]:
    """Share (80,) of all objects that belong to each class."""
    others = 1.0 / (np.arange(CLASSES - 1) + 8)
    return np.concatenate([[PERSON_SHARE], (1 - PERSON_SHARE) * others / others.sum()])
