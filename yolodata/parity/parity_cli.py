"""`yolodata parity`: are our batches Ultralytics' own, on this dataset?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yolodata.checks import whole
from yolodata.errors import ConfigError
from yolodata.outputs import check_output, write_output
from yolodata.pipeline.options import TASKS

_SAMPLES, _DRAWS, _LEAST_DRAWS = 200, 4000, 1000


def add_parser(subparsers: Any) -> None:
    """Adds `parity` to the command line."""
    parser = subparsers.add_parser(
        "parity",
        help="compare our batches with Ultralytics' own",
        description="Compare our batches with those of the installed Ultralytics, on your data: "
        "training pictures and labels from the numbers that it draws, the numbers themselves as "
        "distributions, and whole validation epochs. Ends with 1 where a limit is missed. The "
        "dataset is only read.",
        examples=(
            "yolodata parity coco.yaml",
            "yolodata parity coco.shards task=segment samples=500 draws=0",
            "yolodata parity coco.yaml metrics=True imgsz=320 batch=8 seed=1 json=parity.json",
            "yolodata parity coco.yaml --break",
        ),
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        help="dataset YAML, or shards packed from one",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="detect",
        help="whose labels are compared (default: detect)",
    )
    parser.add_argument(
        "--samples", type=int, default=_SAMPLES, metavar="N",
        help=f"training samples of each chain (default: {_SAMPLES})",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=_DRAWS, metavar="N",
        help="recipes of upstream whose numbers are compared as distributions, of each kind; 0 is "
        f"none (default: {_DRAWS})",
    )  # fmt: skip
    parser.add_argument(
        "--imgsz", type=int, help="side of the pictures (default: 640, or that of the shards)"
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures of a validation batch")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument(
        "--metrics", action="store_true", help="train a small model, and compare its metrics too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--break", dest="broken", action="store_true",
        help="spoil our side a little: ends with 1 where every limit and each setting noticed",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the comparison that was parsed.

    Returns:
        0 when every limit holds, 1 when one is missed. With `--break`: 1 when every limit of the
        task noticed, and each setting by itself; 0 when one did not.
    """
    from yolodata.environment import machine, versions
    from yolodata.parity import draws, metrics, table, tally, training, upstream, validation
    from yolodata.parity.dataset import open_dataset

    _check(args)
    data = open_dataset(args.data, args.task, args.imgsz)
    source = upstream.Upstream(data.yaml, data.imgsz, args.task, data.train)
    figures, failed = training.training(source, args.samples, args.seed, args.broken)
    _print(table.training_lines(figures))
    if args.draws:
        figures["draws"] = draws.draws(source, args.draws, args.seed, args.broken)
        failed += [("draws", sentence) for sentence in draws.missed(figures["draws"])]
        _print(table.draws_lines(figures["draws"]))
    figures["validation"], different = validation.validation(data, args.task, args.batch)
    failed += [("validation", sentence) for sentence in different]
    _print(table.validation_lines(figures["validation"]))
    if args.metrics:
        figures["metrics"] = metrics.metrics(data, args.task, args.batch)
        failed += [("metrics", sentence) for sentence in figures["metrics"].pop("failed")]
        _print(table.metrics_lines(figures["metrics"]))
    _print(f"FAILED: {sentence}" for _, sentence in failed)
    if not failed:
        print("every limit holds")
    blind: list[str] = []
    if args.broken:
        blind = sorted(tally.limits_of(args.task) - {limit for limit, _ in failed})
        blind += draws.unnoticed(figures["draws"], source) if args.draws else []
        _print(f"NOT NOTICED: {what}" for what in blind)
    if args.json:
        result = {
            "benchmark": "parity", "task": args.task, "data": data.name, "n": args.samples,
            "imgsz": data.imgsz, "seed": args.seed, "broken": args.broken,
            "limits": tally.all_limits(), "failed": [sentence for _, sentence in failed],
            "machine": machine(), "versions": versions(), **figures,
        }  # fmt: skip
        write_output(args.json, (json.dumps(result, indent=2) + "\n").encode())
    return 1 if failed and not blind else 0


def _check(args: argparse.Namespace) -> None:
    whole("--samples", args.samples, 1)
    check_output(args.json, "--json")
    whole("--batch", args.batch, 1)
    whole("--draws", args.draws, 0)
    whole("--seed", args.seed, 0, (1 << 32) - 1)  # upstream seeds NumPy with it
    if args.imgsz is not None:
        whole("--imgsz", args.imgsz, 10, 16384, " pixels")
    if 0 < args.draws < _LEAST_DRAWS:
        raise ConfigError(
            f"--draws must be 0 (no comparison) or at least {_LEAST_DRAWS}, below which nothing "
            f"is noticed, got {args.draws}"
        )


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
