"""The table of all settings is made of the code, and what it says can be written as it says."""

from __future__ import annotations

import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

import yolodata
from yolodata.arguments import split_arguments
from yolodata.cli import COMMANDS, main, parser_of, parsers
from yolodata.documented import Setting, as_words, settings_of
from yolodata.ingest import PackSettings, pack
from yolodata.settings_cli import ENVIRONMENT, groups
from yolodata.train import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
ALL = list(groups(parsers()))
CLASSES = [getattr(yolodata, name) for name in yolodata.__all__ if name[0].isupper()]
OPTIONS = [one for one in CLASSES if is_dataclass(one)]
VARIABLE = re.compile(r"""(?:environ|getenv)\b.{0,8}["'](YOLODATA_\w+)""")


def test_the_page_is_made_of_the_code() -> None:
    """Run `python docs/settings.py` when this fails."""
    run: Callable[[list[str]], int] = runpy.run_path(str(ROOT / "docs" / "settings.py"))["main"]
    assert run(["--check"]) == 0


def test_every_setting_has_a_meaning_and_an_example() -> None:
    for group in ALL:
        for setting in group.settings:
            assert setting.meaning, (group.title, setting.name)
            assert setting.example.startswith(f"{setting.name}="), setting
            assert setting.example != f"{setting.name}={setting.default}", setting
    titles = " ".join(group.title for group in ALL)
    for name in (*COMMANDS, *(one.__name__ for one in OPTIONS if one.__name__ != "AugmentConfig")):
        assert name in titles


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_options_can_be_parsed(command: str) -> None:
    parser = parser_of(command)
    settings = parser.settings()
    needed = [setting.example for setting in settings if not setting.default]
    for setting in settings:
        name = setting.name.removeprefix("no_")
        values = vars(parser.parse_args([*needed, setting.example]))
        assert values.get(name, values) != parser.get_default(name), setting


@pytest.mark.parametrize("documented", [*OPTIONS, TrainSettings], ids=lambda c: c.__name__)
def test_examples_of_classes_can_be_given(
    documented: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("yolodata._native.cuda_build", lambda: "80")
    Path("callbacks.py").touch()
    with_others = {"cache": {"device": "cuda"}, "output": {"device": "cuda"},
                   "channels_last": {"device": "cuda"}, "rank": {"world_size": 2},
                   "reencode": {"codec": "jpeg"}, "keep_files": {"codec": "jpeg"}}  # fmt: skip
    for setting in settings_of(documented):
        _, ours = split_arguments([f"yolodata.{as_words(setting).example}"])
        if documented is yolodata.LabelOptions and setting.name == "classes":
            ours = {"classes": [0, 2]}
        others = with_others.get(setting.name, {}) if documented is not TrainSettings else {}
        made = documented(**ours, **others)
        assert getattr(made, setting.name) != getattr(documented(**others), setting.name), setting


def test_defaults_of_the_function_and_of_the_command_are_the_same() -> None:
    parser = parser_of("shard")
    taken = {**inspect.signature(pack).parameters, **inspect.signature(PackSettings).parameters}
    same = taken.keys() & {s.name for s in parser.settings()}
    assert len(same) > 10
    for name in same - {"source", "out", "shard_size"}:
        assert taken[name].default == parser.get_default(name), name


def test_every_variable_of_the_environment_is_listed() -> None:
    found = set()
    for pattern in ("setup.py", "yolodata/**/*.py", "tests/conftest.py", "csrc/**/*.cpp"):
        for file in ROOT.glob(pattern):
            found |= set(VARIABLE.findall(file.read_text()))
    listed = {setting.name for setting in ENVIRONMENT}
    assert found == {name for name in listed if name.startswith("YOLODATA_")}


def test_a_class_that_does_not_describe_a_setting_is_noticed() -> None:
    class Lacking:
        """What it is.

        Args:
            there: described (`there=1`).
            bare: without an example.
        """

        def __init__(self, there: int, bare: int = 0) -> None: ...

    with pytest.raises(ValueError, match="Lacking must describe bare"):
        settings_of(Lacking)


def test_inherited_and_several_settings_are_described() -> None:
    class Base:
        """What it is.

        Attributes:
            first, second: two of a kind,
                on two lines (`first=1`, `second="b"`).

        Raises:
            ValueError: never (`first=3`).
        """

    class Derived(Base):
        """More.

        Args:
            third: another (`third=(1, 2)`).
        """

        def __init__(self, first: int, third: Any = None, second: str = "a") -> None: ...

    found = settings_of(Derived)
    assert found == [
        Setting("first", "", "two of a kind, on two lines", "first=1"),
        Setting("third", "None", "another", "third=(1, 2)"),
        Setting("second", "'a'", "two of a kind, on two lines", 'second="b"'),
    ]
    assert as_words(found[2], "x.") == Setting("x.second", "a", found[2].meaning, "x.second=b")
    assert as_words(found[1]).example == "third=(1,2)"


def test_the_command_prints_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "reencode"]) == 0
    assert "reencode=95" in capsys.readouterr().out
    assert main(["settings", "reencode", "markdown=True"]) == 0
    assert "| `reencode` | `none` | " in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for setting in settings_of(TrainSettings):
        assert as_words(setting, "yolodata.").example in shown
    assert main(["settings", "nothing like this"]) == 2
    assert "no setting has 'nothing like this'" in capsys.readouterr().err


def test_importing_the_table_is_quick() -> None:
    """`yolodata train --help` does not wait for torch."""
    code = "import sys, yolodata.settings_cli as s; from yolodata.cli import parsers; "
    code += "list(s.groups(parsers())); print('torch' in sys.modules)"
    done = subprocess.run(
        ["python", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("command", ["settings", "train --help", "launch --help"])
def test_python_without_docstrings_is_told_so(command: str) -> None:
    line = [sys.executable, "-OO", "-m", "yolodata", *command.split()]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "docstrings, which Python leaves out with -OO" in done.stderr
