"""Texts of errors keep the rule of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = "Albumentations|OpenCV|Pascal|Ultralytics|[A-Z_]{2,}"
_PLACE = r"_?(path|file|folder|root|run|origin|shown|shards|source|data|target|out)"  # of a file
RULES = {
    "ends in a full stop": re.compile(r"\.\Z"),
    "has a sentence behind a full stop": re.compile(r"\. [A-Z]"),
    "begins with a capital": re.compile(rf"(?!(?:{NAMES})\b)[A-Z]"),
    "has a path without a colon behind it": re.compile(rf"'\{{|\{{([^}}]*\.)?{_PLACE}\}} "),
    "must be what, and got what?": re.compile(r"(?s)(?!.*\bgot\b).*\bmust be\b"),
}


def error_names(trees: list[ast.Module]) -> set[str]:
    """Returns the names of YolodataError and of all that are derived from it."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names, before = {"YolodataError"}, 0
    while len(names) > before:
        before = len(names)
        names |= {c.name for c in classes if names & {ast.unparse(base) for base in c.bases}}
    return names


def template(node: ast.expr) -> str:
    """Returns a text as it is written, with {expression} for what is put in; "" for others."""
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def violations(tree: ast.Module, names: set[str]) -> Iterator[tuple[int, str, str]]:
    """Yields the line, the broken rule and the text, of errors that are raised or returned."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            for text in filter(None, map(template, node.args)):
                for rule, found in RULES.items():
                    if found.search(text) if "full stop" in rule else found.match(text):
                        yield node.lineno, rule, text


def test_texts_of_errors_keep_the_rule() -> None:
    files = sorted((ROOT / "yolodata").rglob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    names = error_names(trees)
    assert {"ConfigError", "DatasetError", "ShardError", "NotDetection", "PeerLost"} <= names
    assert not [
        f"{file.relative_to(ROOT)}:{line} {rule}: {text}"
        for file, tree in zip(files, trees, strict=True)
        for line, rule, text in violations(tree, names)
    ]


def undocumented(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Yields public functions with a `raise` of an error that their docstring does not name."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for owner in (tree, *classes):
        for function in owner.body:
            if not isinstance(function, ast.FunctionDef):
                continue
            # A class says what its constructor raises, an interface what its methods do.
            said = ast.get_docstring(owner if function.name == "__init__" else function) or ""
            if function.name.startswith("_") and function.name != "__init__":
                continue
            if not said.startswith("See ") and not names & set(re.findall(r"\w+", said)):
                inner = {
                    id(node)
                    for part in ast.walk(function)
                    if isinstance(part, ast.FunctionDef) and part is not function
                    for node in ast.walk(part)
                }
                raised = (node.exc for node in ast.walk(function)
                          if isinstance(node, ast.Raise) and id(node) not in inner)  # fmt: skip
                if any(isinstance(e, ast.Call) and ast.unparse(e.func) in names for e in raised):
                    yield function.name


def test_what_a_function_raises_is_in_its_docstring() -> None:
    files = sorted((ROOT / "yolodata").rglob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    names = error_names(trees)
    assert not [
        f"{file.relative_to(ROOT)}: {function}"
        for file, tree in zip(files, trees, strict=True)
        for function in undocumented(tree, names)
    ]


def test_a_docstring_that_does_not_name_an_error_is_found() -> None:
    source = """
    class Own(YolodataError): pass
    class One:
        '''Raises:
            Own: always.'''
        def __init__(self): raise Own("x")
        def silent(self): raise Own("x")
        def said(self):
            '''Raises Own.'''
            raise Own("x")
    def maker():
        def inner(): raise Own("x")
    def other(): raise ValueError("x")
    """
    tree = ast.parse(inspect.cleandoc(source))
    assert list(undocumented(tree, error_names([tree]))) == ["silent"]


@pytest.mark.parametrize(("text", "wrong"), [
    ("'{path}: cannot be read; restore it.'", "ends in a full stop"),
    ("'{path}: cannot be read. Restore it'", "has a sentence behind a full stop"),
    ("'No images in {path}; give others'", "begins with a capital"),
    ("'{self.path} cannot be read; restore it'", "has a path without a colon behind it"),
    ("\"'{path}': cannot be read; restore it\"", "has a path without a colon behind it"),
    ("'{name} must be 1 to 8'", "must be what, and got what?"),
    ("'{path}: no JPEG; ' 'JPEG.txt has none. {why}' + '{name} must be 1 to 8, got {n}'", None),
    ("'DALI cannot be imported; install it'", None),
])  # fmt: skip
def test_a_text_that_breaks_the_rule_is_found(text: str, wrong: str | None) -> None:
    source = f"class Own(YolodataError): pass\nclass Mine(Own): pass\nraise Mine(f{text})"
    tree = ast.parse(source)
    found = [rule for _, rule, _ in violations(tree, error_names([tree]))]
    assert found == ([wrong] if wrong else [])
