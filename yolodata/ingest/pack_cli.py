"""Subcommands `shard` and `labels`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.errors import ConfigError
from yolodata.ingest.limits import PATH_LENGTH
from yolodata.shards.left_out import LEFT_OUT
from yolodata.shards.notes import NOTES
from yolodata.terminal import of_any_number, printable, size_text

if TYPE_CHECKING:
    from yolodata.ingest.packing import PackReport
    from yolodata.ingest.sample import SplitReport

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SHOWN = 20  # refused images that are printed; dataset.json lists all


def parse_size(text: str) -> int:
    """Gives the bytes of "512M", "1G", "1.5GiB" or "1000000"; units are powers of 1024.

    Raises:
        ConfigError: the text is no such size, or less than 64K.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1 << 16:
        raise ConfigError(
            f"shard size must be a number of bytes of at least 64K, as 512M or 1G, got {text!r}"
        )
    return size


def add_parser(subparsers: Any) -> None:
    """Adds `shard` and `labels`."""
    shard = subparsers.add_parser(
        "shard",
        help="pack a dataset into shards",
        description="Pack a dataset into shards: OUT/train, OUT/val, OUT/test. The source is only "
        "read. An interrupted pack is continued by the same command.",
        examples=(
            "yolodata shard coco.yaml coco.shards",
            "yolodata shard coco.yaml coco.shards codec=jpeg reencode=95 imgsz=1280 shard_size=1G",
            "yolodata shard VOC2012 voc.shards format=voc split=train names=person,dog workers=4",
            "yolodata shard instances_val2017.json out images=val2017 task=pose overwrite=True",
        ),
    )
    shard.add_argument(
        "source",
        metavar="SOURCE",
        help="dataset YAML, COCO JSON, or a folder of YOLO, COCO or VOC",
    )
    shard.add_argument("out", metavar="OUT", help="folder to write to")
    shard.add_argument(
        "--codec",
        choices=("raw", "jpeg", "auto"),
        default="raw",
        help="decoded pixels, or the picture files; auto: pixels if they take no more than a "
        "third of the room (default: raw)",
    )
    shard.add_argument(
        "--imgsz", type=int, default=640, help="longer side in pixels (default: 640)"
    )
    shard.add_argument(
        "--reencode",
        type=int,
        metavar="QUALITY",
        help="codec jpeg: shrink larger pictures to imgsz",
    )
    shard.add_argument(
        "--keep-files",
        action="store_true",
        help="codec jpeg: progressive JPEG files keep their bytes; else they become baseline ones "
        "with the same pixels, which decode faster",
    )
    shard.add_argument(
        "--shard-size", default="512M", metavar="SIZE", help="bytes per shard file (default: 512M)"
    )
    shard.add_argument("--workers", type=int, help="decoding threads (default: one per core)")
    shard.add_argument(
        "--overwrite", action="store_true", help="replace another or a damaged dataset in OUT"
    )
    shard.add_argument(
        "--task",
        choices=("detect", "segment", "obb", "pose"),
        default="detect",
        help="whose label decisions; only pose differs (default: detect)",
    )
    shard.add_argument(
        "--single-cls", action="store_true", help="accept any class number, as single_cls=True does"
    )
    shard.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_source_options(shard)
    shard.set_defaults(run=run_shard)

    labels = subparsers.add_parser(
        "labels",
        help="take over changed labels without touching pixels",
        description="Read the labels of a packed dataset again. The images must be the same.",
        examples=(
            "yolodata labels coco.shards coco.yaml",
            "yolodata labels coco.shards instances_val2017.json split=val images=val2017",
            "yolodata labels voc.shards VOC2012 format=voc names=person,dog",
        ),
    )
    labels.add_argument("out", metavar="OUT", help="folder that `yolodata shard` wrote")
    labels.add_argument(
        "source", metavar="SOURCE", help="the dataset, as it was given to `yolodata shard`"
    )
    _add_source_options(labels)
    labels.set_defaults(run=run_labels)


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("auto", "yolo", "coco", "voc"), default="auto", help="kind of SOURCE"
    )
    parser.add_argument(
        "--split",
        action="append",
        choices=("train", "val", "test"),
        help="only this split (repeatable)",
    )
    parser.add_argument("--images", metavar="DIR", help="COCO, VOC: folder of the images")
    parser.add_argument(
        "--names",
        metavar="A,B,...",
        help="COCO, VOC: class names in order, or a .txt file with one a line (default: all, by "
        "their ids or sorted)",
    )


def _source_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "format": args.format,
        "splits": args.split,
        "images": args.images,
        "names": None if args.names is None else _class_names(args.names),
    }


def _class_names(text: str) -> list[str]:
    """The names of "person, dog", or those in a file."""
    if text.lower().endswith(".txt"):
        from yolodata.ingest.yolo_folder import read_names

        return read_names([Path(text)])
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(
            f"--names must be class names with commas between them, or a .txt file, got {text!r}"
        )
    return names


def run_shard(args: argparse.Namespace) -> int:
    """Runs `yolodata shard SOURCE OUT`."""
    from yolodata.ingest.convert import PackSettings
    from yolodata.ingest.packing import pack

    try:
        report = pack(
            args.source,
            args.out,
            PackSettings(
                args.codec, args.imgsz, args.reencode, args.task, args.single_cls, args.keep_files
            ),
            shard_size=parse_size(args.shard_size),
            workers=args.workers,
            overwrite=args.overwrite,
            progress=not args.quiet,
            **_source_options(args),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues") from None
    for split in report.splits.values():
        print(summary(split, report.out))
    print(total(report))
    return 0


def run_labels(args: argparse.Namespace) -> int:
    """Runs `yolodata labels OUT SOURCE`."""
    from yolodata.ingest.relabel import relabel

    report = relabel(args.out, args.source, **_source_options(args))
    for split in report.splits.values():
        print(summary(split, report.out))
    for line in (*_note_lines(report), *_in_no_split(report)):
        print(line)
    return 0


def summary(report: SplitReport, out: Path) -> str:
    """Says what was packed, what was left out and why, in a few lines."""
    lines = [
        f"{report.split}: {report.images:,} images ({report.backgrounds:,} without objects), "
        f"{report.objects:,} objects, {len(report.left_out):,} images left out, "
        f"{size_text(report.nbytes)} in {out / report.split}"
    ]
    if report.reused:
        lines[0] += "; already there, nothing to do"
    else:
        rate = (
            f", {(report.images - report.resumed) / report.seconds:.0f} images/s"
            if report.seconds
            else ""
        )
        lines[0] += f"; {report.seconds:.1f} s{rate}"
        if report.resumed:
            lines[0] += f", continued after {report.resumed}"
    lines += _counted("note", report.notes)
    if report.notes:
        lines.append(f"  the images of these notes are listed in {out / NOTES}")
    lines += _listed("left out", report.left_out, "dataset.json")
    return "\n".join(lines)


def total(report: PackReport) -> str:
    """Adds all splits up, and says what belongs to none."""
    splits = report.splits.values()
    images, left_out = sum(s.images for s in splits), sum(len(s.left_out) for s in splits)
    lines = [
        f"in all: {images:,} images packed, {left_out:,} left out, {len(report.left_out):,} files "
        f"in no split, {size_text(sum(s.nbytes for s in splits))}"
    ]
    lines += _note_lines(report)
    return "\n".join([*lines, *_in_no_split(report)])


def _in_no_split(report: PackReport) -> list[str]:
    return _listed("in no split", list(report.left_out.items()), LEFT_OUT)


def _note_lines(report: PackReport) -> list[str]:
    return [f"  note: {printable(note)}" for note in report.notes]


def _listed(what: str, entries: Sequence[tuple[str, str]], where: str) -> list[str]:
    """The first entries one by one, and, if there are more, all of them by their reasons."""
    lines = [
        f"  {what}: {printable(f'{path[:PATH_LENGTH]}: {reason}')}"
        for path, reason in entries[:_SHOWN]
    ]
    if len(entries) > _SHOWN:
        lines.append(f"  … and {len(entries) - _SHOWN:,} more, all listed in {where}")
        lines += _counted(f"{what}, all", entries)
    return lines


def _counted(what: str, entries: Iterable[tuple[str, str]]) -> list[str]:
    """How often each text is there, with the first path that has it.

    Those that differ in numbers only are counted together, with # for a number.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, text in entries:
        groups.setdefault(of_any_number(text), []).append((path, text))
    most = sorted(groups.items(), key=lambda group: -len(group[1]))
    lines = []
    for pattern, group in most[:_SHOWN]:
        path, first = group[0]
        same = all(text == first for _, text in group)
        which = f"({'first: ' if len(group) > 1 else ''}{path[:PATH_LENGTH]})"
        said = f"{first if same else pattern} {which}"
        lines.append(f"  {what}: {len(group):,} × {printable(said)}")
    if len(most) > _SHOWN:
        rest = sum(len(group) for _, group in most[_SHOWN:])
        lines.append(f"  {what}: {rest:,} × {len(most) - _SHOWN} other reasons")
    return lines
