"""Subcommand `diff`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds `diff` to the command line."""
    parser = subparsers.add_parser(
        "diff",
        help="say in what two packed datasets differ",
        description="Say in what two packed datasets differ: images added, removed, moved between "
        "splits, renamed, with other pixels or other labels; classes; how they were packed. No "
        "picture is decoded. Ends with 0 if training would see the same, with 1 if not.",
        examples=(
            "yolodata diff coco-2024.shards coco-2025.shards",
            "yolodata diff a.shards b.shards split=val all=True",
            "yolodata diff a.shards b.shards --json --all > diff.json",
        ),
    )
    parser.add_argument("a", metavar="A", type=Path, help="folder that `yolodata shard` wrote")
    parser.add_argument("b", metavar="B", type=Path, help="another one")
    parser.add_argument("--split", help="only this split of both datasets")
    parser.add_argument("--all", action="store_true", help="every image, not 20 of each list")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the differences; returns 0 where there are none, else 1."""
    from yolodata.diff.dataset_report import DatasetReport
    from yolodata.diff.datasets import diff_datasets

    diff = diff_datasets(args.a, args.b, args.split)
    try:
        report = DatasetReport(diff, args.all)
        if args.json:
            sys.stdout.writelines(report.json())
        else:
            for line in report.text():
                print(line)
        return 0 if diff.same else 1
    finally:
        diff.close()
