"""`yolodata train`: Ultralytics' command line, for one process or many."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError
from yolodata.train.signals import stopping_at_once
from yolodata.train.watchdog.exit_codes import (
    PEER_LOST,
    PREEMPTED,
    PeerLost,
    Preempted,
    leave_status,
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train with Ultralytics on yolodata's loaders",
        description="Arguments are those of `yolo train`, as NAME=VALUE: model=yolo26n.yaml "
        "data=coco8.yaml epochs=100 imgsz=640. Settings of yolodata are written "
        "yolodata.NAME=VALUE: yolodata.codec=jpeg yolodata.threads=4 yolodata.folder=FOLDER. "
        "Several devices (device=0,1) or processes (device=cpu nproc=2) are started with torchrun; "
        "under torchrun this process is one of them. resume=auto goes on with the newest whole "
        "checkpoint of project/name, and starts anew without one; resume=RUN takes all arguments "
        f"from that run. Exit status: {PREEMPTED} asked to stop, state written; {PEER_LOST} "
        "another process of the run died or stalled.",
    )
    parser.add_argument("arguments", nargs="+", metavar="NAME=VALUE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains, or starts the processes that do.

    Returns:
        The exit status.

    Raises:
        ConfigError: an argument is wrong.
    """
    processes = processes_wanted(args.arguments)
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        from yolodata.train.distributed.launch import launch

        return launch(args.arguments, processes)
    try:
        with stopping_at_once():
            _train_here(args.arguments)
    except Preempted:
        leave_status(PREEMPTED)
        raise
    except PeerLost as error:
        print(f"yolodata: {error}", file=sys.stderr)
        leave_status(PEER_LOST)
        return PEER_LOST
    return 0


def _train_here(arguments: list[str]) -> None:
    upstream, ours = read_arguments(arguments)
    upstream, ours = of_run(upstream, ours)
    upstream.pop("nproc", None)
    model = upstream.pop("model", None)
    if upstream.get("resume") is True and model is None:
        raise ConfigError("resume=True needs model=RUN/weights/last.pt; resume=RUN/… names it too")
    if str(upstream.get("resume")).endswith(".pt"):
        model = upstream["resume"]
    if model is None:
        raise ConfigError("model must be given, got none; give model=yolo26n.yaml, say")
    train(model, upstream, ours)


def train(model: str, upstream: dict[str, Any], ours: dict[str, Any]) -> None:
    """Trains in this process.

    Args:
        model: a file, or a name that Ultralytics downloads.
        upstream: Ultralytics' arguments.
        ours: settings; see `TrainSettings`.

    Raises:
        ConfigError: an argument is wrong, in Ultralytics' words or ours.
    """
    from ultralytics import YOLO

    from yolodata.train.distributed.process_group import ProcessGroup
    from yolodata.train.trainer import trainer_for

    try:
        with ProcessGroup.join().first_of_machine("model"):  # which may be downloaded
            made = YOLO(model)
    except FileNotFoundError as error:
        raise ConfigError(f"model={model} cannot be read: {error}") from error
    try:
        made.train(trainer=trainer_for(made.task).configure(**ours), **upstream)
    except (SyntaxError, TypeError, ValueError, RuntimeError) as error:
        if _is_about_arguments(error):
            raise ConfigError(str(error).strip()) from error
        raise


def _is_about_arguments(error: Exception) -> bool:
    """Whether upstream refuses what it was given, in words that need no traceback."""
    *_, (frame, _line) = traceback.walk_tb(error.__traceback__)
    where = frame.f_globals.get("__name__"), frame.f_code.co_name
    return where[0] == "ultralytics.cfg" or where == ("ultralytics.engine.trainer", "get_dataset")


def of_run(upstream: dict[str, Any], ours: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arguments, completed by those of the run that `resume=RUN` names.

    Raises:
        ConfigError: there is no such run.
    """
    from yolodata.train.checkpoint.file import SUFFIX

    resume = upstream.get("resume")
    if not isinstance(resume, str) or resume == "auto" or resume.endswith(".pt"):
        return upstream, ours
    named = Path(resume)
    folder = named.parent.parent if named.suffix == SUFFIX else named
    if not named.exists() or not (folder / "args.yaml").is_file():
        raise ConfigError(
            f"resume must be auto, a run folder, or a {SUFFIX} or .pt file in one, got {resume!r}, "
            "where there is no run"
        )
    import yaml

    from yolodata.train.settings import TrainSettings

    saved = yaml.safe_load((folder / "args.yaml").read_text())
    settings = TrainSettings.of_run(folder)
    kept = {} if settings is None else settings.as_given()
    goes_on = str(named) if named.suffix == SUFFIX else "auto"
    upstream = {**saved, **upstream, "resume": goes_on, "save_dir": str(folder)}
    return upstream, {**kept, **ours}


def processes_wanted(arguments: list[str]) -> int:
    """Returns how many processes the arguments ask for on this machine.

    The process that only starts the others need not wait for torch: this reads text.

    Raises:
        ConfigError: `nproc` is no number of processes, or contradicts `device`.
    """
    given = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)
    devices = len([part for part in given.get("device", "").strip("[]()").split(",") if part])
    nproc = given.get("nproc")
    if nproc is None:
        return max(devices, 1)
    if not nproc.isdecimal() or int(nproc) < 1:
        raise ConfigError(f"nproc must be a whole number from 1, got {nproc!r}")
    if devices > 1 and int(nproc) != devices:
        raise ConfigError(f"nproc={nproc} contradicts device={given['device']}; give one of them")
    return int(nproc)


def read_arguments(arguments: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns upstream's arguments, and ours without their prefix.

    Values are read as Ultralytics reads them.

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
