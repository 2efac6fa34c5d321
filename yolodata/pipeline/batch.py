"""The dict that a training step gets: what Ultralytics' `YOLODataset.collate_fn` returns.

Keys are in alphabetical order, because upstream's collate sorts them. Per-image values are tuples
of plain Python values, one entry a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from yolodata.pipeline.subset import Subset

Batch = dict[str, Any]


def original_shapes(subset: Subset, images: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Returns height and width of the decoded originals of some images."""
    shards = subset.shards
    return _pairs(shards.orig_height[images], shards.orig_width[images])


def _pairs(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> tuple[Any, ...]:
    return tuple(zip(first.tolist(), second.tolist(), strict=True))


def assemble(
    *,
    image: torch.Tensor,
    labels: Mapping[str, npt.NDArray[Any] | torch.Tensor],
    im_file: tuple[str, ...],
    ori_shape: tuple[tuple[int, int], ...],
    ratio_pad: tuple[Any, ...],
    resized_shape: tuple[Any, ...],
) -> Batch:
    """Makes one batch.

    Returns:
        dict of
        batch_idx: float32 (N,), the picture each object belongs to;
        bboxes: float32 (N, 4), centre x, centre y, width, height in 0-1 of the picture; oriented
            ones (N, 5): the longer side as a share of the picture's width, the shorter one of its
            height, and the angle of the longer one in radians from -pi/4 to 3/4 pi;
        cls: float32 (N, 1);
        keypoints: float32 (N, K, 3), x, y in 0-1 and visibility; for poses only;
        masks, sem_masks: for segmentation only, of (h, w) = (H, W) // mask_ratio. masks: uint8
            (B, h, w), 0 or the number of an object of the picture from 1 on, small ones on top
            (int32 where a picture of the batch has more than 255); without overlap_mask uint8
            (N, h, w) of 0 and 1. sem_masks: float32 (B, h, w), classes. Upstream's uint8 becomes
            float32 in batches that hold a picture without objects; here it does not;
        im_file: tuple of B paths;
        img: uint8 (B, 3, H, W), RGB (on a device, what the loader was asked to make);
        ori_shape: tuple of B (height, width) of the decoded originals;
        ratio_pad: tuple of B (height ratio, width ratio) of stored to original size, in validation
            ((height ratio, width ratio), (left, top)) of picture to original and its padding;
        resized_shape: tuple of B (height, width) of the picture.
    """
    import torch

    batch: Batch = {
        **{name: torch.as_tensor(values) for name, values in labels.items()},
        "im_file": im_file,
        "img": image,
        "ori_shape": ori_shape,
        "ratio_pad": ratio_pad,
        "resized_shape": resized_shape,
    }
    return dict(sorted(batch.items()))


def training_batch(
    subset: Subset,
    images: npt.NDArray[np.int64],
    image: torch.Tensor,
    labels: Mapping[str, Any],
) -> Batch:
    """Makes a batch of augmented pictures.

    Like upstream, a picture made of several images is described by the first of them: its path,
    its original shape, and the ratio at which it was stored.

    Args:
        images: (B,) dataset index of the first image of every picture.
        image: (B, 3, H, W).
        labels: as `PendingBatch.labels` gives them.
    """
    shards = subset.shards
    height, width = shards.orig_height[images], shards.orig_width[images]
    size = (int(image.shape[2]), int(image.shape[3]))
    return assemble(
        image=image,
        labels=labels,
        im_file=shards.names(images),
        ori_shape=_pairs(height, width),
        ratio_pad=_pairs(subset.height[images] / height, subset.width[images] / width),
        resized_shape=(size,) * len(images),
    )
