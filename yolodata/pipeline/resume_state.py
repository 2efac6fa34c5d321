"""What a saved position in the stream must agree on with the loader that takes it up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolodata.checks import shown, whole
from yolodata.errors import ConfigError
from yolodata.pipeline.schedule import MAX_EPOCH, MAX_SEED
from yolodata.pipeline.subset import Subset

_NAMED = 20  # differences in one message


def plain(values: Any) -> Any:
    """Returns the value as JSON would give it back: lists for tuples, strings for keys.

    NumPy's numbers become Python's.
    """
    return json.loads(json.dumps(values, default=lambda number: number.item()))


def dataset_fingerprint(subset: Subset) -> dict[str, Any]:
    """Returns what identifies the images and labels that a stream is made of."""
    import xxhash

    labels, pixels = xxhash.xxh3_128(), xxhash.xxh3_128()
    shards, polygon = subset.shards, subset.polygon
    for column in (subset.object_offset, subset.cls, subset.box, polygon):
        if column is not None:
            labels.update(np.ascontiguousarray(column).data)
    for facts in (subset.height, subset.width, shards.checksum[: subset.images]):
        pixels.update(np.ascontiguousarray(facts).data)
    return {
        "images": subset.images,
        "objects": len(subset.cls),
        "codec": shards.meta.codec,
        "imgsz": int(subset.imgsz),
        "pixels": pixels.hexdigest(),
        "labels": labels.hexdigest(),
    }


@dataclass(frozen=True)
class Place:
    """Where in which stream a saved state goes on."""

    seed: int
    epoch: int
    position: int
    mosaic_closed: bool


def place_of(saved: Any, mine: dict[str, Any], subset: Subset) -> Place:
    """Returns where a saved state goes on, after checking that it belongs to a loader.

    Args:
        saved: what somebody says is a state.
        mine: the state of the loader.
        subset: its images.

    Raises:
        ConfigError: it is no state, or that of another dataset or of other settings; every
            difference is named.
    """
    give = "give what Loader.state_dict returned"
    if not isinstance(saved, dict):
        raise ConfigError(f"a state is a dict; {give}, got {shown(saved)}")
    missing = sorted(set(mine) - set(saved))
    if missing:
        raise ConfigError(f"the state lacks {missing}; {give}, got {shown(list(saved))}")
    version = saved["version"]
    if type(version) is not int or version != mine["version"]:
        raise ConfigError(
            f"the state has version {shown(version)}, this yolodata reads {mine['version']}; "
            "resume with the version that wrote it"
        )
    differences = [
        f"  {name}: {shown(old)} in the state, {shown(new)} in this loader"
        for group in ("dataset", "settings")
        for name, old, new in _leaves(group, _plain_part(saved, group), plain(mine[group]))
    ]
    if differences:
        more = len(differences) - _NAMED
        if more > 0:
            differences[_NAMED:] = [f"  and {more} more"]
        raise ConfigError(
            "the state was saved with another dataset or other settings, so the stream cannot go "
            "on; make the loader with the same ones, or start a new run:\n" + "\n".join(differences)
        )
    closed = saved["mosaic_closed"]
    if not isinstance(closed, bool):
        raise ConfigError(f"mosaic_closed must be True or False, got {shown(closed)}; {give}")
    where = f" for the {subset.images} images of {subset.shards.path}"
    return Place(
        whole("seed", saved["seed"], 0, MAX_SEED),
        whole("epoch", saved["epoch"], 0, MAX_EPOCH),
        whole("position", saved["position"], 0, subset.images, where),
        closed,
    )


def _plain_part(saved: dict[str, Any], group: str) -> Any:
    try:
        return plain(saved[group])
    except (AttributeError, RuntimeError, TypeError, ValueError):  # nested too deep; a tensor
        raise ConfigError(
            f"what the state says under {group!r} is no plain data, got {shown(saved[group])}; "
            "give what Loader.state_dict returned"
        ) from None


def _leaves(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [
            leaf for key in keys for leaf in _leaves(f"{name}.{key}", old.get(key), new.get(key))
        ]
    return [] if old == new else [(name, old, new)]
