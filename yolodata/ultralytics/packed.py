"""Shards for a dataset that is given as Ultralytics is given it, packed once and kept."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolodata.errors import DatasetError, ShardError
from yolodata.shards import ShardDataset, read_meta, splits
from yolodata.shards import open as open_shards
from yolodata.ultralytics.settings import Settings

log = logging.getLogger("yolodata")


def is_shards(path: str | Path) -> bool:
    """Whether this is a folder that `yolodata shard` wrote."""
    return Path(path).is_dir() and bool(splits(path))


def describe_shards(path: str | Path, split: str) -> dict[str, Any]:
    """What Ultralytics' `check_det_dataset` returns, for a folder of shards.

    Raises:
        DatasetError: the folder lacks the split to validate on, or the one to train on.
    """
    found = splits(path)
    for needed in ("train", split or "val"):
        if needed not in found:
            raise DatasetError(
                f"{path} holds the splits {', '.join(found)}, but training needs '{needed}'; pack "
                "it with `yolodata shard`, or name another one with split="
            )
    meta = read_meta(found["train"])
    data: dict[str, Any] = {
        "path": Path(path).resolve(),
        "names": dict(meta.names),
        "nc": len(meta.names),
        "channels": 3,
        **{name: str(folder) for name, folder in found.items()},
    }
    if meta.kpt_shape is not None:
        data["kpt_shape"] = list(meta.kpt_shape)
    if meta.flip_idx is not None:
        data["flip_idx"] = list(meta.flip_idx)
    return data


def cache_folder(data: dict[str, Any], imgsz: int, settings: Settings, task: str) -> Path:
    """Where the shards of a dataset YAML are kept: never inside the dataset."""
    yaml_file = Path(data["yaml_file"])
    root = Path(data.get("path") or yaml_file.parent).resolve()
    name = f"{yaml_file.stem}-{settings.codec}"
    name += "" if task == "detect" else f"-{task}"
    name += f"-{imgsz}" if settings.codec == "raw" else ""
    if settings.folder is not None:
        return Path(settings.folder).expanduser() / root.name / name
    beside = root.parent / f"{root.name}.yolodata"
    if os.access(beside if beside.exists() else root.parent, os.W_OK):
        return beside / name
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    log.warning("%s cannot be written to; packing into %s", root.parent, home / "yolodata")
    return home / "yolodata" / root.name / name


def packed(
    data: dict[str, Any],
    split: str,
    imgsz: int,
    settings: Settings,
    *,
    single_cls: bool,
    task: str,
    show: bool,
) -> ShardDataset:
    """The shards of one split of a dataset YAML; packs, repacks or re-labels where needed.

    Other processes that want the same wait for the one that packs.

    Args:
        data: what `check_det_dataset` made of the YAML.
        split: "train", "val" or "test".
        imgsz: longer side of the pictures.
        settings: where to and how.
        single_cls: as in upstream's arguments: class numbers above the names are not errors then.
        task: label decisions of pose differ from those of detect.
        show: whether this process shows a progress bar.
    """
    from yolodata.ingest import fingerprint, pack, relabel

    source, out = data["yaml_file"], cache_folder(data, imgsz, settings, task)
    folder = out / split
    out.mkdir(parents=True, exist_ok=True)
    with _lock(out / f".{split}.lock"):
        try:
            meta = read_meta(folder)
        except ShardError:
            meta = None
        wanted = fingerprint(source, split)
        stored = meta.source.get("fingerprint", {}) if meta is not None else {}
        same_rules = meta is not None and meta.source.get("single_cls") == single_cls
        if meta is None or stored != wanted or not same_rules:
            only_labels = same_rules and stored.get("images") == wanted["images"]
            # An image that was left out for its labels has no pixels to come back with.
            if only_labels and meta is not None and not meta.left_out:
                log.info("the labels of %s changed; reading them again", split)
                relabel(out, source, splits=[split])
            else:
                log.info("packing %s of %s into %s", split, source, folder)
                report = pack(
                    source,
                    out,
                    codec=settings.codec,
                    imgsz=imgsz,
                    workers=settings.workers,
                    splits=[split],
                    progress=show,
                    single_cls=single_cls,
                    task=task,
                    overwrite=True,
                )
                for name, reason in report.splits[split].left_out:
                    log.warning("%s: left out: %s", name, reason)
    return open_shards(folder)


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
