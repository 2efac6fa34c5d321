"""The rooms and their arrows (docs/architecture.md), read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "yolodata"

# Room -> rooms it may import. Those of EVERYWHERE may be used everywhere.
ARROWS = {
    "arguments": set(),
    "documented": set(),
    "checks": set(),
    "errors": set(),
    "environment": set(),
    "files": set(),
    "folders": {"files"},
    "cgroup": set(),
    "machine": set(),
    "mounts": set(),
    "redaction": set(),
    "telemetry": set(),
    "terminal": set(),
    "topology": {"machine"},
    "version": set(),
    "isolation": set(),
    "_native": set(),
    "images": {"_native"},
    "shards": {"images", "_native"},
    "ingest": {"images", "shards", "_native"},
    "pipeline": {"images", "shards", "_native"},
    "ultralytics": {"shards", "ingest", "pipeline", "provenance", "_native"},
    "dali": {"pipeline", "_native"},
    "overlay": set(),
    "plain_yaml": {"files"},
    "outputs": {"folders"},
    "view": {"shards", "ingest", "pipeline", "overlay", "_native"},
    "parity": {"environment", "images", "shards", "ingest", "pipeline", "_native"},
    "bench": {
        "environment",
        "images",
        "shards",
        "ingest",
        "pipeline",
        "ultralytics",
        "train",
        "_native",
        "cli",
    },
    "doctor": {
        "environment",
        "images",
        "shards",
        "ingest",
        "pipeline",
        "ultralytics",
        "train",
        "_native",
    },
    "cost": set(),
    "diff": {"ingest", "provenance", "shards"},
    "launch": {"train", "ultralytics", "settings"},
    "provenance": {"environment", "shards", "train"},  # train: reads a checkpoint
    "cli": {
        "view",
        "shards",
        "ingest",
        "pipeline",
        "ultralytics",
        "train",
        "parity",
        "bench",
        "doctor",
        "cost",
        "diff",
        "launch",
        "provenance",
    },
    "train": {
        "shards",
        "ingest",
        "pipeline",
        "provenance",
        "ultralytics",
        "_native",
        "cli",
        "settings",
    },
    "settings": {"cli", "dali"},
    "__main__": {"cli"},
}
EVERYWHERE = {
    "",
    "arguments",
    "cgroup",
    "checks",
    "documented",
    "errors",
    "files",
    "folders",
    "isolation",
    "machine",
    "mounts",
    "outputs",
    "plain_yaml",
    "redaction",
    "telemetry",
    "terminal",
    "topology",
    "version",
}


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported when the file is) for every import of a file."""
    tree = ast.parse(file.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        top = id(node) not in inner and id(node) not in typing_only
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            yield node.module or "", top
            if node.module == "yolodata":
                yield from ((f"yolodata.{alias.name}", top) for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module, top in imports(file):
        parts = [*module.split("."), "", ""]
        if parts[0] == "yolodata" and room != "__init__":
            target = parts[1]
            if target in ARROWS:
                assert target in ARROWS[room] | EVERYWHERE | {room}, f"{room} imports {module}"
        if parts[0] == "ultralytics":
            assert room in {"ultralytics", "train", "parity", "bench", "doctor", "launch"}, (
                f"{room} imports {module}"
            )
            assert room not in {"parity", "bench", "launch"} or not top, (
                f"{file} imports {module} at once"
            )
        if module.startswith("nvidia.dali"):
            others = {"pipeline/gpu/jpeg_decoder.py", "bench/peers/dali.py"}
            assert room == "dali" or file.relative_to(PACKAGE).as_posix() in others
            assert not top


def needs(file: Path, modules: set[str]) -> set[str]:
    """Files of the package that a file imports: inside functions, for types alone, by name, too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner != "yolodata._native":
                    found.add(inner if inner in modules else node.module or "")
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            found |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return {name if name in modules else f"{name}.__init__" for name in found} & modules


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {
        ".".join(["yolodata", *file.relative_to(PACKAGE).with_suffix("").parts]): file
        for file in FILES
    }
    graph = {name: needs(file, set(names)) for name, file in names.items()}
    assert sum(map(len, graph.values())) > len(graph)  # it sees some
    circle = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert not circle
    graph["yolodata.errors"] = {"yolodata.cli"}  # negative control
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


def test_every_room_is_known() -> None:
    rooms = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES}
    assert rooms - {"__init__"} <= set(ARROWS)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, yolodata, yolodata.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "ultralytics", "nvidia.dali", "cv2", "numpy", "matplotlib"}
    assert not heavy & set(done.stdout.split())


def test_a_name_that_is_not_public_is_refused() -> None:
    import yolodata

    with pytest.raises(AttributeError, match="nothing_like_this"):
        yolodata.nothing_like_this


def test_the_stub_names_what_the_native_module_has() -> None:
    """Regenerate it as CONTRIBUTING.md says when this fails."""
    from yolodata import _native

    stub = ast.parse((PACKAGE / "_native.pyi").read_text())
    told = {
        node.name: {
            item.target.id if isinstance(item, ast.AnnAssign) else item.name
            for item in node.body
            if hasattr(item, "name") or isinstance(item, ast.AnnAssign)
        }
        for node in stub.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }
    told |= {n.target.id: set() for n in stub.body if isinstance(n, ast.AnnAssign)}
    there = {
        name: {item for item in vars(value) if not item.startswith("_")}
        if isinstance(value, type)
        else set()
        for name, value in vars(_native).items()
        if not name.startswith("_")
    }
    assert set(told) == set(there)
    for name, members in there.items():
        assert members == {item for item in told[name] if not item.startswith("_")}, name


def test_files_name_no_place_of_a_machine() -> None:
    root = PACKAGE.parent
    places = [re.escape(str(place)) for place in (root, Path.home()) if place != place.parent]
    names_a_place = re.compile(rf"({'|'.join(places)})/\w")
    sources = [*FILES, *(root / "csrc").rglob("*.*"), *(root / "benchmarks").rglob("*.py")]
    for file in [*sources, *(root / "tests").glob("*.py"), *root.glob("*.md")]:
        if file.name != Path(__file__).name:
            assert not names_a_place.search(file.read_text()), file
