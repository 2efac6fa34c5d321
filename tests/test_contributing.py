"""What CONTRIBUTING.md says of adding an augmentation, compared with those that are there."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()

# Where a new augmentation could have to be known. Not: what measures (bench, doctor), what compares
# with upstream (parity, but for its kinds, which the table names), and tests of one thing.
SEARCHED = [
    *(file for file in (ROOT / "csrc").rglob("*.*") if file.suffix in {".h", ".cpp", ".cu", ".cc"}),
    *(ROOT / "yolodata").rglob("*.py"),
    ROOT / "tests" / "reference.py",
    ROOT / "tests" / "pictures.py",
]
LEFT_OUT = {"bench", "doctor", "parity"}


def code(file: Path) -> str:
    """A file without its comments and docstrings."""
    text = file.read_text()
    if file.suffix != ".py":
        return re.sub(r"//.*", "", text)
    documented = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(
        token.string
        for token in tokens
        if token.type != tokenize.COMMENT and token.start[0] not in documented
    )


def mentions(file: Path, name: str) -> bool:
    """Whether code has a name (`cutmix`, `cutmix_area`), also as a part of another (`kCutmix`)."""
    word = re.compile(rf"\b{name}(_\w+)?\b|{name.capitalize()}(?![a-z])")
    return bool(word.search(file.read_text()) and word.search(code(file)))


def table() -> dict[str, list[str]]:
    """Files by the augmentation that a row of the table names; "" is the row for all."""
    section = PAGE.split("## To add an augmentation")[1].split("\n## ")[0]
    rows = {}
    for what, files in re.findall(r"^\| (.*?) \| (.*) \|$", section, re.MULTILINE)[2:]:
        named = re.search(r"`(\w+)`", what)
        rows[named[1] if named else ""] = re.findall(r"`([\w./]+/[\w./]+)`", files)
    return rows


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("cutmix_area", True),
        ("draws(kCutmixAreas)", True),
        ("// kCutmix", False),
        ("cutmixed", False),
    ],
)
def test_what_mentions_a_name(tmp_path: Path, text: str, seen: bool) -> None:
    (tmp_path / "file.cpp").write_text(text)
    assert mentions(tmp_path / "file.cpp", "cutmix") == seen


def paragraph() -> set[str]:
    """Files that the paragraph on Albumentations' transforms names; a bare name is a filter's."""
    section = PAGE.split("A transform of Albumentations that a device is to apply itself:")[1]
    names = re.findall(r"`([\w./]+\.\w+)`", section.split("\n\n")[0])
    return {name if "/" in name else f"csrc/filters/{name}" for name in names}


def test_the_table_has_its_rows() -> None:
    rows = table()
    assert set(rows) == {"", "shear", "bgr", "cutmix"}
    assert len(rows[""]) >= 4
    for file in {file for files in rows.values() for file in files}:
        assert (ROOT / file).is_file(), f"CONTRIBUTING.md names {file}, which is not there"


@pytest.mark.parametrize("name", ["shear", "bgr", "cutmix"])
def test_an_augmentation_is_in_the_files_that_the_table_names(name: str) -> None:
    rows = table()
    named = {*rows[""], *rows[name]}
    searched = {
        file
        for file in SEARCHED
        if file.relative_to(ROOT).parts[1] not in LEFT_OUT
        or file.relative_to(ROOT).parts[0] != "yolodata"
    }
    found = {
        str(file.relative_to(ROOT))
        for file in {*searched, *(ROOT / name for name in named)}
        if mentions(file, name)
    }
    assert found == named


@pytest.mark.parametrize("name", ["blur", "median"])
def test_a_filter_is_in_the_files_that_the_paragraph_names(name: str) -> None:
    word = re.compile(rf"\bk{name.capitalize()}\b|\bFilter \. {name}\b")  # tokens of Python
    searched = {*SEARCHED, *(ROOT / "benchmarks").rglob("*.py"), ROOT / "tests" / "test_filters.py"}
    found = {
        str(file.relative_to(ROOT))
        for file in {*searched, *(ROOT / name for name in paragraph())}
        if name in file.read_text().lower() and word.search(code(file))
    }
    assert len(found) >= 6
    assert found == paragraph()
