"""`yolodata verify`: is a packed dataset damaged?"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.errors import DatasetError, ShardError
from yolodata.terminal import printable

if TYPE_CHECKING:
    from yolodata.shards.verify import VerifyReport

_SHOWN = 50  # problems that are printed


def add_parser(subparsers: Any) -> None:
    """Adds `verify`."""
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
    verify.add_argument("out", metavar="OUT", help="folder that `yolodata shard` wrote")
    verify.add_argument("--split", help="only this split")
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(run=run_verify)


def dataset_folders(root: Path, split: str | None) -> dict[str, Path]:
    """Finds the dataset directories that are meant, also unfinished ones.

    Args:
        root: one, or a folder of splits.
        split: only this one.

    Raises:
        ShardError: there is none.
    """
    from yolodata.shards.format import DATASET_FILE, SPLITS
    from yolodata.shards.reader import unfinished

    if os.path.exists(root / DATASET_FILE) or unfinished(root):
        name = os.path.basename(os.path.realpath(root))
        if split not in (None, name):
            raise ShardError(
                f"{root}: is one dataset, --split {split} chooses from a folder of several; "
                "leave it out, or give the folder above"
            )
        return {name: root}
    found = {s: root / s for s in SPLITS if os.path.isdir(root / s)}
    if not found:
        why = "holds no dataset" if os.path.exists(root) else "is not there"
        raise ShardError(f"{root}: {why}; give a folder that `yolodata shard` wrote")
    if split is None:
        return found
    if split not in found:
        raise ShardError(
            f"{root}: holds the splits {', '.join(found)}; split must be one of them, got {split!r}"
        )
    return {split: found[split]}


def run_verify(args: argparse.Namespace) -> int:
    """Runs `yolodata verify OUT`."""
    from tqdm import tqdm

    from yolodata.shards.verify import verify

    folders = dataset_folders(Path(args.out), args.split)
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
    lines.append("  what was packed is packed again by the same `yolodata shard … --overwrite`")
    return "\n".join(lines)
