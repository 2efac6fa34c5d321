"""Subcommand `diff`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError


def add_parser(subparsers: Any) -> None:
    """Adds `diff` to the command line."""
    parser = subparsers.add_parser(
        "diff",
        help="say in what two datasets or runs differ",
        description="Say in what two packed datasets differ: images added, removed, moved between "
        "splits, renamed, with other pixels or other labels; classes; how they were packed. No "
        "picture is decoded. Or in what two runs differ, two checkpoints or two files of weights: "
        "dataset, settings, packages, code and results. Ends with 0 if nothing differs, with 1 if "
        "something does.",
        examples=(
            "yolodata diff coco-2024.shards coco-2025.shards",
            "yolodata diff a.shards b.shards split=val all=True",
            "yolodata diff a.shards b.shards --json --all > diff.json",
            "yolodata diff runs/detect/train runs/detect/train2",
        ),
    )
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="packed dataset, run folder, checkpoint or weights")
    add("b", metavar="B", type=Path, help="another one of the same kind")
    add("--split", help="only this split of both datasets")
    add("--all", action="store_true", help="every image and setting, not 20 of each list")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the differences; returns 0 where there are none, else 1.

    Raises:
        ConfigError: a dataset is to be compared with a run, or `--split` was given for runs.
        YolodataError: one of both cannot be read.
    """
    from yolodata.info.lookup import is_of_a_run

    of_runs = [is_of_a_run(path) for path in (args.a, args.b)]
    if of_runs[0] != of_runs[1]:
        which = args.a if of_runs[0] else args.b
        raise ConfigError(
            f"{which} is of a run, the other one is not; give two packed datasets, or two runs, "
            "checkpoints or weights"
        )
    if of_runs[0] and args.split is not None:
        raise ConfigError(f"--split is for packed datasets, {args.a} is of a run; leave it out")
    diff, report = _of_runs(args) if of_runs[0] else _of_datasets(args)
    try:
        if args.json:
            sys.stdout.writelines(report.json())
        else:
            for line in report.text():
                print(line)
        return 0 if diff.same else 1
    finally:
        diff.close()


def _of_datasets(args: argparse.Namespace) -> Any:
    from yolodata.diff.dataset_report import DatasetReport
    from yolodata.diff.datasets import diff_datasets

    diff = diff_datasets(args.a, args.b, args.split)
    return diff, DatasetReport(diff, args.all)


def _of_runs(args: argparse.Namespace) -> Any:
    from yolodata.diff.run_report import RunReport
    from yolodata.diff.runs import diff_runs

    diff = diff_runs(args.a, args.b)
    return diff, RunReport(diff, args.all)
