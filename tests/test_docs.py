"""The documents: what they name exists, can be called, and is up to date."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loading import draw_dataset

import yolodata

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for folder in ("", "docs", "yolodata", "csrc", "benchmarks", "tests", "examples", "deploy")
    for page in (ROOT / folder).glob("*.md" if folder in ("", "docs") else "**/*.md")
)
CODE = {".py", ".c", ".cc", ".cpp", ".cu", ".h", ".sh"}
API = runpy.run_path(str(ROOT / "docs" / "api.py"))
NAMED = ("docs/architecture.md", "docs/life-of-a-batch.md", "docs/glossary.md")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_api_page_is_made_of_the_docstrings() -> None:
    """Run `python docs/api.py` when this fails."""
    main: Callable[[list[str]], int] = API["main"]
    assert main(["--check"]) == 0


def test_public_names_and_their_methods_have_docstrings() -> None:
    for name in yolodata.__all__:
        value = getattr(yolodata, name)
        assert value.__doc__, name
        for member, method in vars(value).items() if isinstance(value, type) else ():
            kinds = (property, classmethod, staticmethod)
            if not member.startswith("_") and (callable(method) or isinstance(method, kinds)):
                assert method.__doc__, f"{name}.{member}"


def lacking(value: Any, docstring: str) -> set[str]:
    """Returns the parameters of a function or a class that its docstring does not describe."""
    try:
        parameters = set(inspect.signature(value).parameters)
    except (TypeError, ValueError):  # native: the signature is the docstring's first line
        return set()
    described = {
        name
        for title, lines in API["_sections"](inspect.cleandoc(docstring).split("\n"))
        for line in lines
        if title in ("Args", "Attributes") and (found := re.match(r"(\w+(, \w+)*): ", line))
        for name in found[1].split(", ")
    }
    return parameters - described - {"self"}


def test_parameters_of_public_names_are_described() -> None:
    """Each of a function, a method and a class, in `Args:` or, of a dataclass, `Attributes:`."""
    found = {}
    for name in yolodata.__all__:
        value = getattr(yolodata, name)
        if not isinstance(value, type) or API["foreign"](value) == [object]:
            found[name] = lacking(value, value.__doc__)
        for member, kind in API["members"](value) if isinstance(value, type) else ():
            if not isinstance(kind, property):
                found[f"{name}.{member}"] = lacking(getattr(value, member), kind.__doc__)
    assert {name: parameters for name, parameters in found.items() if parameters} == {}


def test_a_parameter_that_is_not_described_is_noticed() -> None:
    def function(one: int, two: int, three: int, *, four: int) -> None:
        """Does something.

        Args:
            one, two: numbers.

        Raises:
            three: is no parameter here.
        """

    assert lacking(function, function.__doc__ or "") == {"three", "four"}


def python_names(tree: ast.Module) -> set[str]:
    """Functions and classes of a file, and methods as Class.method."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = set()
    for node in tree.body:
        if isinstance(node, kinds):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, kinds)
            }
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def defined(path: Path, name: str) -> bool:
    """Whether a file defines a function, a method or a class of this name."""
    text = path.read_text()
    if path.suffix == ".py":
        return name in python_names(ast.parse(text))
    function = rf"^[ \w:<>&*,()]*\b{re.escape(name)}\([^;{{}}]*\)[^;{{}}()]*\{{"
    return re.search(rf"{function}|^(struct|class) {name} ", text, re.MULTILINE) is not None


@pytest.mark.parametrize("page", NAMED)
def test_files_and_functions_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    places = re.findall(r"`((?:yolodata|csrc|tests|benchmarks|docs)/[\w/.]+):([\w.:]+)`", text)
    assert places or page == "docs/glossary.md"
    missing = [
        f"{path}:{name}"
        for path, name in places
        if not (ROOT / path).is_file() or not defined(ROOT / path, name)
    ]
    paths = re.findall(r"`((?:yolodata|csrc|tests|benchmarks|docs)/[\w/.-]*)`", text)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_what_does_not_exist_is_noticed(tmp_path: Path) -> None:
    header = tmp_path / "x.h"
    header.write_text(
        "int there(int a,\n    int b) {\n  return called(a);\n}\nint declared(int a);\n"
    )
    assert defined(header, "there")
    assert not defined(header, "called")
    assert not defined(header, "declared")
    assert not defined(ROOT / "yolodata" / "pipeline" / "loader.py", "Loader.nothing_like_this")


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    for link in links:
        assert "://" in link or (page.parent / link).exists(), link


def calls(text: str) -> Iterator[ast.Call]:
    """Calls of `yolodata.NAME(...)` in the Python snippets of a page."""
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("yolodata."):
                yield node


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_snippets_call_what_there_is(page: Path) -> None:
    if relative(page) == "docs/api.md":  # signatures, not calls
        return
    for call in calls(page.read_text()):
        value: Any = yolodata
        for name in ast.unparse(call.func).split(".")[1:]:
            if not hasattr(value, name):
                break  # a package: looked up by whoever imports it
            value = getattr(value, name)
        else:
            keywords = {word.arg: None for word in call.keywords if word.arg}
            inspect.signature(value).bind(*call.args, **keywords)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_runs_are_where_pages_look_for_them(page: Path) -> None:
    """A relative `project=` lies below runs/TASK, so that project=runs is runs/detect/runs."""
    assert not re.findall(r"\bproject=[\w.]\S*", page.read_text())


def test_required_versions_are_those_of_the_package() -> None:
    table = (ROOT / "docs" / "versions.md").read_text()
    required = re.findall(r"`([\w-]+[<>=][^`]*)`", table)
    assert required
    project = (ROOT / "pyproject.toml").read_text()
    assert [one for one in required if f'"{one}"' not in project] == []


def test_each_folder_says_what_is_in_it() -> None:
    readmes = [page for page in PAGES if page.name == "README.md"]
    silent = [relative(page) for page in readmes if "Not here" not in page.read_text()]
    assert silent == ["README.md"]
    folders = {
        file.parent
        for room in ("yolodata", "csrc", "benchmarks", "tests", "examples", "deploy", "docs")
        for file in (ROOT / room).rglob("*")
        if file.suffix in CODE
    }
    assert len(folders) > 50
    assert not [relative(folder) for folder in folders if not (folder / "README.md").exists()]


def test_the_samples_can_be_drawn_again(tmp_path: Path) -> None:
    draw: Callable[[Path, Path], None] = runpy.run_path(str(ROOT / "docs" / "draw_samples.py"))[
        "draw"
    ]
    draw(draw_dataset(tmp_path / "set", {"train": 12}), tmp_path / "samples.jpg")
    for file in (tmp_path / "samples.jpg", ROOT / "docs" / "samples.jpg"):
        assert file.read_bytes().startswith(b"\xff\xd8")
        assert file.stat().st_size < 300_000


def test_the_mosaic_can_be_drawn_again(tmp_path: Path) -> None:
    draw: Callable[[Path], None] = runpy.run_path(str(ROOT / "docs" / "draw_mosaic.py"))["draw"]
    draw(tmp_path / "mosaic.png")
    kept = ROOT / "docs" / "mosaic.png"
    for file in (tmp_path / "mosaic.png", kept):
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size < 300_000
