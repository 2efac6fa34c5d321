"""What a saved position in the stream must agree on with the loader that takes it up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from yolodata.errors import ConfigError
from yolodata.pipeline.subset import Subset


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


def compare(saved: dict[str, Any], mine: dict[str, Any]) -> None:
    """Checks that a saved state belongs to a loader.

    Raises:
        ConfigError: it does not; every difference is named.
    """
    missing = sorted(set(mine) - set(saved))
    if missing:
        raise ConfigError(
            f"the state lacks {missing}; give what Loader.state_dict returned, got {sorted(saved)}"
        )
    if saved["version"] != mine["version"]:
        raise ConfigError(
            f"the state has version {saved['version']}, this yolodata reads {mine['version']}; "
            "resume with the version that wrote it"
        )
    differences = [
        f"  {name}: {old!r} in the state, {new!r} in this loader"
        for group in ("dataset", "settings")
        for name, old, new in _leaves(group, plain(saved[group]), plain(mine[group]))
    ]
    if differences:
        raise ConfigError(
            "the state was saved with another dataset or other settings, so the stream cannot go "
            "on; make the loader with the same ones, or start a new run:\n" + "\n".join(differences)
        )


def _leaves(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [
            leaf for key in keys for leaf in _leaves(f"{name}.{key}", old.get(key), new.get(key))
        ]
    return [] if old == new else [(name, old, new)]
