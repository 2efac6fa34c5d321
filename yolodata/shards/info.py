"""What a packed dataset holds, as facts and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolodata.files import stored_bytes
from yolodata.shards.notes import KINDS, NOTES, read_notes
from yolodata.terminal import of_any_number, printable, shortened, size_text

_BAR = 30
_WIDEST = 40  # letters of a class name
_CLASSES = _REASONS = 20  # that are shown
_LONGEST = 200  # characters of a text that is shown


def describe(path: Path) -> dict[str, Any]:
    """Facts about a dataset directory, as plain JSON values.

    Raises:
        ShardError: there is no dataset, or it is damaged.
    """
    import numpy as np

    from yolodata.shards.reader import ShardDataset

    with ShardDataset(path) as dataset:
        meta = dataset.meta
        notes = read_notes(dataset.path.parent).get(meta.split, {})
        counts = np.bincount(dataset.cls.astype(np.int64), minlength=len(meta.names))
        objects = np.diff(dataset.object_offset)
        area = dataset.orig_height.astype(np.float64) * dataset.orig_width
        extremes = [int(area.argmin()), int(area.argmax())] if len(area) else []
        sizes = [[int(dataset.orig_width[i]), int(dataset.orig_height[i])] for i in extremes]
        return {
            "path": str(dataset.path),
            "version": meta.checksum,
            "split": meta.split,
            "codec": meta.codec,
            "imgsz": meta.imgsz,
            **meta.summary,
            "disk_bytes": stored_bytes(dataset.path),
            "backgrounds": int((objects == 0).sum()),
            "notes": {kind: len(notes[kind]) for kind in KINDS if notes.get(kind)},
            "polygons": int((np.diff(dataset.polygon_offset) > 0).sum()),
            "kpt_shape": meta.kpt_shape,
            "smallest": sizes[0] if sizes else None,
            "largest": sizes[1] if sizes else None,
            "classes": [[meta.names[i], int(counts[i])] for i in range(len(meta.names))],
            "source": meta.source,
        }


def info_text(info: dict[str, Any], every_class: bool) -> str:
    """Writes what `describe` found, for people; names in it are not `printable` yet."""
    sizes = ["x".join(map(str, info[which])) for which in ("smallest", "largest") if info[which]]
    size = " to ".join(dict.fromkeys(sizes)) or "no"
    left_out = sum(info["left_out"].values())
    lines = [
        f"{info['path']} ({info['split']})",
        f"  version  {info['version']}",
        f"  codec    {_codec_text(info)}, imgsz {info['imgsz']}, originals of {size} pixels",
        f"  images   {info['images']:,} of {info['images'] + left_out:,}, "
        f"{info['backgrounds']:,} without objects",
        f"  objects  {info['objects']:,}, {info['polygons']:,} with a polygon"
        + (f", keypoints {info['kpt_shape']}" if info["kpt_shape"] else ""),
        f"  files    {size_text(info['disk_bytes'])}: {info['shards']:,} shards "
        f"{size_text(info['shard_bytes'])}, labels {size_text(info['labels_bytes'])}",
        f"  left out {left_out:,}",
    ]
    lines += _reason_lines(info["left_out"])
    if info["notes"]:
        counts = (f"{count:,} on {kind}" for kind, count in info["notes"].items())
        lines.append(f"  notes    {', '.join(counts)}; listed in {NOTES} beside the splits")
    return "\n".join(lines + _class_lines(info["classes"], every_class))


def _codec_text(info: dict[str, Any]) -> str:
    """The codec, and how packing changed the files."""
    source = info["source"]
    how = []
    if source.get("reencode"):
        how.append(f"larger images of quality {printable(str(source['reencode']))}")
    if source.get("keep_files") is False:
        how.append("progressive files as baseline")
    return f"{info['codec']} ({', '.join(how)})" if how else str(info["codec"])


def _class_lines(classes: list[list[Any]], every: bool) -> list[str]:
    """The classes with the most objects, or every class in the dataset's order."""
    if every or len(classes) <= _CLASSES:
        shown, lines = classes, [f"  classes  {len(classes):,}"]
    else:
        shown = sorted(classes, key=lambda item: -item[1])[:_CLASSES]
        lines = [f"  classes  {len(classes):,}; the {_CLASSES} with the most objects (--all: all)"]
    most = max(1, *(count for _, count in shown))
    shown = [[shortened(name, _WIDEST), count] for name, count in shown]
    width = max(len(name) for name, _ in shown)
    lines += [
        f"    {name:{width}} {count:>9,} {'█' * round(_BAR * count / most)}".rstrip()
        for name, count in shown
    ]
    if len(shown) < len(classes):
        rest = sum(count for _, count in classes) - sum(count for _, count in shown)
        none = sum(not count for _, count in classes)
        lines.append(
            f"    {len(classes) - len(shown):,} other classes with {rest:,} objects; "
            f"{none:,} classes have none"
        )
    return lines


def _reason_lines(reasons: Mapping[str, int]) -> list[str]:
    """The most frequent reasons; those that differ in numbers only are one, with # for a number."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(of_any_number(reason), []).append(reason)
    counts = Counter(
        {
            texts[0] if len(texts) == 1 else kind: sum(map(reasons.__getitem__, texts))
            for kind, texts in kinds.items()
        }
    )
    most = counts.most_common(_REASONS)
    lines = [f"    {count:,} × {_cut(reason)}" for reason, count in most]
    if len(counts) > _REASONS:
        rest = counts.total() - sum(count for _, count in most)
        lines.append(f"    {rest:,} × {len(counts) - _REASONS:,} other reasons (--json: all)")
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def total_text(infos: list[dict[str, Any]], no_split: dict[str, int]) -> str:
    """Adds all splits up, and says what belongs to none."""
    left_out = sum(count for info in infos for count in info["left_out"].values())
    lines = [
        f"in all: {sum(info['images'] for info in infos):,} images, {left_out:,} left out, "
        f"{sum(no_split.values()):,} files of the source in no split, "
        f"{size_text(sum(info['disk_bytes'] for info in infos))}"
    ]
    lines += _reason_lines(no_split)
    return "\n".join(lines)
