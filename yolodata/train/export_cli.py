"""`yolodata export`: weights for Ultralytics, from a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError


def add_parser(subparsers: Any) -> None:
    """Add `export` to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="write weights that Ultralytics loads, from a checkpoint",
        description="Writes the averaged weights of a checkpoint as Ultralytics keeps them after "
        "training, in half precision: YOLO(OUT).val(), .predict() and .export() take the file.",
        examples=(
            "yolodata export runs/detect/m m.pt",
            "yolodata export runs/detect/m/checkpoints/00010-00000000-95a8bd2f1383d8b3.ckpt 10.pt",
        ),
    )
    parser.add_argument(
        "source", metavar="RUN|FILE.ckpt", help="a checkpoint, or a run, whose newest is taken"
    )
    parser.add_argument("out", metavar="OUT.pt", help="the file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the weights.

    Returns:
        0.

    Raises:
        ConfigError: there is no whole checkpoint, or the file cannot be written.
    """
    source, out = Path(args.source), Path(args.out)
    if out.suffix != ".pt" or out.exists() or not out.parent.is_dir():
        raise ConfigError(
            f"OUT.pt must be a new file in a folder that is there, got {out}; name another one"
        )
    from yolodata.train.checkpoint import export, file, run_folder

    found: Path | None = source
    if source.is_dir():
        found = file.newest_whole(source / run_folder.FOLDER)
    if found is None or found.suffix != file.SUFFIX or not found.is_file():
        raise ConfigError(
            f"there must be a whole checkpoint (RUN/{run_folder.FOLDER}/….ckpt) to export, got "
            f"{source}; name a run of `yolodata train`, or one of its checkpoints"
        )
    try:
        state = file.read(found)
        export.write_weights(state, out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error}; name another place") from error
    print(f"{out}: the weights of {found}, after {state['epoch']} epochs")
    return 0
