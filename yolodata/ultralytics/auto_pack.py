"""Shards for a dataset that is given as Ultralytics is given it, packed once and kept."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from yolodata.errors import DatasetError, ShardError
from yolodata.shards import DatasetMeta, ShardDataset, read_meta, splits
from yolodata.shards import open as open_shards
from yolodata.shards.class_names import check_same_classes
from yolodata.ultralytics.settings import Settings

log = logging.getLogger("yolodata")


def is_shards(path: str | Path) -> bool:
    """Whether this is a folder that `yolodata shard` wrote."""
    return Path(path).is_dir() and bool(splits(path))


def describe_shards(path: str | Path, split: str) -> dict[str, Any]:
    """What Ultralytics' `check_det_dataset` returns, for a folder of shards.

    Raises:
        DatasetError: the folder lacks the split to validate on, or the one to train on, or their
            classes differ.
    """
    found = splits(path)
    for needed in ("train", split or "val"):
        if needed not in found:
            raise DatasetError(
                f"{path} holds the splits {', '.join(found)}, but training needs '{needed}'; pack "
                "it with `yolodata shard`, or name another one with split="
            )
    used = dict.fromkeys(("train", split or "val"))
    metas = {name: read_meta(found[name]) for name in used}
    check_same_classes({str(found[name]): meta.names for name, meta in metas.items()})
    meta = metas["train"]
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
    """Where the shards of a dataset YAML are kept: never inside the dataset.

    Beside it, or else in a common folder, where datasets of one name may meet. YAML files of one
    name (folds, say) may describe the same dataset differently. Each has a folder of its own.
    """
    yaml_file = Path(data["yaml_file"]).resolve()
    root = Path(data.get("path") or yaml_file.parent).resolve()
    name = f"{yaml_file.stem}-{settings.codec}"
    name += "" if task == "detect" else f"-{task}"
    name += f"-{imgsz}" if settings.codec == "raw" else ""
    name += f"-{_short_hash(os.path.relpath(yaml_file, root))}"
    common = f"{root.name}-{_short_hash(str(root))}"
    if settings.folder is not None:
        return Path(settings.folder).expanduser() / common / name
    beside = root.parent / f"{root.name}.yolodata"
    if os.access(beside if beside.exists() else root.parent, os.W_OK):
        return beside / name
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    log.warning("%s cannot be written to; packing into %s", root.parent, home / "yolodata")
    return home / "yolodata" / common / name


def _short_hash(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(os.fsencode(text))[:6]


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
            What is packed without it serves, unless that lost images for their classes; else
            there is a folder of its own beside.
        task: label decisions of pose differ from those of detect.
        show: whether this process shows a progress bar.
    """
    from yolodata.ingest import pack
    from yolodata.ingest.labels import UNNAMED

    source, out = data["yaml_file"], cache_folder(data, imgsz, settings, task)
    if single_cls:
        if out.is_dir():
            with _lock(out, split):
                meta = _current(source, out, split, single_cls=False)
                if meta and not any(why.startswith(UNNAMED) for _, why in meta.left_out):
                    return _opened(out / split)
        out = out.with_name(f"{out.name}-single_cls")
    out.mkdir(parents=True, exist_ok=True)
    with _lock(out, split):
        if _current(source, out, split, single_cls) is None:
            log.info("packing %s of %s into %s", split, source, out / split)
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
        return _opened(out / split)


def _opened(path: Path) -> ShardDataset:
    """A dataset that stays readable as it is, whoever packs into its folder later."""
    shards = open_shards(path)
    if shards.mapped:
        for number in range(len(shards.meta.shards)):
            shards.shard_data(number)
    return shards


def _current(source: str, out: Path, split: str, single_cls: bool) -> DatasetMeta | None:
    """What was packed of a split, with its labels read again if they changed; None: pack it."""
    from yolodata.ingest.fingerprint import fingerprint
    from yolodata.ingest.relabel import relabel

    try:
        meta = read_meta(out / split)
    except ShardError:
        return None
    if meta.source.get("single_cls") != single_cls:
        return None
    wanted, stored = fingerprint(source, split), meta.source.get("fingerprint", {})
    if stored == wanted:
        return meta
    # An image that was left out for its labels has no pixels to come back with.
    if stored.get("images") != wanted["images"] or meta.left_out:
        return None
    log.info("the labels of %s changed; reading them again", split)
    relabel(out, source, splits=[split])
    return read_meta(out / split)


@contextmanager
def _lock(out: Path, split: str) -> Iterator[None]:
    with (out / f".{split}.lock").open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
