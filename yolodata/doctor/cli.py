"""`yolodata doctor`: from arguments to an examination and its reports."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.arguments import ANY_NAME
from yolodata.checks import one_of
from yolodata.errors import ConfigError

if TYPE_CHECKING:
    from yolodata.doctor.report import Report
    from yolodata.doctor.setup import Setup

_OF_A_RUN = ("args.yaml", "steps.csv")
"""Files of which the folder of a run has one."""

_OF_A_SETUP = {"seconds": "seconds", "step": "step_ms", "loader": "loader", "seed": "seed"}
"""Options that change what is measured, and what `Setup` calls them."""


def add_parser(subparsers: Any) -> None:
    """Adds `doctor` to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="find out why training is slow, fails or learns badly",
        description="Find out why training is slow, fails or learns badly. One thing at a time is "
        "taken away and measured, for about a minute: what each costs, the one knob to turn, and "
        "what that will bring. DATA is a dataset YAML, a folder of shards, or the folder of a run, "
        "whose records are read and nothing is measured. Arguments are those of training, as "
        "NAME=VALUE: model=yolo26n.yaml batch=64 device=0. For several GPUs, start it with "
        "torchrun: torchrun --nproc-per-node=4 -m yolodata doctor DATA. Exit status: 0 nothing to "
        "complain about, 1 complaints; under torchrun 0 for both, for torchrun takes any other "
        "status for a crash.",
        examples=(
            "yolodata doctor coco.yaml model=yolo26m.yaml batch=64 device=0",
            "yolodata doctor coco.yaml --loader yolodata --json doctor.json",
            "yolodata doctor coco.shards model=yolo26n.yaml seconds=20 only=machine only=data",
            "yolodata doctor coco.yaml batch=16 step=12 seed=1",
            "yolodata doctor runs/detect/train",
        ),
    )
    add = parser.add_argument
    add("data", metavar="DATA", help="dataset YAML, folder of shards, or folder of a run")
    add("arguments", nargs="*", metavar=ANY_NAME, default=[],
        help="an argument of Ultralytics for training")  # fmt: skip
    add("--seconds", type=float, help="about how long all measurements may take (default: 60)")
    add("--step", type=float, metavar="MS", help="milliseconds of a training step, for which it "
        "waits instead of training: the step of a GPU that is not here; none: trains")  # fmt: skip
    add("--loader", choices=("ultralytics", "yolodata"),
        help="whose loader (default: ultralytics for a YAML, yolodata for shards)")  # fmt: skip
    add("--only", action="append", metavar="SECTION",
        help="only this section; may be repeated: machine, data, ranks, memory, convergence "
        "(default: all)")  # fmt: skip
    add("--seed", type=int, help="of every random choice of the doctor (default: 0)")
    add("--json", type=Path, metavar="OUT.json", help="write all that was measured as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examines and reports; returns the exit status.

    Raises:
        ConfigError: the data or an argument cannot be used, or a file cannot be written.
    """
    from yolodata.doctor import report_text
    from yolodata.doctor.report import as_json, write

    rank = int(os.environ.get("RANK", 0))
    made = _of_run(args) if _is_run(Path(args.data)) else _of_setup(args, rank == 0)
    if rank != 0:
        return 0
    print(report_text.text(made))
    if args.json:
        write(args.json, as_json(made))
    return int(bool(made.complaints) and "WORLD_SIZE" not in os.environ)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _OF_A_RUN)


def _of_run(args: argparse.Namespace) -> Report:
    given = [f"--{name}" for name in (*_OF_A_SETUP, "only") if getattr(args, name) is not None]
    given += [word.partition("=")[0] for word in args.arguments]
    if given:
        raise ConfigError(
            f"{args.data} is the folder of a run, whose records are only read; leave out "
            f"{', '.join(given)}"
        )
    from yolodata.doctor.report import Report
    from yolodata.doctor.runs import examine_run

    begun = time.monotonic()
    found = examine_run(Path(args.data))
    return Report({"run": args.data}, {"run": found}, time.monotonic() - begun)


def _of_setup(args: argparse.Namespace, shows: bool) -> Report:
    from yolodata.doctor.examination import SECTIONS, examine
    from yolodata.doctor.report import Report

    wanted = args.only or list(SECTIONS)
    for name in wanted:
        one_of("--only", name, list(SECTIONS))
    sections = [name for name in SECTIONS if name in wanted]
    setup = _setup(args)
    begun = time.monotonic()
    with _progress(setup.seconds, shows) as say:
        examination = examine(setup, sections, say=say)
    examined = {
        "data": setup.data,
        "loader": setup.examined_loader,
        "arguments": dict(setup.arguments),
        "step_ms": setup.step_ms,
        "seconds": setup.seconds,
        "seed": setup.seed,
        "sections": sections,
        "ranks": int(os.environ.get("WORLD_SIZE", 1)),
    }
    return Report(examined, examination.outcomes, time.monotonic() - begun)


def _setup(args: argparse.Namespace) -> Setup:
    """What is examined, as the command line has it."""
    from yolodata.doctor.setup import Setup
    from yolodata.train.cli import gpus_wanted
    from yolodata.ultralytics.auto_pack import is_shards
    from yolodata.ultralytics.command_line import read_arguments

    upstream, ours = read_arguments(args.arguments, "train")
    if ours:
        raise ConfigError(
            f"the doctor tries yolodata's settings by itself, got {', '.join(sorted(ours))}; give "
            "them to `yolodata train`"
        )
    upstream.pop("data", None)  # of the file of cfg=; DATA comes before it
    devices = gpus_wanted(str(upstream.get("device", "")))
    if len(devices) > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"device={upstream['device']} takes {len(devices)} processes; start them with "
            f"torchrun --nproc-per-node={len(devices)} -m yolodata doctor ..."
        )
    if Path(args.data).is_dir() and not is_shards(args.data):
        raise ConfigError(
            f"{args.data} is a folder that holds no shards and none of {', '.join(_OF_A_RUN)}; "
            "give a dataset YAML, a folder of shards or the folder of a run"
        )
    given: dict[str, Any] = {
        name: getattr(args, option)
        for option, name in _OF_A_SETUP.items()
        if getattr(args, option) is not None
    }
    return Setup(args.data, upstream, **given)


@contextmanager
def _progress(seconds: float, shows: bool) -> Iterator[Callable[[str], None]]:
    """A bar over the seconds, and what is measured; nothing where stderr is no terminal."""
    from tqdm import tqdm

    begun = time.monotonic()
    bar_format = "{percentage:3.0f}%|{bar:20}| {elapsed} {desc}"
    with tqdm(
        total=seconds, bar_format=bar_format, disable=None if shows else True, leave=False
    ) as bar:

        def say(text: str) -> None:
            bar.n = min(time.monotonic() - begun, seconds)
            bar.set_description_str(text)

        yield say
