"""`yolodata val`: Ultralytics' validation, on our loaders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from yolodata.arguments import split_arguments
from yolodata.documented import Group, as_words, settings_of
from yolodata.errors import ConfigError
from yolodata.ultralytics.settings import OF_VALIDATION, Settings


def add_parser(subparsers: Any) -> None:
    """Add `val` to the command line."""
    parser = subparsers.add_parser(
        "val",
        help="validate with Ultralytics on yolodata's loaders",
        description="Arguments are those of `yolo val`, as NAME=VALUE: model=best.pt "
        "data=coco.yaml split=val conf=0.001. data is a folder that `yolodata shard` wrote, or a "
        "dataset, which is packed as for training; without it, that of the model's training. "
        "Settings of yolodata are written yolodata.NAME=VALUE: yolodata.codec=jpeg. "
        "Metrics are Ultralytics' own on the original dataset, to the last bit, but with reencode "
        "and for what it does for COCO and LVIS alone (docs/training.md).",
        examples=(
            "yolodata val model=runs/detect/train/weights/best.pt",
            "yolodata val model=best.pt data=coco.shards split=test",
            "yolodata val --model best.pt --data coco.yaml --imgsz 640 --yolodata.codec jpeg",
        ),
        more=_settings,
    )
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="NAME=VALUE",
        help="an argument of Ultralytics, or yolodata.NAME=VALUE",
    )
    parser.set_defaults(run=run)


def _settings() -> Iterator[Group]:
    yield Group(
        "yolodata val",
        "`yolodata.name=value`, beside Ultralytics' own arguments `name=value`; in Python "
        "`validator=yolodata.DetectionValidator.configure(name=value)`",
        [
            as_words(setting, "yolodata.")
            for setting in settings_of(Settings)
            if setting.name in OF_VALIDATION
        ],
    )


def run(args: argparse.Namespace) -> int:
    """Validates; returns the exit status.

    Raises:
        ConfigError: an argument is wrong, in Ultralytics' words or ours.
    """
    Settings().changed_for_validation(split_arguments(args.arguments)[1])
    from yolodata.ultralytics.command_line import open_model, read_arguments, refusals_as_errors
    from yolodata.ultralytics.fallback import FAMILIES, last_layer, warn_of_upstreams
    from yolodata.ultralytics.validator import BY_TASK

    values, ours = read_arguments(args.arguments, "val")
    name = values.pop("model", None)
    if name is None:
        raise ConfigError("model must be given, got none; give model=RUN/weights/best.pt, say")
    made = open_model(name)
    validator = BY_TASK.get(made.task)
    head = last_layer(name)
    if validator is None or head in FAMILIES:
        what = FAMILIES[head][0] if head in FAMILIES else f"task={made.task}"
        warn_of_upstreams("validating", "validator", what)
    elif ours:
        validator = validator.configure(**ours)
    with refusals_as_errors():
        made.val(validator=None if head in FAMILIES else validator, **values)
    return 0
