"""`yolodata launch`: tells options of the job from arguments of training, and writes the file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from yolodata.arguments import ANY_NAME, literal, split_arguments
from yolodata.checks import nearest
from yolodata.documented import Group, as_words, settings_of
from yolodata.errors import ConfigError
from yolodata.launch.job import Job, Options
from yolodata.launch.systems import SYSTEMS, module_of, options_of
from yolodata.outputs import write_output
from yolodata.redaction import redacted

OF_TRAINING = "train."
"""Before the name of an argument of training that an option of the system has, too."""

DOWNLOADED = ("https", "http", "ul", "gs")
"""Schemes of URLs that Ultralytics downloads datasets from."""


def add_parser(subparsers: Any) -> None:
    """Adds `launch` to the command line."""
    parser = subparsers.add_parser(
        "launch",
        help="train on other machines",
        description="Write what a system starts `yolodata train` from, and print it; out=FILE "
        "writes it into a file, submit=True hands it on, too. Names that the system has an "
        "option of are options of the job, all others arguments of `yolodata train`; "
        f"{OF_TRAINING}NAME=VALUE is training's in any case ({OF_TRAINING}time=2). resume=auto "
        "and device= are added.",
        examples=(
            "yolodata launch slurm train model=yolo26m.yaml data=coco.yaml nodes=2 gpus=4 "
            "time=2-00:00:00 partition=gpu",
            "yolodata launch slurm train model=yolo26n.yaml data=coco8.yaml gpus=0 processes=2 "
            "out=job.sh",
        ),
        more=_options,
    )
    parser.add_argument("system", choices=list(SYSTEMS), help="what starts the job")
    parser.add_argument("command", choices=["train"], help="what is started")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar=ANY_NAME,
        help="an option of the system, or an argument of `yolodata train`",
    )
    parser.set_defaults(run=run)


def _options() -> Iterator[Group]:
    for system in SYSTEMS:
        yield Group(
            f"yolodata launch {system} train",
            "`name=value`, beside arguments of `yolodata train`",
            [
                as_words(setting)
                for group in options_of(system).groups()
                for setting in settings_of(group)
            ],
        )


def run(args: argparse.Namespace) -> int:
    """Writes, or prints, what the system starts the job from; submits it on request.

    Returns:
        The exit status.

    Raises:
        ConfigError: an option, or an argument of training, is wrong.
    """
    with redirect_stdout(sys.stderr):  # Ultralytics greets a new user; the output is the file alone
        job = read_job(args.system, args.arguments)
    module = module_of(args.system)
    text = module.write(job)
    if job.options.common.out is None:
        print(text, end="")
    else:
        write_output(Path(job.options.common.out), text.encode(), "out")
        print(f"yolodata: {job.options.common.out} is written", file=sys.stderr)
    return int(module.submit(job, text)) if job.options.common.submit else 0


def read_job(system: str, words: Sequence[str]) -> Job:
    """Tells the options of a system from the arguments of training, and checks both.

    Args:
        system: one of `SYSTEMS`.
        words: NAME=VALUE.

    Raises:
        ConfigError: a word is of another form, an option is out of range, or `yolodata train`
            would refuse an argument.
    """
    kind = options_of(system)
    known = kind.fields()
    options: dict[str, Any] = {}
    arguments: list[str] = []
    for word in words:
        name, equals, text = word.lstrip("-").partition("=")
        if not equals:
            raise ConfigError(f"arguments must be NAME=VALUE, got {word!r}")
        if name in known:
            # A field of text stays text: time=1:30 and partition=7 are no numbers.
            options[name] = text if "str" in str(known[name].type) else literal(text)
        else:
            arguments.append(f"{name.removeprefix(OF_TRAINING)}={text}")
    asked = kind().changed(options)
    _check_arguments(arguments, list(known), asked)
    arguments = [one for one in arguments if not one.startswith("device=")]
    if not any(one.startswith("resume=") for one in arguments):
        arguments.append("resume=auto")
    return Job(asked, (*arguments, f"device={asked.common.device}"), (system, "train", *words))


def _check_arguments(arguments: list[str], known: list[str], asked: Options) -> None:
    """Refuses what can be known now, and not hours later, when the job begins.

    Args:
        arguments: of training.
        known: names of the system's options.
        asked: their values.
    """
    from yolodata.train.train_cli import check_one_dataset, check_settings

    check_settings(arguments)
    upstream = split_arguments(arguments)[0]
    resumes_a_run = upstream.get("resume", "auto") != "auto"
    for name in ("model", "data"):
        if name not in upstream and "cfg" not in upstream and not resumes_a_run:
            raise ConfigError(f"{name} must be given, got none; give {name}=…, as to `yolo train`")
    if "nproc" in upstream:
        raise ConfigError(
            "nproc is an option of one machine; here give gpus=, or gpus=0 processes="
        )
    if upstream.get("device", asked.common.device) != asked.common.device:
        raise ConfigError(
            f"device={upstream['device']} is the system's to choose, which gives this job "
            f"device={asked.common.device}; give gpus=, the GPUs of a machine (gpus=0 trains on "
            "CPUs)"
        )
    scheme, url, _ = upstream.get("data", "").partition("://")
    if url and scheme not in (*DOWNLOADED, *asked.BUCKETS):
        raise ConfigError(
            f"data={redacted(upstream['data'])} is no place that datasets are read from (URLs are: "
            f"{', '.join(dict.fromkeys((*DOWNLOADED, *asked.BUCKETS)))}); copy it to where the "
            "machines of the job have it, and give the path there"
        )
    if "cfg" in upstream and not asked.SHARES_FILES:
        raise ConfigError(
            f"cfg={upstream['cfg']} is a file of this machine, which those of the job do not have; "
            "give what is in it as NAME=VALUE"
        )
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import DEFAULT_CFG_DICT

    from yolodata.ultralytics.command_line import read_arguments, refusals_as_errors
    from yolodata.ultralytics.fallback import (
        check_batch,
        check_optimizer,
        check_shared_batch,
        check_sizes,
    )

    values = read_arguments(arguments, "train")[0]
    check_one_dataset(values.get("data"))
    for name in values:
        if name not in DEFAULT_CFG_DICT and name not in ("augmentations", "save_dir"):
            raise ConfigError(
                f"there is no option or argument {name!r}"
                f"{nearest(name, [*known, *DEFAULT_CFG_DICT])}; `yolodata launch --help` lists all"
            )
    with refusals_as_errors():
        checked = get_cfg(overrides=values)
        check_optimizer(checked.optimizer)
    check_batch(checked.batch)
    check_sizes(checked.imgsz)
    if "batch" in values or not ("cfg" in upstream or resumes_a_run):  # which have one
        check_shared_batch(checked.batch, asked.process_counts)
