"""What is done about images that turn out to be unreadable while training.

They are shown grey, their objects are left out, they are named in the log, and too many of them
end the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import ShardError
from yolodata.pipeline.subset import Subset

if TYPE_CHECKING:
    from yolodata import _native

log = logging.getLogger("yolodata")
Labels = dict[str, npt.NDArray[Any]]
"""cls (N, 1), bboxes (N, 4), batch_idx (N,), float32, and what the task adds to them (see
`yolodata.pipeline.batch.assemble`)."""


def labels_without(
    subset: Subset, recipes: Sequence[_native.Recipe], unreadable: frozenset[int]
) -> Labels:
    """Returns labels of a batch as if the images in `unreadable` had no objects."""
    from yolodata import _native

    parts: list[Labels] = []
    for recipe in recipes:
        values: dict[str, Any] = recipe.to_dict()
        tiles = [tile for layer in values["layers"] for tile in layer["tiles"]]
        images = sorted({tile["image"] for tile in tiles})
        for tile in tiles:
            tile["image"] = images.index(tile["image"])
        renumbered = _native.Recipe.from_dict(values)
        table = subset.excerpt(images, unreadable)
        masks = subset.mask_ratio, subset.overlap_mask
        parts.append(_native.labels(renumbered, table, *masks))
    counts = [len(part["cls"]) for part in parts]
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return together | {"batch_idx": np.repeat(np.arange(len(parts), dtype=np.float32), counts)}


def report_unreadable(
    subset: Subset, unreadable: dict[int, str], reported: set[int], share: float
) -> None:
    """Logs images that turned out to be unreadable, each once, by adding them to `reported`.

    Raises:
        ShardError: they are more than a share of the images (and more than one, unless that is 0).
    """
    if len(unreadable) == len(reported):
        return
    name, images = subset.shards.name, subset.images
    for image in sorted(set(unreadable) - reported):
        reported.add(image)
        log.warning(
            "%s cannot be read and is replaced by a grey image without objects: %s",
            name(image),
            unreadable[image],
        )
    if len(unreadable) <= (max(1, int(share * images)) if share else 0):
        return
    listed = "".join(f"\n  {name(i)}: {unreadable[i]}" for i in sorted(unreadable)[:50])
    more = f"\n  and {len(unreadable) - 50} more" if len(unreadable) > 50 else ""
    raise ShardError(
        f"{len(unreadable)} of {images} images cannot be read, more than max_unreadable="
        f"{share:.2%}; repair them and pack again, or raise max_unreadable:{listed}{more}"
    )
