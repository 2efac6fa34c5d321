"""The `yolodata` command: finds the subcommand and reports errors; the work is done elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from yolodata import __version__
from yolodata.errors import YolodataError

# Subcommand -> (module with `add_parser`, help). Only the module of the one in use is imported.
COMMANDS = {
    "shard": ("yolodata.ingest.pack_cli", "pack a dataset (YOLO, COCO, VOC) into shards"),
    "verify": ("yolodata.shards.verify_cli", "check a shard dataset for damage"),
    "info": ("yolodata.shards.verify_cli", "say what a shard dataset holds"),
    "labels": ("yolodata.ingest.pack_cli", "read the labels of a packed dataset again"),
    "view": ("yolodata.view", "write a picture with boxes and class names"),
    "train": ("yolodata.train.cli", "train with Ultralytics on yolodata's loaders"),
    "export": (
        "yolodata.train.export_cli",
        "write weights that Ultralytics loads, from a checkpoint",
    ),
    "parity": ("yolodata.parity.cli", "compare our batches with Ultralytics' own"),
    "bench": ("yolodata.bench.benchmark", "compare the loaders on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `yolodata` with these arguments (None: the process's own); returns the exit status.

    0 is success, 1 what the subcommand says (damage found, say), 2 wrong arguments or an error
    that yolodata explains, 130 an interruption.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="yolodata", description="A high-performance data-loading engine for YOLO training."
    )
    parser.add_argument("--version", action="version", version=f"yolodata {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    if chosen in COMMANDS:
        import_module(COMMANDS[chosen][0]).add_parser(subparsers)
    else:
        for name, (_, text) in COMMANDS.items():
            subparsers.add_parser(name, help=text)
    try:
        args = parser.parse_args(arguments)
        return int(args.run(args) or 0)
    except YolodataError as error:
        print(f"yolodata: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("yolodata: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, say) has gone
        return 0
