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
from yolodata.pipeline.subset import Selection

if TYPE_CHECKING:
    from yolodata import _native

log = logging.getLogger("yolodata")
Labels = dict[str, npt.NDArray[Any]]
"""cls (N, 1), bboxes (N, 4), batch_idx (N,), float32, and what the task adds to them (see
`yolodata.pipeline.batch.assemble`)."""


def labels_without(
    selection: Selection, recipes: Sequence[_native.Recipe], bad: frozenset[int]
) -> Labels:
    """Labels of a batch as if the images in `bad` had no objects."""
    from yolodata import _native

    parts: list[Labels] = []
    for recipe in recipes:
        values: dict[str, Any] = recipe.to_dict()
        tiles = [tile for layer in values["layers"] for tile in layer["tiles"]]
        images = sorted({tile["image"] for tile in tiles})
        for tile in tiles:
            tile["image"] = images.index(tile["image"])
        renumbered = _native.Recipe.from_dict(values)
        table = selection.excerpt(images, bad)
        masks = selection.mask_ratio, selection.overlap_mask
        parts.append(_native.labels(renumbered, table, *masks))
    counts = [len(part["cls"]) for part in parts]
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return together | {"batch_idx": np.repeat(np.arange(len(parts), dtype=np.float32), counts)}


def report_bad(
    selection: Selection, bad: dict[int, str], reported: set[int], max_bad: float
) -> None:
    """Log images that turned out to be unreadable, each once, by adding them to `reported`.

    Raises:
        ShardError: they are more than the share `max_bad` of the images (and more than one, unless
            `max_bad` is 0).
    """
    if len(bad) == len(reported):
        return
    name, images = selection.shards.name, selection.images
    for image in sorted(set(bad) - reported):
        reported.add(image)
        log.warning(
            "%s cannot be read and is replaced by a grey picture without objects: %s",
            name(image),
            bad[image],
        )
    if len(bad) <= (max(1, int(max_bad * images)) if max_bad else 0):
        return
    listed = "".join(f"\n  {name(i)}: {bad[i]}" for i in sorted(bad)[:50])
    more = f"\n  and {len(bad) - 50} more" if len(bad) > 50 else ""
    raise ShardError(
        f"{len(bad)} of {images} images cannot be read, more than max_bad={max_bad:.2%}; repair "
        f"them and pack again, or raise max_bad:{listed}{more}"
    )
