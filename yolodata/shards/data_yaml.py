"""data.yaml beside the splits: how Ultralytics' own code finds its way into a folder of shards."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import yaml

from yolodata.files import open_regular
from yolodata.folders import Folder
from yolodata.shards.reader import read_meta, splits

DATA_YAML = "data.yaml"
UNREAD = "as-files"
"""What data.yaml names in each split's folder and is never there, so that Ultralytics always asks
`download`, which it runs where pictures are missing."""

_OURS = "# Written by yolodata"
_HEAD = f"""\
{_OURS}, for Ultralytics' own validation: model.val(data=THIS FOLDER). The code under
# `download` says where pictures and labels are: in the dataset that was packed, while that is
# unchanged; else in files made of the shards. yolodata itself does not read this page.
"""

_DOWNLOAD = """\
from yolodata.ultralytics.as_files import name_files
name_files(yaml)
"""


def is_of_shards(file: Path) -> bool:
    """Whether a YAML was written beside shards, and is not one of a user's."""
    try:
        with os.fdopen(open_regular(file), "rb") as stream:
            return stream.read(len(_OURS)) == _OURS.encode()
    except OSError:
        return False


def write_data_yaml(root: str | os.PathLike[str]) -> Path:
    """Writes data.yaml into a folder of splits, if it says something else or is not there.

    One that a user wrote, as that of the source, stays as it is. Ours names no place outside the
    folder, which may be moved. A link to one of ours is replaced by a file.

    Raises:
        OSError: the folder cannot be written to.
        ShardError: a split is damaged.
    """
    found = splits(root)
    meta = read_meta(next(iter(found.values())))
    places = {split: f"{split}/{UNREAD}" for split in found}
    for needed in ("train", "val"):  # Ultralytics wants both named
        places.setdefault(needed, next(iter(places.values())))
    content: dict[str, Any] = {**places, "names": dict(meta.names)}
    if meta.kpt_shape is not None:
        content["kpt_shape"] = list(meta.kpt_shape)
    if meta.flip_idx is not None:
        content["flip_idx"] = list(meta.flip_idx)
    text = _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    text += "download: |\n" + "".join(f"  {line}\n" for line in _DOWNLOAD.splitlines())
    data = text.encode()
    with Folder.at(root) as folder:
        there = folder.stat(DATA_YAML)
        file = folder.path / DATA_YAML
        if there is not None and not is_of_shards(file) and file.exists():
            return file
        with contextlib.suppress(OSError):
            if folder.read(DATA_YAML, len(data)) == data:
                return file
        folder.check_ours()
        folder.replace_alone(DATA_YAML, data)
        return file
