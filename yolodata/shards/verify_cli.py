"""Subcommands `verify` and `info`."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.errors import DatasetError, ShardError
from yolodata.files import stored_bytes
from yolodata.shards.left_out import read_left_out
from yolodata.terminal import printable, size_text

if TYPE_CHECKING:
    from yolodata.shards.verify import VerifyReport

_SHOWN = 50  # problems that are printed
_BAR = 30
_WIDEST = 40  # letters of a class name
_CLASSES = 20  # that are shown
_LONGEST = 200  # characters of a text that is shown


def add_parser(subparsers: Any) -> None:
    """Adds `verify` and `info`."""
    verify = subparsers.add_parser(
        "verify",
        help="check a packed dataset",
        description="Check a packed dataset. Without --full: sizes, headers and all labels. Ends "
        "with 1 if anything is wrong.",
        examples=(
            "yolodata verify coco.shards",
            "yolodata verify coco.shards full=True split=val workers=8",
            "yolodata verify coco.shards --full --json --quiet > report.json",
        ),
    )
    verify.add_argument("--full", action="store_true", help="every checksum and every picture")
    verify.add_argument("--workers", type=int, help="threads (default: one per core)")
    verify.add_argument("--quiet", action="store_true", help="no progress bar")
    verify.set_defaults(run=run_verify)
    info = subparsers.add_parser(
        "info",
        help="what a packed dataset holds",
        description="What a packed dataset holds.",
        examples=(
            "yolodata info coco.shards",
            "yolodata info coco.shards --all",
            "yolodata info coco.shards split=val json=True",
        ),
    )
    info.add_argument(
        "--all", action="store_true", help="every class, not only the 20 with the most objects"
    )
    info.set_defaults(run=run_info)
    for parser in (verify, info):
        parser.add_argument("out", metavar="OUT", help="folder that `yolodata shard` wrote")
        parser.add_argument("--split", help="only this split")
        parser.add_argument("--json", action="store_true", help="print JSON")


def _folders(args: argparse.Namespace) -> dict[str, Path]:
    """Finds the dataset directories that are meant, also unfinished ones."""
    from yolodata.shards.format import DATASET_FILE, SPLITS
    from yolodata.shards.reader import unfinished

    root = Path(args.out)
    if os.path.exists(root / DATASET_FILE) or unfinished(root):
        name = os.path.basename(os.path.realpath(root))
        if args.split not in (None, name):
            raise ShardError(
                f"{root}: is one dataset, --split {args.split} chooses from a folder of several; "
                "leave it out, or give the folder above"
            )
        return {name: root}
    found = {s: root / s for s in SPLITS if os.path.isdir(root / s)}
    if args.split is not None:
        return {args.split: root / args.split}
    if not found:
        raise ShardError(f"{root}: holds no dataset; give a folder that `yolodata shard` wrote")
    return found


def run_verify(args: argparse.Namespace) -> int:
    """Runs `yolodata verify OUT`."""
    from tqdm import tqdm

    from yolodata.shards.verify import verify

    folders = _folders(args)
    reports: list[VerifyReport] = []
    for name, path in folders.items():
        with tqdm(
            desc=name, unit="img", disable=args.quiet or not args.full, dynamic_ncols=True
        ) as bar:

            def progress(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            reports.append(verify(path, args.full, progress, workers=args.workers))
    _compare_classes(reports)
    if args.json:
        print(json.dumps([_report_dict(report, args.full) for report in reports], indent=1))
    else:
        for report in reports:
            print(printable(_report_text(report, args.full), keep="\n"))
    return 0 if all(report.ok for report in reports) else 1


def _compare_classes(reports: list[VerifyReport]) -> None:
    """Splits of one folder have to agree on their classes; that they do not is the last one's."""
    from yolodata.shards.class_names import check_same_classes
    from yolodata.shards.reader import read_meta

    good = [report for report in reports if report.ok]
    if good:
        try:
            check_same_classes({str(report.path): read_meta(report.path).names for report in good})
        except DatasetError as error:
            good[-1].problems.append(str(error))


def _report_dict(report: VerifyReport, full: bool) -> dict[str, Any]:
    return {
        "path": str(report.path),
        "ok": report.ok,
        "full": full,
        "images": report.images,
        "checked": report.checked,
        "problems": report.problems,
        "seconds": round(report.seconds, 3),
    }


def _report_text(report: VerifyReport, full: bool) -> str:
    depth = "every byte and every picture" if full else "structure and labels"
    if report.ok:
        return f"{report.path}: {report.images} images, {depth}: good ({report.seconds:.1f} s)"
    lines = [f"{report.path}: {len(report.problems)} problems ({depth})"]
    lines += [f"  {problem}" for problem in report.problems[:_SHOWN]]
    if len(report.problems) > _SHOWN:
        lines.append(f"  … and {len(report.problems) - _SHOWN} more; --json prints all")
    return "\n".join(lines)


def run_info(args: argparse.Namespace) -> int:
    """Runs `yolodata info OUT`."""
    infos = [describe(path) for path in _folders(args).values()]
    no_split = dict(Counter(read_left_out(Path(args.out)).values()).most_common())
    for info in infos:
        info["in_no_split"] = no_split
    if args.json:
        print(json.dumps(infos, indent=1))
    else:
        texts = [_info_text(info, args.all) for info in infos]
        if no_split or len(infos) > 1:
            texts.append(_total_text(infos, no_split))
        print(printable("\n\n".join(texts), keep="\n"))
    return 0


def describe(path: Path) -> dict[str, Any]:
    """Facts about a dataset directory, as plain JSON values.

    Raises:
        ShardError: there is no dataset, or it is damaged.
    """
    import numpy as np

    from yolodata.shards.reader import ShardDataset

    with ShardDataset(path) as dataset:
        meta = dataset.meta
        counts = np.bincount(dataset.cls.astype(np.int64), minlength=len(meta.names))
        objects = np.diff(dataset.object_offset)
        area = dataset.orig_height.astype(np.float64) * dataset.orig_width
        extremes = [int(area.argmin()), int(area.argmax())] if len(area) else []
        sizes = [[int(dataset.orig_width[i]), int(dataset.orig_height[i])] for i in extremes]
        return {
            "path": str(dataset.path),
            "split": meta.split,
            "codec": meta.codec,
            "imgsz": meta.imgsz,
            **meta.summary,
            "disk_bytes": stored_bytes(dataset.path),
            "backgrounds": int((objects == 0).sum()),
            "polygons": int((np.diff(dataset.polygon_offset) > 0).sum()),
            "kpt_shape": meta.kpt_shape,
            "smallest": sizes[0] if sizes else None,
            "largest": sizes[1] if sizes else None,
            "classes": [[meta.names[i], int(counts[i])] for i in range(len(meta.names))],
            "source": meta.source,
        }


def _info_text(info: dict[str, Any], every_class: bool) -> str:
    sizes = ["x".join(map(str, info[which])) for which in ("smallest", "largest") if info[which]]
    size = " to ".join(dict.fromkeys(sizes)) or "no"
    left_out = sum(info["left_out"].values())
    lines = [
        f"{info['path']} ({info['split']})",
        f"  codec    {_codec_text(info)}, imgsz {info['imgsz']}, originals of {size} pixels",
        f"  images   {info['images']:,} of {info['images'] + left_out:,}, "
        f"{info['backgrounds']:,} without objects",
        f"  objects  {info['objects']:,}, {info['polygons']:,} with a polygon"
        + (f", keypoints {info['kpt_shape']}" if info["kpt_shape"] else ""),
        f"  files    {size_text(info['disk_bytes'])}: {info['shards']:,} shards "
        f"{size_text(info['shard_bytes'])}, labels {size_text(info['labels_bytes'])}",
        f"  left out {left_out:,}",
    ]
    lines += [f"    {count:,} × {_cut(reason)}" for reason, count in info["left_out"].items()]
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


def _class_name(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _WIDEST else f"{name[: _WIDEST - 1]}…"


def _class_lines(classes: list[list[Any]], every: bool) -> list[str]:
    """The classes with the most objects, or every class in the dataset's order."""
    if every or len(classes) <= _CLASSES:
        shown, lines = classes, [f"  classes  {len(classes):,}"]
    else:
        shown = sorted(classes, key=lambda item: -item[1])[:_CLASSES]
        lines = [f"  classes  {len(classes):,}; the {_CLASSES} with the most objects (--all: all)"]
    most = max(1, *(count for _, count in shown))
    shown = [[_class_name(name), count] for name, count in shown]
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


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _total_text(infos: list[dict[str, Any]], no_split: dict[str, int]) -> str:
    """Adds all splits up, and says what belongs to none."""
    left_out = sum(count for info in infos for count in info["left_out"].values())
    lines = [
        f"in all: {sum(info['images'] for info in infos):,} images, {left_out:,} left out, "
        f"{sum(no_split.values()):,} files of the source in no split, "
        f"{size_text(sum(info['disk_bytes'] for info in infos))}"
    ]
    lines += [f"    {count:,} × {_cut(reason)}" for reason, count in no_split.items()]
    return "\n".join(lines)
