"""Writes docs/api.md from the docstrings of the public names.

python docs/api.py            renews the page
python docs/api.py --check    fails if it is not up to date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yolodata

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"

GROUPS = {
    "Data": ("pack", "PackSettings", "open_shards", "ShardDataset"),
    "Batches": ("Loader", "ValidationLoader", "AugmentConfig"),
    "Options of the loaders": (
        "LabelOptions", "DeviceOptions", "ReadOptions", "EpochOptions", "Ranks",
    ),
    "One sample": ("plan", "Recipe", "render", "labels"),
    "Training with Ultralytics": (
        "DetectionTrainer", "SegmentationTrainer", "PoseTrainer", "OBBTrainer",
        "DetectionValidator", "SegmentationValidator", "PoseValidator", "OBBValidator",
    ),
    "Errors": ("YolodataError", "DatasetError", "ResourceError", "ShardError", "ConfigError"),
}  # fmt: skip

HEAD = """\
# Public names

<!-- Made by `python docs/api.py` from the docstrings; change those. -->

What `import yolodata` offers. Names are looked up when they are first used: importing the package
imports neither torch nor Ultralytics. `help(yolodata.Loader)` prints the same text.
"""

TAIL = """\
## Elsewhere

- The keys of the dict behind a `Recipe`:
  [yolodata/pipeline/recipe.py](../yolodata/pipeline/recipe.py).
- The keys, shapes and dtypes of a batch:
  [yolodata/pipeline/batch.py](../yolodata/pipeline/batch.py).
- All settings in tables, those of the trainers (`DetectionTrainer.configure(…)`, or
  `yolodata.NAME=VALUE` on the command line) and of the commands too: [settings.md](settings.md).
- Packages beside it: `yolodata.train` ([training.md](training.md), [upload.md](upload.md)),
  `yolodata.dali` ([dali-operators.md](dali-operators.md)), `yolodata.telemetry`
  ([telemetry.md](telemetry.md)).
- The command line: `yolodata --help`, and `--help` of every subcommand.
"""

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
LISTED = ("Args", "Attributes", "Raises")  # sections of entries "name: text"
TITLES = {"Args": "Arguments", "Raises": "Errors"}
_NATIVE = re.compile(r"\w+\((?:self(?:, )?)?(.*)\)( -> .*)?")  # nanobind's line in a docstring
LINE = 100  # a longer signature gets a line for each argument


def page() -> str:
    """Returns the whole page.

    Raises:
        SystemExit: a public name belongs to no group, or a group names what is not public.
    """
    shown: set[Any] = set()
    grouped = [name for names in GROUPS.values() for name in names]
    odd = set(grouped) ^ set(yolodata.__all__)
    if odd or len(grouped) != len(set(grouped)):
        raise SystemExit(
            f"GROUPS in {Path(__file__).name} must name each of yolodata.__all__ once, got a "
            f"difference of {sorted(odd)}; change GROUPS"
        )
    lines = [HEAD]
    for group, names in GROUPS.items():
        lines += [f"## {group}\n", *(one(name, getattr(yolodata, name), shown) for name in names)]
    return "\n".join([*lines, TAIL])


def one(name: str, value: Any, shown: set[Any]) -> str:
    """Returns the section of a public name: signature, docstring, members that are not `shown`."""
    file = value.__module__.replace(".", "/")
    file += ".py" if (ROOT / f"{file}.py").exists() else ".pyi"
    lines = [f"### `{name}`\n"]
    # Other packages make what is derived from a class of theirs: exceptions, trainers.
    made_by_others = isinstance(value, type) and foreign(value) != [object]
    if not made_by_others and (called := signature(name, value)) != name:
        lines.append(f"```python\n{called}\n```\n")
    lines += [*described(value), f"Source: [{file}](../{file})\n"]
    for member, kind in members(value) if isinstance(value, type) else ():
        function = getattr(kind, "__func__", kind)
        if function not in shown:
            shown.add(function)
            heading = f"{name}.{member}"
            if not isinstance(kind, property):
                heading = signature(heading, getattr(value, member), one_line=True)
            lines += [f"#### `{heading}`\n", *described(kind)]
    return "\n".join(lines)


def foreign(value: type) -> list[type]:
    """Returns the bases of a class that are not ours."""
    return [base for base in value.__mro__ if not base.__module__.startswith("yolodata")]


def members(value: type) -> Iterator[tuple[str, Any]]:
    """Yields public methods and properties of a class.

    Those that a class of another package has too are that package's interface, and are left out.
    """
    others = foreign(value)
    seen: set[str] = set()
    for base in value.__mro__:
        for name, member in vars(base).items() if base not in others else ():
            wanted = callable(member) or isinstance(member, (property, classmethod, staticmethod))
            if name.startswith("_") or name in seen or not wanted:
                continue
            seen.add(name)
            if not any(hasattr(other, name) for other in others):
                yield name, member


def signature(name: str, value: Any, one_line: bool = False) -> str:
    """Returns how something is called, as Python source."""
    try:
        found = inspect.signature(value)
    except (ValueError, TypeError):  # native: the first line of the docstring says it
        first = (value.__doc__ or "").partition("\n")[0]
        match = _NATIVE.fullmatch(first)
        if match is None:
            return name  # made by its class methods only
        return f"{name}({match[1]}){(match[2] or '').replace('yolodata._native.', '')}"
    arguments, star = [], False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        text = str(parameter.name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            text, star = f"*{text}", True
        if parameter.kind is parameter.VAR_KEYWORD:
            text = f"**{text}"
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            arguments.append("*")
            star = True
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f"{' = ' if ':' in text else '='}{parameter.default!r}"
        arguments.append(text)
    result = found.return_annotation
    made = isinstance(value, type) or result is found.empty
    end = ")" if made else f") -> {_annotation(result)}"
    line = f"{name}({', '.join(arguments)}{end}"
    if one_line or len(line) <= LINE:
        return line
    return f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + end


def _annotation(given: Any) -> str:
    return given if isinstance(given, str) else getattr(given, "__name__", str(given))


def described(value: Any) -> Iterator[str]:
    """Yields a Google-style docstring as Markdown, block by block."""
    text = (inspect.getdoc(value) or "").split("\n")
    if _NATIVE.fullmatch(text[0]):
        text.pop(0)
    for title, lines in _sections(text):
        if title:
            yield f"**{TITLES.get(title, title)}**\n"
        yield from _entries(lines) if title in LISTED else _paragraphs(lines)


def _sections(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    title = ""
    held: list[str] = []
    for line in lines:
        if line.removesuffix(":") in SECTIONS and line.endswith(":"):
            yield title, held
            title, held = line[:-1], []
        elif title and line and not line.startswith(" "):  # text again, behind a section
            yield title, held
            title, held = "", [line]
        else:
            held.append(line.removeprefix("    ") if title else line)
    yield title, held


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Yields paragraphs; indented ones are code."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line:
            block.append(line)
            continue
        if block and all(line.startswith("    ") for line in block):
            code = "\n".join(line.removeprefix("    ") for line in block)
            yield f"```python\n{code}\n```\n"
        elif block:
            yield _escaped(" ".join(line.strip() for line in block)) + "\n"
        block = []


def _entries(lines: list[str]) -> Iterator[str]:
    """Yields a list of the entries "name: text", whose further lines are indented."""
    entries: list[str] = []
    for line in filter(None, lines):
        if line.startswith(" ") and entries:
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    if entries:
        yield "\n".join(_entry(entry) for entry in entries) + "\n"


def _entry(entry: str) -> str:
    name, colon, text = entry.partition(": ")
    names = re.fullmatch(r"\w+(, \w+)*", name) if colon else None
    return f"- `{name}`: {_escaped(text)}" if names else f"- {_escaped(entry)}"


def _escaped(text: str) -> str:
    """Returns text that Markdown shows as it is; code in backticks stays."""
    parts = text.split("`")
    return "`".join(
        part if number % 2 else re.sub(r"([*<])", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def main(arguments: list[str]) -> int:
    """Carries out the command line; 1 if --check finds an old page."""
    made = page()
    if arguments == ["--check"]:
        if PAGE.read_text(encoding="utf-8") == made:
            return 0
        print(f"{PAGE} is not up to date; run python docs/api.py", file=sys.stderr)
        return 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
