"""Shards for a dataset that is given as Ultralytics is given it, packed once and kept."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from yolodata.errors import ConfigError, DatasetError, ShardError
from yolodata.files import resolved
from yolodata.folders import Folder
from yolodata.ingest.pack_cache import (
    CODEC_LOCK,
    LOCKS,
    home,
    open_common,
    open_kept,
    remember,
)
from yolodata.ingest.source import lacks_yaml
from yolodata.shards import DatasetMeta, ShardDataset, read_meta, splits
from yolodata.shards import open as open_shards
from yolodata.shards.class_names import check_same_classes
from yolodata.shards.format import SPLITS
from yolodata.shards.left_out import LEFT_OUT
from yolodata.shards.lock import file_lock, storage_error
from yolodata.shards.notes import NOTES
from yolodata.ultralytics.settings import Settings

log = logging.getLogger("yolodata")


def is_shards(path: str | Path) -> bool:
    """Whether this is a folder that `yolodata shard` wrote."""
    return Path(path).is_dir() and bool(splits(path))


def for_our_loader(data: str | Path, but: str) -> ConfigError:
    """Returns the error of shards that Ultralytics' loader would have to read.

    Args:
        data: the shards.
        but: why that would be, and what to give instead, in words.
    """
    return ConfigError(
        f"{data}: is a folder of shards, and only yolodata's loader reads those, {but}"
    )


def refuse_unpacked(data: str | Path) -> None:
    """Passes shards, and what Ultralytics reads, or refuses in its own words.

    Raises:
        DatasetError: the dataset has to be packed first; says with which command. Or what is there
            is no file, and would be read without an end.
    """
    if os.path.exists(data) and not (os.path.isfile(data) or os.path.isdir(data)):
        raise DatasetError(
            f"{data}: is neither a file nor a folder; give a dataset YAML, or shards"
        )
    kind = lacks_yaml(data) if os.path.exists(data) else None
    if kind is not None:
        given, out = shlex.quote(str(data)), shlex.quote(f"{Path(data).resolve().stem}.shards")
        raise DatasetError(
            f"{data}: is {kind}, which trainers do not read; they read a dataset YAML, or shards; "
            f"pack it first: yolodata shard {given} {out}, and give data={out}"
        )


def describe_shards(path: str | Path, needed: Sequence[str]) -> dict[str, Any]:
    """What Ultralytics' `check_det_dataset` returns, for a folder of shards.

    Args:
        path: the folder.
        needed: splits that have to be there.

    Raises:
        DatasetError: the folder lacks one of them, or their classes differ.
    """
    from ultralytics.nn.autobackend import check_class_names

    root = resolved(path)
    found = splits(root)
    for split in needed:
        if split not in found:
            raise DatasetError(
                f"{path}: holds the splits {', '.join(found)}, but '{split}' is needed; pack "
                "it with `yolodata shard`, or name another one with split="
            )
    metas = {name: read_meta(found[name]) for name in dict.fromkeys(needed)}
    check_same_classes({str(found[name]): meta.names for name, meta in metas.items()})
    meta = metas[needed[0]]
    data: dict[str, Any] = {
        "path": root,
        "names": check_class_names(dict(meta.names)),  # readable ones for ids of WordNet
        "nc": len(meta.names),
        "channels": 3,
        **dict.fromkeys(("train", "val"), str(found[needed[0]])),  # upstream wants both named
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

    The folder beside has a name that anybody knows. So it may have come with the dataset, as a link
    to anywhere, or lie where others can change it; it is not used then.
    """
    yaml_file = resolved(data["yaml_file"])
    root = resolved(data.get("path") or yaml_file.parent)
    name = f"{yaml_file.stem}-{settings.codec}"
    name += "" if task == "detect" else f"-{task}"
    quality = settings.quality if settings.codec == "jpeg" else None
    name += "" if quality is None else f"-q{quality}"
    name += "-files" if settings.codec == "jpeg" and settings.keep_files else ""
    name += f"-{imgsz}" if settings.codec == "raw" or quality is not None else ""
    name += f"-{_short_hash(os.path.relpath(yaml_file, root))}"
    common = f"{root.name}-{_short_hash(str(root))}"
    if settings.folder is not None:
        return Path(os.path.expanduser(settings.folder)) / common / name
    beside = root.parent / f"{root.name}.yolodata"
    why = _unusable(beside)
    if not why:
        return beside / name
    _say_once(f"{beside} {why}; packing into {home()}, or where the setting folder says")
    return home() / common / name


def _unusable(folder: Path) -> str:
    """Why nothing can be packed into a folder, which need not exist; "" where nothing is wrong."""
    try:
        with Folder.at(folder.parent) as parent:
            if parent.stat(folder.name) is None:
                writable = os.access(folder.parent, os.W_OK)
            else:
                with parent.folder(folder.name) as found:
                    found.check_ours()
                writable = os.access(folder, os.W_OK)
    except OSError as error:
        return error.strerror or str(error)
    return "" if writable else "cannot be written to"


@functools.cache
def _say_once(warning: str) -> None:
    log.warning("%s", warning)


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
    from yolodata.ingest import PackSettings, pack
    from yolodata.ingest.labels import UNNAMED

    source = data["yaml_file"]
    if settings.codec == "auto":
        settings = _chosen(data, split, imgsz, settings, task, show)
    out = cache_folder(data, imgsz, settings, task)
    if single_cls:
        if out.is_dir():
            with _lock(out, split):
                remember(out)
                meta = _current(source, out, split, settings, single_cls=False)
                if meta and not any(why.startswith(UNNAMED) for _, why in meta.left_out):
                    return _opened(out / split)
        out = out.with_name(f"{out.name}-single_cls")
    with _lock(out, split):
        remember(out)
        if _current(source, out, split, settings, single_cls) is None:
            log.info("packing %s of %s into %s", split, source, out / split)
            report = pack(
                source,
                out,
                PackSettings(
                    settings.codec, imgsz, settings.quality, task, single_cls, settings.keep_files
                ),
                splits=[split],
                workers=settings.workers,
                overwrite=True,
                progress=show,
            )
            if report.left_out:
                file, why = next(iter(report.left_out.items()))
                log.warning(
                    "%d files of %s belong to no split, all listed in %s; the first is %s: %s",
                    len(report.left_out), source, out / LEFT_OUT, file, why,
                )  # fmt: skip
            for note in report.notes:
                log.warning("%s: %s", source, note)
            noted = report.splits[split].notes
            if noted:
                log.warning(
                    "%d notes on single images of %s, listed in %s; the first is on %s: %s",
                    len(noted), source, out / NOTES, *noted[0],
                )  # fmt: skip
            for name, reason in report.splits[split].left_out:
                log.warning("%s: left out: %s", name, reason)
        return _opened(out / split)


def _chosen(
    data: dict[str, Any], split: str, imgsz: int, settings: Settings, task: str, show: bool
) -> Settings:
    """What `codec="auto"` means for this dataset: what is packed, or what there is room for.

    All splits of a training are looked at together, so that they get the same, and by one process
    after the other: once one has begun to pack, less is free.
    """
    from yolodata.ingest.convert import PackSettings
    from yolodata.ingest.estimate import choose_codec, estimate, room
    from yolodata.ingest.packing import codec_of
    from yolodata.ingest.source import open_source

    kinds = {
        "raw": replace(settings, codec="raw", reencode=None, keep_files=False),
        "jpeg": replace(settings, codec="jpeg"),
    }
    places = {codec: cache_folder(data, imgsz, kind, task) for codec, kind in kinds.items()}
    parent = places["raw"].parent
    with _held(parent, lambda: open_common(parent, create=True), CODEC_LOCK):
        for codec, place in places.items():
            alike = (place, place.with_name(f"{place.name}-single_cls"))
            if any(codec_of(folder / name) for folder in alike for name in SPLITS):
                return kinds[codec]
        used = dict.fromkeys(["train", "val", split])
        source = open_source(
            data["yaml_file"], splits=[name for name in used if name == split or data.get(name)]
        )
        wanted = PackSettings("jpeg", imgsz, settings.quality, keep_files=settings.keep_files)
        found = estimate(source.splits.values(), wanted)
        codec, why = choose_codec(found, room(parent, ()))
        if show:
            print(f"yolodata: codec=auto is {codec}: {why}", file=sys.stderr)
    return kinds[codec]


def _opened(path: Path) -> ShardDataset:
    """A dataset that stays readable as it is, whoever packs into its folder later."""
    shards = open_shards(path)
    if shards.mapped:
        for number in range(len(shards.meta.shards)):
            shards.shard_data(number)
    return shards


def _current(
    source: str, out: Path, split: str, settings: Settings, single_cls: bool
) -> DatasetMeta | None:
    """What was packed of a split, with its labels read again if they changed; None: pack it."""
    from yolodata.ingest.fingerprint import fingerprint
    from yolodata.ingest.relabel import relabel

    try:
        meta = read_meta(out / split)
    except ShardError:
        return None
    if meta.source.get("single_cls") != single_cls:
        return None
    if meta.codec == "jpeg" and meta.source.get("keep_files") != settings.keep_files:
        return None  # of an older version
    wanted, stored = fingerprint(source, split), meta.source.get("fingerprint", {})
    if stored == wanted:
        return meta
    # An image that was left out for its labels has no pixels to come back with.
    if stored.get("images") != wanted["images"] or meta.left_out:
        return None
    log.info("the labels of %s changed; reading them again", split)
    relabel(out, source, splits=[split])
    return read_meta(out / split)


def _lock(out: Path, split: str) -> AbstractContextManager[None]:
    return _held(out, lambda: open_kept(out, create=True), LOCKS[split])


@contextmanager
def _held(path: Path, opened: Callable[[], Folder], lock: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(opened())
            stack.enter_context(file_lock(folder, lock))
        except OSError as error:
            raise storage_error(path, error) from error
        yield
