"""Which files import which, read off their source: by statements, and by strings.

A module that is named in a string is imported later: by `import_module`, a table of commands, a new
process. So every string that is the dotted name of a module of ours counts as an import of it,
wherever it stands, with or without `:attribute` or `.attribute` behind it; docstrings do not. Of a
package that is its `__init__.py`, as in `python -m yolodata.train`: what its `__main__.py` imports,
a process of its own does. A call that imports what it puts together, as
`import_module(f"{__name__}.{name}")`, reaches all modules whose short names are strings of its
file, and with `iter_modules` all of the package.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TREES = ("yolodata", "tests", "benchmarks", "docs", "deploy", "examples")

# Functions that import what a string names.
_IMPORTERS = {"import_module", "__import__", "resolve_name", "run_module"}
_NAME = re.compile(r"\.*\w+(\.\w+)*(:[\w.]+)?")


class Import(NamedTuple):
    """A module that a file imports, and whether it does so at once: when it is itself imported."""

    module: str
    at_once: bool


def imports(source: str, name: str, modules: Collection[str]) -> Iterator[Import]:
    """Yields what a file imports, of ours or not.

    Args:
        source: of the file.
        name: of its module; that of a package ends with ".__init__".
        modules: all names of ours, likewise.
    """
    own, parent = name.removesuffix(".__init__"), name.rpartition(".")[0]
    packages = {one.removesuffix(".__init__") for one in modules if one.endswith(".__init__")}
    ours = packages | set(modules)
    nodes = list(_walked(ast.parse(source), True))
    importers, texts = _importers(nodes), _texts(nodes)
    for node, at_once in nodes:
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = _absolute("." * node.level + (node.module or ""), parent)
            inner = [f"{module}.{alias.name}" for alias in node.names]
            found = [one if one in ours else module for one in inner]
        elif isinstance(node, ast.Call) and _last_name(node.func) in importers:
            bases = {own, parent}
            found = [one for given in _given(node) for one in _called(given, bases, texts, ours)]
        elif isinstance(node, ast.Call) and _last_name(node.func) == "iter_modules":
            found = _inside(own, ours)
        elif isinstance(node, ast.JoinedStr):  # f"yolodata.bench.peers.{name}:open"
            start, dot, _ = _start(node).rpartition(".")
            found = _inside(start, ours) if dot and "." in start else []
        elif isinstance(node, ast.Constant) and node in texts and "." in node.value.strip("."):
            module = _longest(node.value.partition(":")[0], ours)
            found = [module] if "." in module or ":" in node.value else []  # not of "yolodata.png"
        yield from (Import(one, at_once) for one in found if one)


_Nodes = list[tuple[ast.AST, bool]]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _walked(node: ast.AST, at_once: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Nodes, and whether they are run when the file is: not in functions, not for types alone."""
    yield node, at_once
    typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    at_once = at_once and not (typing_only or isinstance(node, _FUNCTIONS))
    for inner in ast.iter_child_nodes(node):
        yield from _walked(inner, at_once)


def _importers(nodes: _Nodes) -> set[str]:
    """What functions that import are called here: by their own names, or by others."""
    found = set(_IMPORTERS)
    for node, _ in nodes:
        if isinstance(node, ast.ImportFrom):
            found |= {one.asname for one in node.names if one.asname and one.name in _IMPORTERS}
        elif isinstance(node, ast.Assign) and _last_name(node.value) in _IMPORTERS:
            found |= {_last_name(target) for target in node.targets}
    return found


def _texts(nodes: _Nodes) -> set[ast.Constant]:
    """Strings that may be names of modules; docstrings are none."""
    docstrings = {node.value for node, _ in nodes if isinstance(node, ast.Expr)}
    return {
        node
        for node, _ in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node not in docstrings and _NAME.fullmatch(node.value)
    }


def _given(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _last_name(node: ast.AST) -> str:
    return getattr(node, "attr", "") or getattr(node, "id", "")


def _start(text: ast.JoinedStr) -> str:
    first = text.values[0] if text.values else None
    return str(first.value) if isinstance(first, ast.Constant) else ""


def _absolute(module: str, package: str) -> str:
    """The full name of a module, which may begin with dots."""
    bare = module.lstrip(".")
    if bare == module:
        return module
    for _ in range(len(module) - len(bare) - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{bare}".strip(".")


def _called(
    given: ast.expr, bases: set[str], texts: set[ast.Constant], ours: set[str]
) -> Iterator[str]:
    """What a call imports by one of its arguments.

    Args:
        given: the argument.
        bases: packages that relative names may be of: the file's own.
        texts: names in the file.
        ours: all modules of ours.
    """
    if isinstance(given, ast.Constant):
        if isinstance(given.value, str):
            yield from {_absolute(given.value.partition(":")[0], base) for base in bases}
        return
    starts = {""}
    for node in ast.walk(given):
        if _last_name(node) in ("__name__", "__package__"):
            starts |= bases
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            start, colon, _ = re.split("[{%]", node.value)[0].partition(":")
            if colon:  # f"yolodata:{name}"
                yield start
            else:
                starts.add(start.rstrip("."))
    for text in texts:
        name = text.value.partition(":")[0]
        short = name.lstrip(".")
        for start in bases if name != short else starts:
            if (one := f"{start}.{short}".strip(".")) in ours:
                yield one


def _inside(package: str, ours: set[str]) -> list[str]:
    return [one for one in ours if one.rpartition(".")[0] == package]


def _longest(name: str, ours: set[str]) -> str:
    """The module of ours that a name begins with; "" where there is none."""
    while name and name not in ours:
        name = name.rpartition(".")[0]
    return name


def sources() -> dict[str, str]:
    """Returns the source of all Python files, by their paths in the repository."""
    files = (file for tree in TREES for file in sorted((ROOT / tree).rglob("*.py*")))
    return {
        file.relative_to(ROOT).as_posix(): file.read_text()
        for file in files
        if file.suffix in (".py", ".pyi")  # the latter of the native module
    }


def graph_of(
    sources: Mapping[str, str], paths: Collection[str] | None = None
) -> dict[str, set[str]]:
    """Returns the files that each file imports, but for itself.

    Args:
        sources: of all files, by their paths in the repository.
        paths: of the files that are read; None: of all.
    """
    roots = {path: _root(path, sources) for path in sources}
    known = {root: _names(root, roots) for root in set(roots.values())}
    graph = {}
    for path in sources if paths is None else paths:
        files = known[roots[path]]
        found = {
            files.get(one.module) or files.get(f"{one.module}.__init__")
            for one in imports(sources[path], _dotted(path, roots[path]), files)
        }
        graph[path] = {of for of in found if of and of != path}
    return graph


def _root(path: str, sources: Collection[str]) -> str:
    """The folder that Python finds a file from: the first one around it that is no package."""
    folder = path.rpartition("/")[0]
    while f"{folder}/__init__.py" in sources:
        folder = folder.rpartition("/")[0]
    return folder


def _dotted(path: str, root: str) -> str:
    return path.removeprefix(f"{root}/").partition(".")[0].replace("/", ".")


def _names(root: str, roots: Mapping[str, str]) -> dict[str, str]:
    """The files by the names that those of a folder import them by.

    The package imports itself alone; scripts find those beside them first.

    Args:
        root: the folder.
        roots: of all files.
    """
    found: dict[str, str] = {}
    for one in sorted({*roots.values()} if root else {""}, key=lambda each: (each == root, each)):
        found |= {_dotted(path, one): path for path, of in roots.items() if of == one}
    return found
