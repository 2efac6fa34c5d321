"""`yolodata train`: Ultralytics' command line, on yolodata's loaders."""

from __future__ import annotations

import argparse
from typing import Any

from yolodata.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train with Ultralytics on yolodata's loaders",
        description="Arguments are those of `yolo train`, as NAME=VALUE: model=yolo26n.yaml "
        "data=coco8.yaml epochs=100 imgsz=640. Settings of yolodata are written "
        "yolodata.NAME=VALUE: yolodata.codec=jpeg yolodata.threads=4 yolodata.folder=FOLDER.",
    )
    parser.add_argument("arguments", nargs="+", metavar="NAME=VALUE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains; returns 0."""
    upstream, ours = read_arguments(args.arguments)
    from ultralytics import YOLO

    from yolodata.ultralytics import trainer
    from yolodata.ultralytics.limits import TRAINERS

    model = upstream.pop("model", None)
    if upstream.get("resume") is True and model is None:
        raise ConfigError("resume=True needs model=RUN/weights/last.pt; resume=RUN/… names it too")
    if isinstance(upstream.get("resume"), str):
        model = upstream["resume"]
    if model is None:
        raise ConfigError("which model? give model=yolo26n.yaml, say")
    made = YOLO(model)
    # Of tasks that we have no trainer for, the one for detection says so.
    name = TRAINERS.get(made.task, "DetectionTrainer")
    made.train(trainer=getattr(trainer, name).configure(**ours), **upstream)
    return 0


def read_arguments(arguments: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Upstream's arguments, and ours without their prefix, with values as Ultralytics reads them.

    Raises:
        ConfigError: an argument is not of the form NAME=VALUE.
    """
    from ultralytics.cfg import smart_value

    upstream: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.lstrip("-").partition("=")
        if not equals or not name:
            raise ConfigError(f"arguments are written NAME=VALUE, got {argument!r}")
        value = smart_value(text)
        if name.startswith("yolodata."):
            ours[name.removeprefix("yolodata.")] = value
        else:
            upstream[name] = value
    return upstream, ours
