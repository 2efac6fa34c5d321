"""All settings in one table: `yolodata settings` prints it, docs/settings.md shows it.

Nothing is written here that the code says elsewhere: options of commands are their parsers', those
of classes are their docstrings'.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import Any

import yolodata
from yolodata.arguments import Parser
from yolodata.dali.compilers import DEFAULT_ARCHS
from yolodata.documented import Group, Setting, settings_of
from yolodata.errors import ConfigError

# Classes of `yolodata` whose settings are written in Python, and what they are for.
_CLASSES = {
    "PackSettings": "`settings=` of `pack`",
    "Loader": "training batches",
    "ValidationLoader": "validation batches",
    "LabelOptions": "`labels=` of both loaders",
    "EpochOptions": "`epochs=` of `Loader`",
    "ReadOptions": "`reading=` of both loaders",
    "DeviceOptions": "`device=` of both loaders",
    "Ranks": "`ranks=` of both loaders",
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
        "folder of the DALI operators that are compiled when they are first used, and of packed "
        "datasets that cannot lie beside their source",
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


def groups(parsers: Iterable[Parser]) -> Iterator[Group]:
    """Yields all settings.

    Args:
        parsers: of all commands; `cli` knows them, and hands them in.
    """
    parsers = list(parsers)
    for parser in parsers:
        settings = parser.settings()
        if settings:
            yield Group(parser.prog, "`--name value` or `name=value`", settings)
    for parser in parsers:
        yield from parser.more()
    for name, what in _CLASSES.items():
        yield Group(f"{name}(...)", f"Python: {what}", settings_of(getattr(yolodata, name)))
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
    """Runs `yolodata settings`.

    Raises:
        ConfigError: no setting has the word in its name.
    """
    found = list(_with_word(args.word, args.parsers()))
    if not found:
        raise ConfigError(
            f"no setting has {args.word!r} in its name; `yolodata settings` lists all"
        )
    shown = (group.markdown() if args.markdown else group.text() for group in found)
    print("\n".join(shown), end="")
    return 0


def page(parsers: Iterable[Parser]) -> str:
    """Returns all tables in Markdown; `parsers` as for `groups`."""
    return "\n".join(group.markdown() for group in groups(parsers))


def _with_word(word: str, parsers: Iterable[Parser]) -> Iterator[Group]:
    for group in groups(parsers):
        if word in group.title:
            yield group
            continue
        settings = [setting for setting in group.settings if word in setting.name]
        if settings:
            yield group._replace(settings=settings)
