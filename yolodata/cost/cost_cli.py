"""`yolodata cost`: from arguments to a table."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from yolodata.checks import whole
from yolodata.errors import ConfigError
from yolodata.outputs import write_output
from yolodata.terminal import printable


def add_parser(subparsers: Any) -> None:
    """Adds `cost` to the command line."""
    parser = subparsers.add_parser(
        "cost",
        help="say what training costs, in hours and money",
        description="Say what training costs, in hours and money, on each type of GPU for which "
        "there is a measurement: a run's folder, the JSON of `yolodata bench train`, or that of "
        "`yolodata doctor`. Prices are a file of yours; docs/cost.md has an example. For spot "
        "machines, what interruptions cost, and how often to write checkpoints.",
        examples=(
            "yolodata cost runs/detect/train --prices prices.yaml",
            "yolodata cost h200.json runs/detect/train prices=prices.yaml images=118287 epochs=100 "
            "also='NVIDIA L40S=0.4' json=cost.json",
        ),
    )
    add = parser.add_argument
    add("sources", nargs="+", type=Path, metavar="MEASUREMENT",
        help="folder of a run, or JSON of `bench train` or `doctor`")  # fmt: skip
    add("--prices", type=Path, required=True, metavar="PRICES.yaml", help="your file of prices")
    add("--images", type=int, help="images of an epoch (default: those of the run)")
    add("--epochs", type=int, help="epochs of a run (default: those of the run)")
    add("--also", action="append", default=[], metavar="GPU=RATIO",
        help="a GPU that nobody measured, and how many times as fast as the first measurement you "
        "claim that it is; may be repeated")  # fmt: skip
    add("--json", type=Path, metavar="OUT.json", help="write all figures as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints what training costs; returns the exit status.

    Raises:
        ConfigError: a file or an argument cannot be used.
    """
    from yolodata.cost.estimate import claimed, estimate, unmeasured
    from yolodata.cost.measurements import measurements
    from yolodata.cost.prices import read_prices
    from yolodata.cost.table import table

    for name in ("images", "epochs"):
        if getattr(args, name) is not None:
            whole(f"--{name}", getattr(args, name), 1)
    prices = read_prices(args.prices)
    measured = [one for path in args.sources for one in measurements(path)]
    if not measured:
        raise ConfigError(
            f"{', '.join(map(str, args.sources))} holds no row of training; run `yolodata bench "
            "train` again"
        )
    measured += [claimed(text, measured[0]) for text in args.also]
    found = [estimate(one, prices, args.images, args.epochs) for one in measured]
    lacking = unmeasured(found, prices)
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    print(printable(table(found, prices, lacking, width), keep="\n"))
    if args.json:
        write_output(args.json, (json.dumps({
            "currency": prices.currency, "date": prices.date, "source": prices.source,
            "estimates": [one.as_dict() for one in found], "not_measured": lacking,
        }, indent=1) + "\n").encode())  # fmt: skip
    return 0
