"""mypy sees mistakes in what subclasses Ultralytics, because stubs/ says what that has."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
STUBS = ROOT / "stubs"

ARGUMENTS = "IterableSimpleNamespace"  # which get its attributes from a file

HEAD = """\
from pathlib import Path
from ultralytics.utils.torch_utils import unwrap_model
from yolodata.train.checkpoint.contents import RunState
from yolodata.train.resumable import ResumableTrainer
from yolodata.train.trainer import DurableTrainer
from yolodata.ultralytics.trainer import ShardTrainer
from yolodata.ultralytics.validator import DetectionValidator
"""
PLANTED = [  # what it is within, a mistake, and what was meant
    ("DurableTrainer", "self.supervisr.nonsense(3)", "self.supervisor.phase('here')"),
    ("DurableTrainer", "self.save_dir = 4", "self.save_dir = Path('run')"),
    ("DurableTrainer", "self.save_modell()", "self.save_model()"),
    ("DurableTrainer", "self.validator.speeed", "assert self.validator; self.validator.batch_i"),
    ("ShardTrainer", "self.nonsense_two(1)", "self.batches_done()"),
    ("ShardTrainer", "self.args.epochss", "self.args.epochs"),
    ("ShardTrainer", "self.train_loader.rest()", "self.train_loader.reset()"),
    ("ShardTrainer", "super().get_dataloader(1)", "super().get_dataloader('images')"),
    ("DetectionValidator", "self.save_folder", "self.save_dir"),
    ("trainer: ResumableTrainer", "trainer.save_dirr = 4", "trainer.save_dir = Path('run')"),
    ("trainer: ResumableTrainer", "trainer.at.stp", "trainer.at.step"),
    (
        "trainer: ResumableTrainer",
        "trainer.own_loader.state_dict()",
        "assert trainer.own_loader; trainer.own_loader.state_dict()",
    ),
    (
        "trainer: ResumableTrainer",
        "unwrap_model(trainer.model).init_criterion(1)",
        "unwrap_model(trainer.model).init_criterion()",
    ),
    ("state: RunState", "state['epoc']", "state['epoch']"),
]


def errors(lines: list[str], folder: Path) -> dict[str, list[str]]:
    """What mypy says, by the line that it says it of."""
    mypy = shutil.which("mypy")
    if mypy is None:
        pytest.skip("mypy is not installed; pip install -e '.[dev]' (.ci/run has it)")
    text = HEAD
    for number, ((within, *_), line) in enumerate(zip(PLANTED, lines, strict=True)):
        if ":" in within:
            text += f"def planted{number}({within}) -> None:\n    {line}\n"
        else:
            method = f"    def planted(self) -> None:\n        {line}\n"
            text += f"class Planted{number}({within}):\n{method}"
    file = folder / "planted.py"
    file.write_text(text)
    done = subprocess.run(
        [mypy, "--python-executable", sys.executable, "--no-error-summary", str(file)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    found: dict[str, list[str]] = {}
    for said in done.stdout.splitlines():
        place = re.match(rf"{re.escape(str(file))}:(\d+): error: ", said)
        if place is not None:
            found.setdefault(text.splitlines()[int(place[1]) - 1].strip(), []).append(said)
        else:
            assert ": note: " in said, said
    return found


def test_mypy_sees_mistakes_below_a_class_of_ultralytics(tmp_path: Path) -> None:
    wrong = [line for _, line, _ in PLANTED]
    found = errors(wrong, tmp_path)
    assert [line for line in wrong if line not in found] == []
    assert errors([line for _, _, line in PLANTED], tmp_path) == {}


def undeclared(text: str, known: set[str]) -> set[str]:
    """Attributes that methods other than `__init__` give `self`, and that no class declares.

    mypy takes a misspelt name there for a new attribute.
    """
    found = set()
    for kind in ast.walk(ast.parse(text)):
        if not isinstance(kind, ast.ClassDef):
            continue
        declared = known | set(_declared(kind))
        for method in kind.body:
            if isinstance(method, ast.FunctionDef):
                given = set(_given(method))
                if method.name == "__init__":
                    declared |= given
                else:
                    found |= given - declared
    return found


def _given(method: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(method):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def _declared(kind: ast.ClassDef) -> Iterator[str]:
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_no_attribute_of_a_trainer_appears_by_a_slip() -> None:
    package = ROOT / "yolodata"
    declares = [
        STUBS / "ultralytics/engine/trainer.pyi",
        STUBS / "ultralytics/engine/validator.pyi",
        package / "train/resumable.py",
        package / "ultralytics/trainer.py",
    ]
    known = {
        name
        for file in declares
        for kind in ast.walk(ast.parse(file.read_text()))
        if isinstance(kind, ast.ClassDef)
        for name in _declared(kind)
    }
    for name in ("train/trainer.py", "ultralytics/trainer.py", "ultralytics/validator.py"):
        text = (package / name).read_text()
        assert undeclared(text, known) == set(), name
    text = (package / "train/trainer.py").read_text()
    place = "    def _validation_batch_ends("
    assert place in text
    slip = text.replace(
        place, f"    def _slip(self) -> None:\n        self.save_dirr = 4\n\n{place}"
    )
    assert undeclared(slip, known) == {"save_dirr"}


def stubs() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(STUBS.rglob("*.pyi")):
        parts = file.relative_to(STUBS).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), ast.parse(file.read_text())


def wrong_in(module: ModuleType, tree: ast.Module) -> list[str]:
    """What a stub declares of a module that has it not, or not so."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found += _wrong_parameters(getattr(module, node.name, None), node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found += [] if hasattr(module, node.target.id) else [node.target.id]
        elif isinstance(node, ast.ClassDef) and "type_check_only" not in ast.dump(node):
            found += _wrong_in_class(getattr(module, node.name, None), node)
    return found


def _wrong_in_class(kind: type | None, declared: ast.ClassDef) -> list[str]:
    if kind is None:
        return [declared.name]
    found = []
    for member in declared.body:
        if isinstance(member, ast.FunctionDef):
            found += _wrong_parameters(getattr(kind, member.name, None), member)
    modules = {base.__module__ for base in kind.mro() if base.__module__.startswith("ultralytics")}
    source = "".join(inspect.getsource(sys.modules[name]) for name in sorted(modules))
    return found + [
        f"{declared.name}.{name}"
        for name in _declared(declared)
        if declared.name != ARGUMENTS
        and not re.search(rf"\b[a-z]+\.{name}\b", source)
        and not hasattr(kind, name)
    ]


def _wrong_parameters(function: Any, declared: ast.FunctionDef) -> list[str]:
    if function is None:
        return [declared.name]
    parameters = inspect.signature(inspect.unwrap(function)).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return []
    wanted = [*declared.args.args, *declared.args.kwonlyargs]
    return [
        f"{declared.name}({one.arg})"
        for one in wanted
        if one.arg not in parameters and one.arg not in ("self", "cls")
    ]


@pytest.mark.parametrize(("name", "tree"), stubs(), ids=[name for name, _ in stubs()])
def test_the_stubs_are_of_what_is_installed(name: str, tree: ast.Module) -> None:
    assert wrong_in(importlib.import_module(name), tree) == []


def test_the_arguments_in_the_stubs_are_ultralytics() -> None:
    from ultralytics.utils import DEFAULT_CFG_DICT

    (kind,) = (
        node
        for node in dict(stubs())["ultralytics.utils"].body
        if isinstance(node, ast.ClassDef) and node.name == ARGUMENTS
    )
    added = {"augmentations", "save_dir"}  # which `get_cfg` takes, too
    assert set(_declared(kind)) - added - DEFAULT_CFG_DICT.keys() == set()


def test_a_stub_of_something_else_is_noticed() -> None:
    from ultralytics.engine import trainer

    text = (STUBS / "ultralytics/engine/trainer.pyi").read_text()
    assert wrong_in(trainer, ast.parse(text)) == []
    for right, wrong, said in (
        ("    world_size:", "    word_size:", "BaseTrainer.word_size"),
        ("def save_model(", "def save_modell(", "save_modell"),
        ("ni: int)", "n: int)", "plot_training_samples(n)"),
    ):
        assert right in text
        assert wrong_in(trainer, ast.parse(text.replace(right, wrong))) == [said]
