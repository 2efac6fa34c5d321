"""Words of the command line: `--name value` and `name=value` are the same, and mistakes are errors.

Subcommands declare their arguments with argparse, in files of their own. `Parser` reads them. So
the rules are the same everywhere:

- `--name value`, `--name=value` and `name=value`; `-` and `_` in a name are the same.
- Flags: `--full`, `full=True`, `full=False`.
- Arguments without a flag may be named too: `source=coco.yaml`.
- A name that is not known is refused, with the nearest one.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from yolodata.checks import nearest
from yolodata.documented import Group, Setting
from yolodata.errors import ConfigError

ANY_NAME = "NAME=VALUE"
"""As the metavar of an argument without a flag: it takes every name that is no option."""

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_NEGATIVE = re.compile(r"-\.?\d.*")
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True,
             "false": False, "no": False, "off": False, "0": False}  # fmt: skip
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number"}
_DEFAULT = re.compile(r" ?\(default: ([^)]*)\)|^default: (.*)$|; default: (.*)$")
_VALUES = {int: "4", float: "0.5"}  # examples of options that no example names


class NamesAndValues(argparse.Action):
    """An option that is given as `--option NAME=VALUE`, several times, or as `NAME=VALUE` alone.

    Makes a dict of literals.

    Args:
        names: those that it takes.
    """

    def __init__(self, option_strings: Any, dest: str, names: Iterable[str], help: str) -> None:
        super().__init__(option_strings, dest, metavar=ANY_NAME, default={}, help=help)
        self.names = frozenset(names)

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Adds to the dict.

        Raises:
            ConfigError: it takes no such name, or there is no value.
        """
        name, equals, text = values.partition("=")
        if not equals or name not in self.names:
            raise ConfigError(
                f"{_shown(self)} must be NAME=VALUE with one of {', '.join(sorted(self.names))}, "
                f"got {values!r}"
            )
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: literal(text)})


class Parser(argparse.ArgumentParser):
    """The arguments of a subcommand.

    Args:
        examples: command lines that `--help` shows; tests parse them.
        more: settings that its words may be of, which `--help` shows behind the arguments.
        kwargs: see `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        more: Callable[[], Iterable[Group]] = tuple,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.examples = tuple(examples)
        self.more = more

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError, where argparse would end the process in words of its own."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")

    def format_help(self) -> str:
        """Returns what `--help` prints."""
        plain = [action.help for action in self._actions]
        for action, setting in self._described():
            default = f"default: {setting.default}; " if setting.default else ""
            action.help = f"{setting.meaning} ({default}{setting.example})".replace("%", "%%")
        lines = [super().format_help()]
        for action, text in zip(self._actions, plain, strict=True):
            action.help = text
        lines += [group.text() for group in self.more()]
        if self.examples:
            lines += ["examples:", *(f"  {example}" for example in self.examples), ""]
        return "\n".join(lines)

    def settings(self) -> list[Setting]:
        """Returns what can be set, in the order of the arguments."""
        return [
            setting._replace(meaning=f"{setting.meaning}: {', '.join(map(str, action.choices))}")
            if action.choices
            else setting
            for action, setting in self._described()
        ]

    def _described(self) -> Iterator[tuple[argparse.Action, Setting]]:
        shown = self._shown_in_examples()
        for action in self._actions:
            if action.dest == "help" or action.metavar == ANY_NAME == _shown(action):
                continue
            text = action.help or ""
            found = _DEFAULT.search(text)
            default = next(filter(None, found.groups())) if found else ""
            if not default and not action.required:
                default = "none" if action.default in (None, [], {}) else str(action.default)
            meaning = _DEFAULT.sub("", text).strip(" ;,")
            name = next(_names(action))
            example = shown.get(action.dest) or _likely(action)
            yield action, Setting(name, default, meaning, f"{name}={example}")

    def _shown_in_examples(self) -> dict[str, str]:
        """The value that the first example gives to an argument."""
        found: dict[str, str] = {}
        for example in self.examples:
            words = shlex.split(example.partition(" > ")[0])[len(self.prog.split()) :]
            for name, value in vars(self.parse_args(words)).items():
                if value == self.get_default(name):
                    continue
                if isinstance(value, dict):
                    value = [f"{key}={each}" for key, each in value.items()]
                found.setdefault(name, str(value[0] if isinstance(value, list) else value))
        return found

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses words in any of the forms above.

        Raises:
            ConfigError: a name is unknown, or a value is missing or of the wrong kind.
        """
        return super().parse_args(self._in_order(list(args or ())), namespace)

    # From words in any form to the one that argparse reads: options, then all without a name.

    def _in_order(self, words: list[str]) -> list[str]:
        options: list[str] = []
        bare: list[str] = []
        named: dict[str, list[str]] = {}
        while words:
            word = words.pop(0)
            if word == "--":
                bare += words
                break
            name, value, dashed = _split(word)
            if not name:
                bare.append(word)
                continue
            action = self._action(name)
            if action is None:
                taker, found = self._unknown(name, value, dashed, words)
                if taker.option_strings:
                    options.append(f"{taker.option_strings[-1]}={found}")
                else:
                    named.setdefault(taker.dest, []).append(found)
            elif not action.option_strings:
                named.setdefault(action.dest, []).append(self._value(action, value, words))
            elif action.nargs == 0:
                options += _flag(action, name, value, words)
            else:
                options.append(f"{action.option_strings[-1]}={self._value(action, value, words)}")
        if {"-h", "--help"} & set(options):
            return ["--help"]
        bare = self._placed(bare, named)
        return options + ["--"] * any(word.startswith("-") for word in bare) + bare

    def _action(self, name: str) -> argparse.Action | None:
        """The argument of this name."""
        flag = f"--{name.replace('_', '-')}"
        for action in self._actions:
            short = f"-{name}" in action.option_strings and len(name) == 1
            if flag in action.option_strings or short:
                return action
            if action.dest == name and not action.option_strings and action.metavar != ANY_NAME:
                return action
        return None

    def _value(self, action: argparse.Action, value: str | None, words: list[str]) -> str:
        """What is behind the equals sign, or the next word; checked."""
        if value is None:
            if not words or (words[0].startswith("-") and not _NEGATIVE.fullmatch(words[0])):
                raise ConfigError(f"{_shown(action)} must have a value, got none")
            value = words.pop(0)
        _check(action, value)
        return value

    def _unknown(
        self, name: str, value: str | None, dashed: bool, words: list[str]
    ) -> tuple[argparse.Action, str]:
        """Who takes a name that is no option's, and the word that it takes."""
        name = name.replace("-", "_")
        for action in self._actions:
            collects = isinstance(action, NamesAndValues) and name in action.names
            if collects or (action.metavar == ANY_NAME and not action.option_strings):
                if value is None:  # a flag, or a value follows
                    follows = words and (_NEGATIVE.fullmatch(words[0]) or not _split(words[0])[0])
                    value = words.pop(0) if follows else "True"
                return action, f"{name}={value}"
        known = [name for action in self._actions for name in _names(action)]
        hint = nearest(name, known)
        if not hint and not dashed:
            hint = f"; a file of this name is written ./{name}={value}"
        raise ConfigError(
            f"`{self.prog}` has no setting {name!r}{hint}; `{self.prog} --help` lists all"
        )

    def _placed(self, bare: list[str], named: dict[str, list[str]]) -> list[str]:
        """Words without a name, and those whose name is of an argument without a flag, in order."""
        rest, placed = list(bare), list[str]()
        for action in self._actions:
            if action.option_strings:
                continue
            if action.nargs in ("+", "*"):
                found, rest = named.get(action.dest, []) + rest, []
            elif action.dest in named:
                found = named[action.dest][-1:]
            else:
                found, rest = rest[:1], rest[1:]
            if not found and action.nargs not in ("?", "*"):
                needed = (a for a in self._actions if a.nargs not in ("?", "*"))
                wanted = " ".join(_shown(a) for a in needed if not a.option_strings)
                raise ConfigError(
                    f"`{self.prog}` needs {wanted}, got "
                    f"{' '.join(placed) or 'none'}; see `{self.prog} --help`"
                )
            for word in found:
                _check(action, word)
            placed += found
        if rest:
            raise ConfigError(f"`{self.prog}` does not know {rest[0]!r}; see `{self.prog} --help`")
        return placed


def _likely(action: argparse.Action) -> str:
    """A value that an argument can take, other than its default where that is possible."""
    if action.nargs == 0:
        return str(not action.default)
    if action.choices is not None:
        return next(str(choice) for choice in action.choices if choice != action.default)
    if action.type in _VALUES:
        return str(action.default) if action.default else _VALUES[action.type]
    return str(action.metavar or action.dest)


def _split(word: str) -> tuple[str, str | None, bool]:
    """Gives name, value and whether there are dashes; the name is "" where a word has none."""
    name, equals, value = word.partition("=")
    dashed = word.startswith("-") and not _NEGATIVE.fullmatch(word)
    name = name.lstrip("-") if dashed else name
    if not _NAME.fullmatch(name) or not (equals or dashed):
        return "", None, False
    return name, value if equals else None, dashed


def _flag(action: argparse.Action, name: str, value: str | None, words: list[str]) -> list[str]:
    """The words that turn a flag on or off."""
    if value is None and words and words[0].lower() in ("true", "false"):
        value = words.pop(0)
    on = True if value is None else _BOOLEANS.get(value.lower())
    if on is None:
        raise ConfigError(f"{_shown(action)} must be True or False, got {value!r}")
    both = isinstance(action, argparse.BooleanOptionalAction)
    if both and f"--{name.replace('_', '-')}" in _negations(action):
        on = not on
    return [action.option_strings[0 if on else -1]] if on or both else []


def _negations(action: argparse.Action) -> list[str]:
    return [option for option in action.option_strings if option.startswith("--no-")]


def _check(action: argparse.Action, text: str) -> None:
    """Refuses a value that the argument cannot take, in the words of all other errors."""
    if not text and not action.option_strings:  # as a path, it would be the working folder
        raise ConfigError(
            f"{_shown(action)} is empty; give a value (a variable of the shell may not be set)"
        )
    if action.choices is not None and text not in map(str, action.choices):
        raise ConfigError(
            f"{_shown(action)} must be one of {', '.join(map(str, action.choices))}, got {text!r}"
            f"{nearest(text, map(str, action.choices))}"
        )
    if callable(action.type):
        try:
            action.type(text)
        except ConfigError:
            raise
        except (ValueError, TypeError):
            kind = _KINDS.get(action.type, "of another kind")
            raise ConfigError(f"{_shown(action)} must be {kind}, got {text!r}") from None


def _shown(action: argparse.Action) -> str:
    """What an argument is called in messages."""
    if action.option_strings:
        return action.option_strings[0]
    return str(action.metavar or action.dest)


def _names(action: argparse.Action) -> Iterator[str]:
    """The names that a user may write."""
    if action.option_strings:
        yield from (o.lstrip("-").replace("-", "_") for o in action.option_strings if len(o) > 2)
    elif action.metavar != ANY_NAME:
        yield action.dest
    if isinstance(action, NamesAndValues):
        yield from action.names


def split_arguments(arguments: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns upstream's arguments as texts, and the values of ours without their prefix.

    Raises:
        ConfigError: an argument is not of the form NAME=VALUE, or not UTF-8, as file names may be.
    """
    upstream: dict[str, str] = {}
    ours: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.lstrip("-").partition("=")
        if not equals or not name:
            raise ConfigError(f"arguments must be NAME=VALUE, flags NAME=True, got {argument!r}")
        check_text(name, text)
        if name.startswith("yolodata."):
            ours[name.removeprefix("yolodata.")] = literal(text)
        else:
            upstream[name] = text
    return upstream, ours


def check_text(name: str, path: str) -> None:
    """Refuses a path of bytes that are not UTF-8, for which surrogates stand in a string.

    Args:
        name: of the argument, or what the path is.
        path: that goes into files of Ultralytics', such as `args.yaml`.

    Raises:
        ConfigError: it is no text.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{name} must be UTF-8, which Ultralytics' files are written in, got {path!r}; rename "
            "the file or folder"
        ) from None


def literal(text: str) -> Any:
    """Returns the value of a Python literal (true, false, none in any case), or the text."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # a very long path, say
        return text
