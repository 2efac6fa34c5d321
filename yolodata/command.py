"""Runs one command of the command line: errors in one message, the exit status, the output."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

from yolodata.arguments import Parser
from yolodata.errors import ConfigError, YolodataError, lacking
from yolodata.isolation import working_folder
from yolodata.redaction import hide_secrets, redacted
from yolodata.terminal import cut, open_closed, printable, spell_out


def run(work: Callable[[list[str]], int], argv: Sequence[str] | None = None) -> int:
    """Does the work of a command line and explains what goes wrong; returns the exit status.

    0 is success, 1 what the command says (damage found, say), 2 wrong arguments or an error that
    yolodata explains, 130 an interruption.

    Args:
        work: is given the words, and returns 0 or 1.
        argv: the words (None: the process's own).
    """
    open_closed()
    spell_out()
    words = list(sys.argv[1:] if argv is None else argv)
    hide_secrets()
    status = _explained(work, words)
    try:
        sys.stdout.flush()  # or else Python does it at its end, and has a status of its own
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):
            print(f"yolodata: the output cannot be written ({error})", file=sys.stderr)
            return 2
    return status


def run_module(command: str, module: str) -> int:
    """Runs a command on this process's words, as `python -m` does; returns the exit status.

    Args:
        command: its name.
        module: has its `add_parser`.
    """
    return run(lambda words: run_words(parser_of(command, module), words))


def parser_of(command: str, module: str) -> Parser:
    """Returns the parser of a command; imports the module that has its `add_parser`."""
    subparsers = Parser(prog="yolodata").add_subparsers()
    import_module(module).add_parser(subparsers)
    found: Parser = subparsers.choices[command]
    return found


def run_words(parser: Parser, words: list[str]) -> int:
    """Runs a command on its words; returns 0 or what it says.

    Raises:
        ConfigError: the words are not those of this command, or the working folder is gone.
    """
    if not working_folder():  # torch, for one, ends without a word of it
        raise ConfigError("the folder of this shell was removed; change to another one (cd)")
    try:
        args = parser.parse_args(words)
    except SystemExit as end:  # argparse has printed the help
        return int(end.code or 0)
    from yolodata.shards.mapping import explaining_cut_off

    with explaining_cut_off(2):
        return int(args.run(args) or 0)


def _drop_output() -> None:
    """Lets go of what stdout holds and nobody takes, which Python would try to write again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(work: Callable[[list[str]], int], words: list[str]) -> int:
    try:
        return work(words)
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
