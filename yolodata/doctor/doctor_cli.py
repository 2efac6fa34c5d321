"""`yolodata doctor`: from arguments to an examination and its reports."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.arguments import ANY_NAME, check_text
from yolodata.checks import one_of
from yolodata.errors import ConfigError
from yolodata.outputs import check_output
from yolodata.plain_yaml import read_settings
from yolodata.redaction import refuse_secrets, stored
from yolodata.telemetry.steps import FILE

if TYPE_CHECKING:
    from yolodata.doctor.report import Report
    from yolodata.doctor.setup import Setup

_OF_A_RUN = ("args.yaml", FILE)
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
            "yolodata doctor coco.yaml --loader yolodata --json doctor.json --html doctor.html",
            "yolodata doctor coco.shards model=yolo26n.yaml seconds=20 only=machine only=data",
            "yolodata doctor coco.yaml batch=16 step=12 seed=1 apply=better.yaml",
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
    add("--html", type=Path, metavar="OUT.html", help="write the report as one HTML file, with "
        "plots")  # fmt: skip
    add("--apply", type=Path, metavar="OUT.yaml",
        help="write the settings of the complaints, for `yolodata train cfg=OUT.yaml`; a file that "
        "is there is not overwritten")  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examines and reports; returns the exit status.

    Raises:
        ConfigError: the data or an argument cannot be used, or a file cannot be written.
    """
    from yolodata.doctor import apply, report_html, report_text
    from yolodata.doctor.report import as_json, write

    if args.apply:
        apply.refuse_to_overwrite(args.apply)
    for option in ("json", "html", "apply"):
        check_output(getattr(args, option), f"--{option}")
    rank = int(os.environ.get("RANK", 0))
    made, base = _of_run(args) if _is_run(Path(args.data)) else _of_setup(args, rank == 0)
    if rank != 0:
        return 0
    print(report_text.text(made))
    if args.json:
        write(args.json, as_json(made))
    if args.html:
        write(args.html, report_html.html(made))
    if args.apply:
        _apply(made, base, args.apply)
    return int(bool(made.complaints) and "WORLD_SIZE" not in os.environ)


def _apply(made: Report, base: dict[str, Any], path: Path) -> None:
    from yolodata.doctor import apply
    from yolodata.doctor.report import write

    if not any(finding.knob.settings for finding in made.findings):
        print(f"\nNo finding has a setting; {path} is not written.")
        return
    apply.refuse_to_overwrite(path)  # it took a minute
    write(path, apply.settings_file(made, base, path))
    print(f"\nTo train with the settings above: yolodata train cfg={path}")


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _OF_A_RUN)


def _of_run(args: argparse.Namespace) -> tuple[Report, dict[str, Any]]:
    """The report of a run, and the arguments that it was started with."""
    given = [f"--{name}" for name in (*_OF_A_SETUP, "only") if getattr(args, name) is not None]
    given += [word.partition("=")[0] for word in args.arguments]
    if given:
        raise ConfigError(
            f"{args.data}: is the folder of a run, whose records are only read; leave out "
            f"{', '.join(given)}"
        )
    from yolodata.doctor.report import Report
    from yolodata.doctor.runs import examine_run

    begun = time.monotonic()
    found = examine_run(Path(args.data))
    made = Report({"run": args.data}, {"run": found}, time.monotonic() - begun)
    return made, _arguments_of_run(Path(args.data))


def _arguments_of_run(folder: Path) -> dict[str, Any]:
    """What the run's records say of its arguments that is no default, and of no other run."""
    if not (folder / "args.yaml").is_file():
        return {}
    from ultralytics.utils import DEFAULT_CFG_DICT

    from yolodata.train.settings import TrainSettings

    saved = read_settings(folder / "args.yaml")
    own = {"mode", "task", "save_dir", "name", "project", "resume", "exist_ok"}
    given = {
        name: value
        for name, value in saved.items()
        if name not in own and value != DEFAULT_CFG_DICT.get(name)
    }
    settings = TrainSettings.of_run(folder, {"upload": None})  # a URL belongs to one run
    ours = {} if settings is None else settings.as_given()
    return given | {f"yolodata.{name}": value for name, value in ours.items()}


def _of_setup(args: argparse.Namespace, shows: bool) -> tuple[Report, dict[str, Any]]:
    """The report of a set-up, and its arguments for training."""
    from yolodata.doctor.report import Report
    from yolodata.doctor.sections import SECTIONS, examine
    from yolodata.doctor.setup import MODEL

    wanted = args.only or list(SECTIONS)
    for name in wanted:
        one_of("--only", name, list(SECTIONS))
    sections = [name for name in SECTIONS if name in wanted]
    setup = _setup(args)
    _ = setup.train  # refuses wrong arguments now
    begun = time.monotonic()
    with _progress(setup.seconds, shows) as say:
        examination = examine(setup, sections, say=say)
    examined = {
        "data": setup.data,
        "loader": setup.examined_loader,
        "arguments": dict(setup.arguments) | _named(setup),
        "step_ms": setup.step_ms,
        "seconds": setup.seconds,
        "seed": setup.seed,
        "sections": sections,
        "ranks": int(os.environ.get("WORLD_SIZE", 1)),
    }
    made = Report(examined, examination.outcomes, time.monotonic() - begun)
    return made, {"model": MODEL, **setup.arguments, **_named(setup), "data": setup.data}


def _named(setup: Setup) -> dict[str, Any]:
    """Settings of yolodata, as arguments name them."""
    return {f"yolodata.{name}": stored(value) for name, value in setup.settings.items()}


def _setup(args: argparse.Namespace) -> Setup:
    """What is examined, as the command line has it."""
    from yolodata.doctor.setup import GIVE, Setup
    from yolodata.train.train_cli import gpus_wanted
    from yolodata.ultralytics.auto_pack import is_shards
    from yolodata.ultralytics.command_line import read_arguments

    upstream, ours = read_arguments(args.arguments, "train")
    refuse_secrets({"data": args.data})
    check_text("data", args.data)
    upstream.pop("data", None)  # of the file of cfg=; DATA comes before it
    devices = gpus_wanted(str(upstream.get("device", "")))
    if len(devices) > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"device={','.join(devices)} takes {len(devices)} processes; start them with "
            f"torchrun --nproc-per-node={len(devices)} -m yolodata doctor …"
        )
    if Path(args.data).is_dir() and not is_shards(args.data):
        raise ConfigError(
            f"{args.data}: is a folder that holds no shards and none of {', '.join(_OF_A_RUN)}; "
            + GIVE
        )
    given: dict[str, Any] = {
        name: getattr(args, option)
        for option, name in _OF_A_SETUP.items()
        if getattr(args, option) is not None
    }
    return Setup(args.data, upstream, settings=ours, **given)


@contextmanager
def _progress(seconds: float, shows: bool) -> Iterator[Callable[[str], None]]:
    """A bar over the seconds, and what is measured; nothing where stderr is no terminal."""
    from tqdm import tqdm

    begun = time.monotonic()
    bar_format = "{percentage:3.0f}%|{bar:20}| {elapsed} {desc}"
    with tqdm(
        total=seconds,
        bar_format=bar_format,
        disable=None if shows else True,
        leave=False,
        dynamic_ncols=True,
    ) as bar:

        def say(text: str) -> None:
            bar.n = min(time.monotonic() - begun, seconds)
            bar.set_description_str(text)

        yield say
