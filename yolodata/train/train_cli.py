"""`yolodata train`: Ultralytics' command line, for one process or many."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolodata.arguments import split_arguments
from yolodata.checks import shown
from yolodata.documented import Group, as_words, settings_of
from yolodata.errors import ConfigError, YolodataError
from yolodata.redaction import redacted
from yolodata.terminal import printable
from yolodata.train.distributed.process_group import no_such_gpu
from yolodata.train.exit_codes import (
    FAILED,
    MISTAKE,
    PEER_LOST,
    PREEMPTED,
    PeerLost,
    Preempted,
    leave_status,
)
from yolodata.train.signals import leave_in_time, stopping_at_once


def add_parser(subparsers: Any) -> None:
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
        examples=(
            "yolodata train model=yolo26n.yaml data=coco8.yaml epochs=100 imgsz=640",
            "yolodata train --model yolo26n.pt --data coco.yaml --epochs 100 --yolodata.codec jpeg",
            "yolodata train model=yolo26m.yaml data=coco.yaml batch=256 device=0,1,2,3 resume=auto",
            "yolodata train resume=runs/detect/train",
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
    from yolodata.pipeline.config import AugmentConfig
    from yolodata.train.settings import TrainSettings

    yield Group(
        "yolodata train",
        "`yolodata.name=value`, beside Ultralytics' own arguments `name=value`; in Python "
        "`trainer=yolodata.DetectionTrainer.configure(name=value)`, up to `metrics`",
        [as_words(setting, "yolodata.") for setting in settings_of(TrainSettings)],
    )
    yield Group(
        "augmentation",
        "`yolodata train name=value`, `yolodata view --augment name=value`, `yolodata bench "
        "name=value`; in Python `AugmentConfig(name=value)`",
        [as_words(setting) for setting in settings_of(AugmentConfig)],
    )


def run(args: argparse.Namespace) -> int:
    """Trains, or starts the processes that do.

    Returns:
        The exit status.

    Raises:
        ConfigError: an argument is wrong.
    """
    check_settings(args.arguments)
    processes = processes_wanted(args.arguments)
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        from yolodata.train.distributed.launch import launch

        return launch(on_gpus_there(args.arguments), processes)
    try:
        with stopping_at_once():
            _train(args.arguments)
    except Preempted as stop:
        leave_status(PREEMPTED, stop.why)
        raise
    except PeerLost as error:
        print("yolodata: " + printable(error, keep="\n"), file=sys.stderr)
        leave_status(PEER_LOST, error.reason)
        return PEER_LOST
    except Exception as error:
        code = MISTAKE if isinstance(error, YolodataError) else FAILED
        leave_status(code, redacted(f"{type(error).__name__}: {error}"))
        raise
    return 0


def _train(arguments: list[str]) -> None:
    """Trains as the arguments, and those of the run that is resumed, say."""
    from yolodata.ultralytics.command_line import read_arguments

    upstream, ours = of_run(*read_arguments(arguments, "train"))
    upstream.pop("nproc", None)
    model = upstream.pop("model", None)
    resume = upstream.get("resume")
    if resume and not isinstance(resume, str):  # Ultralytics begins a new run where it cannot
        resume = upstream["resume"] = str(model)
        if not resume.endswith(".pt"):
            raise ConfigError(
                f"resume=True needs model=RUN/weights/last.pt, got model={model}; resume=RUN names "
                "it, too, and resume=auto goes on with project/name"
            )
    if str(resume).endswith(".pt"):
        model = resume
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
    from yolodata.train.distributed.process_group import ProcessGroup
    from yolodata.train.trainer import trainer_for
    from yolodata.ultralytics.command_line import open_model, refusals_as_errors

    check_one_dataset(upstream.get("data"))
    with ProcessGroup.join().first_of_machine("model"):  # which may be downloaded
        made = open_model(model)
    made.add_callback("teardown", leave_in_time)  # before those of trackers
    with refusals_as_errors():
        made.train(trainer=trainer_for(made.task).configure(**ours), **upstream)


def check_one_dataset(data: Any) -> None:
    """Refuses several datasets: Ultralytics trains on each in turn, and passes over what fails.

    Such a training would end with 0 whatever happened, and never find its checkpoints again.

    Raises:
        ConfigError: there is a list of them.
    """
    if isinstance(data, (list, tuple)):
        raise ConfigError(
            f"data must be one dataset, got {shown(data)}; start `yolodata train` once for each, "
            "with a name= of its own (a single YAML file may name several folders of images)"
        )


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
    from yolodata.plain_yaml import read_settings
    from yolodata.train.settings import TrainSettings

    saved = read_settings(folder / "args.yaml")
    settings = TrainSettings.of_run(folder, ours)
    kept = {} if settings is None else settings.as_given()
    goes_on = str(named) if named.suffix == SUFFIX else "auto"
    upstream = {**saved, **upstream, "resume": goes_on, "save_dir": str(folder)}
    return upstream, {**kept, **ours}


def gpus_wanted(device: str) -> list[str]:
    """Returns the GPUs that `device=` names, as Ultralytics reads it; none where it names others.

    -1 is any that is idle.
    """
    for sign in ("cuda:", "(", ")", "[", "]", "'", '"', " "):
        device = device.lower().replace(sign, "")
    named = [part for part in device.split(",") if part]
    return named if all(part == "-1" or part.isdecimal() for part in named) else []


def _given(arguments: list[str]) -> dict[str, str]:
    """Returns the arguments as text; `device` and `nproc` may stand in the file of `cfg=`, too.

    Without that file, the process that only starts the others need not wait for torch.
    """
    given = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)
    if "cfg" in given:
        from yolodata.ultralytics.command_line import read_arguments

        values, _ = read_arguments(arguments, "train")
        of_start = [name for name in ("device", "nproc") if values.get(name) is not None]
        given.update({name: str(values[name]) for name in of_start})
    return given


def processes_wanted(arguments: list[str]) -> int:
    """Returns how many processes the arguments ask for on this machine.

    Raises:
        ConfigError: `nproc` is no number of processes, or contradicts `device`.
    """
    given = _given(arguments)
    devices = len(gpus_wanted(given.get("device", "")))
    nproc = given.get("nproc")
    if nproc is None:
        return max(devices, 1)
    if not nproc.isdecimal() or int(nproc) < 1:
        raise ConfigError(f"nproc must be a whole number from 1, got {nproc!r}")
    if devices > 1 and int(nproc) != devices:
        raise ConfigError(f"nproc={nproc} contradicts device={given['device']}; give one of them")
    return int(nproc)


def on_gpus_there(arguments: list[str]) -> list[str]:
    """Returns the arguments of several processes, with GPUs chosen where the device is -1.

    Raises:
        ConfigError: a GPU is named that torch does not find.
    """
    given = _given(arguments)
    wanted = gpus_wanted(given.get("device", ""))
    if not wanted:
        return arguments
    import torch

    count = torch.cuda.device_count()
    if (len(wanted) > count and "-1" in wanted) or any(int(gpu) >= count for gpu in wanted):
        raise ConfigError(no_such_gpu(given["device"]))
    if "-1" not in wanted:
        return arguments
    from ultralytics.utils.torch_utils import parse_device

    others = [one for one in arguments if not one.lstrip("-").startswith("device=")]
    return [*others, f"device={parse_device(','.join(wanted))}"]


def check_settings(arguments: list[str]) -> None:
    """Refuses wrong settings of ours before torch is imported, and before processes are started.

    Raises:
        ConfigError: an argument is no NAME=VALUE, or a setting is unknown or out of range.
    """
    from yolodata.train.settings import TrainSettings

    TrainSettings().changed(split_arguments(arguments)[1])
