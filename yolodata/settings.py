"""All settings in one table: `yolodata settings` prints it, docs/settings.md shows it.

Nothing is written here that the code says elsewhere: options of commands are their parsers', those
of classes are their docstrings'.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

from yolodata.cli import COMMANDS, parser_of
from yolodata.dali.compilers import DEFAULT_ARCHS
from yolodata.documented import Setting, as_words, settings_of
from yolodata.errors import ConfigError


class Group(NamedTuple):
    """Settings that are given in the same place."""

    title: str
    where: str  # how they are given
    settings: list[Setting]


# Classes whose settings are written in Python: where they are, and what they are for.
_CLASSES = {
    "PackSettings": ("yolodata", "`settings=` of `pack`"),
    "Loader": ("yolodata", "training batches"),
    "ValidationLoader": ("yolodata", "validation batches"),
    "LabelOptions": ("yolodata", "`labels=` of both loaders"),
    "EpochOptions": ("yolodata", "`epochs=` of `Loader`"),
    "ReadOptions": ("yolodata", "`reading=` of both loaders"),
    "DeviceOptions": ("yolodata", "`device=` of both loaders"),
    "Ranks": ("yolodata", "`ranks=` of both loaders"),
}

ENVIRONMENT = [
    Setting(
        "CXX",
        "the first that is new enough",
        "installing, and DALI operators: the C++ compiler, g++ 12 or newer",
        "CXX=g++-13",
    ),
    Setting(
        "CUDA_HOME",
        "that of nvcc in PATH, or the wheels'",
        "installing, and DALI operators: the CUDA toolkit, version 12 or newer",
        "CUDA_HOME=/usr/local/cuda-13",
    ),
    Setting(
        "YOLODATA_CUDA",
        "auto",
        "installing: with CUDA if a compiler works (auto), in any case (on), or without (off)",
        "YOLODATA_CUDA=off",
    ),
    Setting(
        "YOLODATA_CUDA_ARCHS",
        DEFAULT_ARCHS,
        "installing: the GPU architectures to compile for",
        "YOLODATA_CUDA_ARCHS=90",
    ),
    Setting(
        "YOLODATA_WERROR",
        "0",
        "installing: compilers' warnings are errors",
        "YOLODATA_WERROR=1",
    ),
    Setting(
        "YOLODATA_ASAN",
        "0",
        "installing: with the address and undefined-behaviour sanitizers",
        "YOLODATA_ASAN=1",
    ),
    Setting(
        "YOLODATA_CACHE",
        "~/.cache/yolodata",
        "folder of the DALI operators that are compiled when they are first used",
        "YOLODATA_CACHE=/scratch/yolodata",
    ),
    Setting(
        "YOLODATA_SIMD",
        "the fastest that runs",
        "what the loops of rendering on CPUs are written with: portable, avx2 or avx512 (x86-64), "
        "or neon (arm64); same bits, for comparison",
        "YOLODATA_SIMD=portable",
    ),
    Setting(
        "YOLODATA_REQUIRE_GPU",
        "0",
        "tests: a test that needs a GPU fails where there is none, instead of being skipped",
        "YOLODATA_REQUIRE_GPU=1",
    ),
    Setting(
        "YOLODATA_LONG_TESTS",
        "0",
        "tests: also those that take minutes and rarely find anything, once a week",
        "YOLODATA_LONG_TESTS=1",
    ),
    Setting(
        "YOLODATA_TEST_DATA",
        "unset",
        "tests: folder of real images (`coco-mini/`, `bccd/` with a `data.yaml` each)",
        "YOLODATA_TEST_DATA=/data/small",
    ),
]


def groups() -> Iterator[Group]:
    """Yields all settings."""
    for command in COMMANDS:
        settings = parser_of(command).settings()
        if settings:
            yield Group(f"yolodata {command}", "`--name value` or `name=value`", settings)
    train = import_module("yolodata.train.settings").TrainSettings
    yield Group(
        "yolodata train, yolodata val",
        "`yolodata.name=value`, beside Ultralytics' own arguments `name=value` (`val`: folder, "
        "codec, reencode, keep_files, threads, workers, check, max_unreadable and pin); in Python "
        "`trainer=yolodata.DetectionTrainer.configure(name=value)`, up to `metrics`",
        [as_words(setting, "yolodata.") for setting in settings_of(train)],
    )
    launch = import_module("yolodata.launch.systems")
    for system in launch.SYSTEMS:
        yield Group(
            f"yolodata launch {system} train",
            "`name=value`, beside arguments of `yolodata train`",
            [
                as_words(setting)
                for group in launch.options_of(system).groups()
                for setting in settings_of(group)
            ],
        )
    validation = import_module("yolodata.ultralytics.settings")
    yield Group(
        "yolodata val",
        "`yolodata.name=value`, beside Ultralytics' own arguments `name=value`; in Python "
        "`validator=yolodata.DetectionValidator.configure(name=value)`",
        [
            as_words(setting, "yolodata.")
            for setting in settings_of(validation.Settings)
            if setting.name in validation.OF_VALIDATION
        ],
    )
    augment = import_module("yolodata.pipeline.config").AugmentConfig
    yield Group(
        "augmentation",
        "`yolodata train name=value`, `yolodata view --augment name=value`, `yolodata bench "
        "name=value`; in Python `AugmentConfig(name=value)`",
        [as_words(setting) for setting in settings_of(augment)],
    )
    for name, (module, what) in _CLASSES.items():
        documented = getattr(import_module(module), name)
        yield Group(f"{name}(...)", f"Python: {what}", settings_of(documented))
    yield Group("environment variables", "`NAME=value` before the command", ENVIRONMENT)


def add_parser(subparsers: Any) -> None:
    """Adds `settings` to the command line."""
    parser = subparsers.add_parser(
        "settings",
        help="list all settings",
        description="List all settings: name, default, meaning, example.",
        examples=(
            "yolodata settings",
            "yolodata settings codec",
            "yolodata settings word=threads markdown=True",
        ),
    )
    parser.add_argument(
        "word",
        nargs="?",
        metavar="WORD",
        default="",
        help="only settings whose name, or group, has this word in it (default: all)",
    )
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `yolodata settings`."""
    found = list(_with_word(args.word))
    if not found:
        raise ConfigError(
            f"no setting has {args.word!r} in its name; `yolodata settings` lists all"
        )
    print("\n".join((_markdown if args.markdown else _text)(group) for group in found), end="")
    return 0


def listed(*titles: str) -> str:
    """Returns the groups whose titles begin so, as `--help` shows them."""
    return "\n".join(_text(group) for group in groups() if group.title.startswith(titles))


def page() -> str:
    """Returns all tables in Markdown."""
    return "\n".join(_markdown(group) for group in groups())


def _with_word(word: str) -> Iterator[Group]:
    for group in groups():
        if word in group.title:
            yield group
            continue
        settings = [setting for setting in group.settings if word in setting.name]
        if settings:
            yield group._replace(settings=settings)


def _text(group: Group) -> str:
    lines = [f"{group.title}: {group.where}".replace("`", "")]
    lines = textwrap.wrap(lines[0], 98)
    for setting in group.settings:
        default = f"default {setting.default}, " if setting.default else ""
        lines.append(f"  {setting.name}  ({default}e.g. {setting.example})")
        lines += textwrap.wrap(
            setting.meaning.replace("`", ""), 98, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join([*lines, ""])


def _markdown(group: Group) -> str:
    lines = [f"## {group.title}", "", f"{group.where}.", ""]
    lines += ["| name | default | meaning | example |", "| --- | --- | --- | --- |"]
    for setting in group.settings:
        default = f"`{setting.default}`" if setting.default else "must be given"
        meaning = setting.meaning.replace("|", "\\|")
        lines.append(f"| `{setting.name}` | {default} | {meaning} | `{setting.example}` |")
    return "\n".join([*lines, ""])
