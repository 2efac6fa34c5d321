"""The `yolodata` command: finds the subcommand and reports errors; the work is done elsewhere."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from yolodata import __version__
from yolodata.arguments import Parser
from yolodata.checks import nearest
from yolodata.errors import ConfigError, YolodataError, lacking
from yolodata.isolation import working_folder
from yolodata.redaction import hide_secrets, redacted
from yolodata.terminal import cut, open_closed, printable, spell_out

# Subcommand -> (module with `add_parser`, help). Only the module of the one in use is imported.
# Its examples are an argument of `add_parser`: see `arguments.Parser`.
COMMANDS = {
    "shard": ("yolodata.ingest.pack_cli", "pack a dataset (YOLO, COCO, VOC) into shards"),
    "verify": ("yolodata.shards.verify_cli", "check a shard dataset for damage"),
    "info": (
        "yolodata.info.info_cli",
        "say what a shard dataset holds, or what made a run",
    ),
    "diff": ("yolodata.diff.diff_cli", "say in what two datasets or runs differ"),
    "cache": ("yolodata.ingest.cache_cli", "list and remove what trainers packed"),
    "labels": ("yolodata.ingest.pack_cli", "read the labels of a packed dataset again"),
    "view": ("yolodata.view", "write a picture with boxes and class names"),
    "train": ("yolodata.train.train_cli", "train with Ultralytics on yolodata's loaders"),
    "val": ("yolodata.ultralytics.val_cli", "validate with Ultralytics on yolodata's loaders"),
    "export": (
        "yolodata.train.export_cli",
        "write weights that Ultralytics loads, from a checkpoint",
    ),
    "parity": ("yolodata.parity.parity_cli", "compare our batches with Ultralytics' own"),
    "doctor": (
        "yolodata.doctor.doctor_cli",
        "find out why training is slow, fails or learns badly",
    ),
    "bench": ("yolodata.bench.benchmark", "compare the loaders on this machine"),
    "launch": (
        "yolodata.launch.launch_cli",
        "train on other machines: Slurm, Kubernetes, SkyPilot",
    ),
    "cost": ("yolodata.cost.cost_cli", "say what training costs, in hours and money"),
    "settings": ("yolodata.settings", "list all settings: name, default, meaning, example"),
}

_OVERVIEW = """\
yolodata {version}: a data-loading engine for training YOLO detectors

{commands}

yolodata COMMAND --help     what a command does, its settings, examples
yolodata version            the version

Settings are written --name value or name=value. Exit status: 0 is success, 1 what the command
itself says (damage found, a limit missed), 2 a mistake or an error that yolodata explains,
130 an interruption.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `yolodata` with these arguments (None: the process's own); returns the exit status.

    0 is success, 1 what the subcommand says (damage found, say), 2 wrong arguments or an error
    that yolodata explains, 130 an interruption.
    """
    open_closed()
    spell_out()
    words = list(sys.argv[1:] if argv is None else argv)
    hide_secrets()
    status = _explained(words)
    try:
        sys.stdout.flush()  # or else Python does it at its end, and has a status of its own
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):
            print(f"yolodata: the output cannot be written ({error})", file=sys.stderr)
            return 2
    return status


def _drop_output() -> None:
    """Lets go of what stdout holds and nobody takes, which Python would try to write again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(words: list[str]) -> int:
    try:
        return _run(words)
    except YolodataError as error:
        print("yolodata: " + cut(printable(redacted(error), keep="\n")), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:  # which may say how to go on
        print("; ".join(("yolodata: interrupted", *map(str, stop.args))), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, say) has gone
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            print(
                "yolodata: a path, or a name in it, is longer than the system takes; give a "
                f"shorter one, got {printable(redacted(error.filename))[:200]}", file=sys.stderr,
            )  # fmt: skip
            return 2
        if not lacking(error):
            raise
        print(f"yolodata: {lacking(error)} ({redacted(error)})", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    command, words = words[0] if words else "help", words[1:]
    if command in ("help", "--help", "-h"):
        if not words:  # alone, `yolodata` is a question and no mistake: status 0
            print(overview(), end="")
            return 0
        command, words = words[0], ["--help"]
    if command in ("version", "--version", "-V"):
        if words:
            raise ConfigError(f"`yolodata version` takes nothing, got {words[0]!r}")
        print(f"yolodata {__version__}")
        return 0
    parser = parser_of(command)
    if not working_folder():  # torch, for one, ends without a word of it
        raise ConfigError("the folder of this shell was removed; change to another one (cd)")
    try:
        args = parser.parse_args(words)
    except SystemExit as end:  # argparse has printed the help
        return int(end.code or 0)
    from yolodata.shards.mapping import explaining_cut_off

    with explaining_cut_off(2):
        return int(args.run(args) or 0)


def overview() -> str:
    """Returns what `yolodata` alone prints."""
    commands = "\n".join(f"  {name:8} {text}" for name, (_, text) in COMMANDS.items())
    return _OVERVIEW.format(version=__version__, commands=commands)


def parser_of(command: str) -> Parser:
    """Returns the parser of a subcommand.

    Raises:
        ConfigError: there is no such subcommand.
    """
    if command not in COMMANDS:
        raise ConfigError(
            f"there is no command {command!r}{nearest(command, COMMANDS)}; there are "
            f"{', '.join(COMMANDS)}, as in `yolodata {next(iter(COMMANDS))} --help`"
        )
    subparsers = Parser(prog="yolodata").add_subparsers()
    import_module(COMMANDS[command][0]).add_parser(subparsers)
    found: Parser = subparsers.choices[command]
    return found
