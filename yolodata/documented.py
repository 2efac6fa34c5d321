"""Settings: groups of them as they are shown, and those of a class, as its docstring has them.

An entry of `Args:` or `Attributes:` is `name: meaning (`name=value`).`; the parenthesis is an
example, in Python. `a, b: …` describes two settings. What takes no part in the signature is no
setting.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from yolodata.errors import ConfigError

_LISTS = ("Args:", "Attributes:")
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")
_EXAMPLES = re.compile(r" \((`\w+=[^`]*`(?:, `\w+=[^`]*`)*)\)")


class Setting(NamedTuple):
    """What users need to know of a setting."""

    name: str
    default: str  # "" is none: it has to be given
    meaning: str
    example: str  # NAME=VALUE


class Group(NamedTuple):
    """Settings that are given in the same place."""

    title: str
    where: str  # how they are given
    settings: list[Setting]

    def text(self) -> str:
        """Returns it for a terminal."""
        lines = textwrap.wrap(f"{self.title}: {self.where}".replace("`", ""), 98)
        for setting in self.settings:
            default = f"default {setting.default}, " if setting.default else ""
            lines.append(f"  {setting.name}  ({default}e.g. {setting.example})")
            lines += textwrap.wrap(
                setting.meaning.replace("`", ""), 98,
                initial_indent=" " * 6, subsequent_indent=" " * 6,
            )  # fmt: skip
        return "\n".join([*lines, ""])

    def markdown(self) -> str:
        """Returns it as a section with a table."""
        lines = [f"## {self.title}", "", f"{self.where}.", ""]
        lines += ["| name | default | meaning | example |", "| --- | --- | --- | --- |"]
        for setting in self.settings:
            default = f"`{setting.default}`" if setting.default else "must be given"
            meaning = setting.meaning.replace("|", "\\|")
            lines.append(f"| `{setting.name}` | {default} | {meaning} | `{setting.example}` |")
        return "\n".join([*lines, ""])


def settings_of(documented: type) -> list[Setting]:
    """Returns the settings of a class, in the order of its signature, as Python writes them.

    Raises:
        ConfigError: Python was told to leave docstrings out.
        ValueError: its docstring does not describe one, or gives no example.
    """
    if sys.flags.optimize > 1:
        raise ConfigError(
            "settings are described in docstrings, which Python leaves out with -OO "
            "(PYTHONOPTIMIZE=2); start it without, to read about them"
        )
    described = {}
    for base in reversed(documented.__mro__):
        for names, text in _entries(inspect.cleandoc(base.__dict__.get("__doc__") or "")):
            examples = dict(_examples(text))
            for name in names.split(", "):
                described[name] = _EXAMPLES.sub("", text).rstrip("."), examples.get(name)
    found = []
    for name, parameter in inspect.signature(documented).parameters.items():
        meaning, example = described.get(name, ("", None))
        if not meaning or example is None:
            raise ValueError(
                f"the docstring of {documented.__name__} must describe {name}, with an example: "
                f"{name}: what it is (`{name}=value`)."
            )
        default = "" if parameter.default is parameter.empty else repr(parameter.default)
        found.append(Setting(name, default, meaning, f"{name}={example}"))
    return found


def as_words(setting: Setting, prefix: str = "") -> Setting:
    """Returns a setting as the command line writes it: without quotes, with a prefix."""
    name, _, value = setting.example.partition("=")
    return setting._replace(
        name=prefix + name,
        default=_bare(setting.default),
        example=f"{prefix}{name}={_bare(value)}",
    )


def _bare(value: str) -> str:
    try:
        read: Any = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return read if isinstance(read, str) else value.replace(" ", "")


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Yields (names, text) of the lists of a Google-style docstring."""
    entry, listed = "", False
    for line in [*text.split("\n"), "end"]:
        if listed and line.startswith("        "):
            entry += f" {line.strip()}"
            continue
        if match := _ENTRY.fullmatch(entry):
            yield match[1], match[2]
        entry = line.strip() if listed and line.startswith("    ") else ""
        listed = line in _LISTS or (listed and (not line or line.startswith(" ")))


def _examples(text: str) -> Iterator[tuple[str, str]]:
    match = _EXAMPLES.search(text)
    yield from re.findall(r"`(\w+)=([^`]*)`", match[1]) if match else ()
