"""Cheap identity of a source: has it changed since it was packed?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yolodata.ingest.sample import Source


def fingerprint(
    source: str | Path | Mapping[str, Any] | Source, split: str, **options: Any
) -> dict[str, str]:
    """Hashes one split, without opening a file but the description of the dataset.

    Equal `images` and different `labels` mean that labels can be read again without touching
    pixels.

    Args:
        source: what `open_source` takes, or gave.
        split: "train", "val" or "test".
        options: what `open_source` takes, for COCO and VOC.

    Returns:
        {"images": …, "labels": …}, 32 hexadecimal digits each. `images` covers path, size and
        modification time of every image, `labels` those of every label file and also names,
        kpt_shape and flip_idx.
    """
    if not isinstance(source, Source):
        from yolodata.ingest.source import open_source

        source = open_source(source, splits=[split], **options)
    images = source.splits[split]
    facts = [source.names, source.kpt_shape, source.flip_idx]
    return {
        "images": _hash(images.paths),
        "labels": _hash(images.label_files(), json.dumps(facts, sort_keys=True)),
    }


def _hash(paths: Iterable[str], extra: str = "") -> str:
    digest = hashlib.blake2b(extra.encode(), digest_size=16)
    for path in paths:
        try:
            stat = os.stat(path)
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except (OSError, ValueError):  # ValueError: no file can have this name
            state = "absent"
        digest.update(os.fsencode(path) + b"\0" + state.encode() + b"\n")
    return digest.hexdigest()
