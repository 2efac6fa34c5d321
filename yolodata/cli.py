"""The `yolodata` command: finds the subcommand; the work is done elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from yolodata import __version__, command
from yolodata.arguments import Parser
from yolodata.checks import nearest
from yolodata.errors import ConfigError

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
    "settings": ("yolodata.settings_cli", "list all settings: name, default, meaning, example"),
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
    return command.run(_run, argv)


def _run(words: list[str]) -> int:
    name, words = words[0] if words else "help", words[1:]
    if name in ("help", "--help", "-h"):
        if not words:  # alone, `yolodata` is a question and no mistake: status 0
            print(overview(), end="")
            return 0
        name, words = words[0], ["--help"]
    if name in ("version", "--version", "-V"):
        if words:
            raise ConfigError(f"`yolodata version` takes nothing, got {words[0]!r}")
        print(f"yolodata {__version__}")
        return 0
    return command.run_words(parser_of(name), words)


def overview() -> str:
    """Returns what `yolodata` alone prints."""
    commands = "\n".join(f"  {name:8} {text}" for name, (_, text) in COMMANDS.items())
    return _OVERVIEW.format(version=__version__, commands=commands)


def parsers() -> Iterator[Parser]:
    """Yields the parsers of all subcommands, in the order of the overview."""
    return map(parser_of, COMMANDS)


def parser_of(name: str) -> Parser:
    """Returns the parser of a subcommand.

    Raises:
        ConfigError: there is no such subcommand.
    """
    if name not in COMMANDS:
        raise ConfigError(
            f"there is no command {name!r}{nearest(name, COMMANDS)}; there are "
            f"{', '.join(COMMANDS)}, as in `yolodata {next(iter(COMMANDS))} --help`"
        )
    found = command.parser_of(name, COMMANDS[name][0])
    if name == "settings":  # which lists those of all, and is named here: it does not import this
        found.set_defaults(parsers=parsers)
    return found
