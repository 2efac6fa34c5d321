"""The rooms and their arrows (docs/architecture.md), read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from import_graph import TREES, Import, graph_of, imports, sources

PACKAGE = Path(__file__).resolve().parents[1] / "yolodata"
FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sources()
GRAPH = graph_of(SOURCES)

# Rooms that every other one may use; these use each other by their arrows alone.
EVERYWHERE = {
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

# Room -> rooms that it imports: lazily, for types alone and by string, too. `__init__` is the file
# of `yolodata` itself; a file that imports by string reaches it by that word, whatever else the
# word may mean there (bench, command).
ARROWS: dict[str, set[str]] = {
    "_native": set(),
    "errors": set(),
    "files": set(),
    "isolation": set(),
    "mounts": set(),
    "overlay": set(),
    "terminal": set(),
    "version": set(),
    "cgroup": {"mounts"},
    "checks": {"errors"},
    "documented": {"errors"},
    "folders": {"files"},
    "redaction": {"errors", "terminal"},
    "machine": {"cgroup", "errors", "terminal"},
    "topology": {"machine"},
    "plain_yaml": {"errors", "files"},
    "outputs": {"errors", "files", "folders"},
    "telemetry": {"errors", "files", "folders", "version"},
    "arguments": {"checks", "documented", "errors"},
    "environment": set(),
    "images": {"_native"},
    "shards": {"_native", "images"},
    "ingest": {"_native", "images", "shards"},
    "pipeline": {"_native", "images", "shards"},
    "dali": {"_native", "pipeline"},
    "view": {"_native", "ingest", "overlay", "pipeline", "shards"},
    "provenance": {"environment", "shards"},
    "ultralytics": {"ingest", "pipeline", "provenance", "shards"},
    "__init__": {"_native", "ingest", "pipeline", "shards", "ultralytics"},
    "command": {"__init__", "shards"},
    "train": {"command", "pipeline", "provenance", "shards", "ultralytics"},
    "info": {"provenance", "shards", "train"},
    "diff": {"info", "ingest", "provenance", "shards"},
    "parity": {"__init__", "_native", "environment", "images", "ingest", "pipeline", "shards"},
    "bench": {
        "__init__",
        "_native",
        "command",
        "environment",
        "images",
        "ingest",
        "pipeline",
        "shards",
        "ultralytics",
    },
    "doctor": {
        "__init__",
        "environment",
        "images",
        "ingest",
        "pipeline",
        "shards",
        "train",
        "ultralytics",
    },
    "launch": {"__init__", "train", "ultralytics"},
    "cost": set(),
    "settings_cli": {"__init__", "dali"},
    "cli": {
        "__init__",
        "bench",
        "command",
        "cost",
        "diff",
        "doctor",
        "info",
        "ingest",
        "launch",
        "parity",
        "settings_cli",
        "shards",
        "train",
        "ultralytics",
        "view",
    },
    "__main__": {"cli"},
}


def room_of(path: str) -> str:
    """The room of a file of the package, by its path in the repository."""
    return path.split("/")[1].partition(".")[0]


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """One that there is in a graph; none: []."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def rooms() -> dict[str, dict[str, str]]:
    """Which other rooms each room imports, and where it does."""
    found: dict[str, dict[str, str]] = {}
    for path, needed in GRAPH.items():
        if path.startswith("yolodata/"):
            others = {room_of(of): f"{path} imports {of}" for of in needed}
            others.pop(room_of(path), None)
            found.setdefault(room_of(path), {}).update(others)
    return found


def test_imports_follow_the_arrows() -> None:
    there = rooms()
    assert set(there) == set(ARROWS)
    allowed = {room: to if room in EVERYWHERE else to | EVERYWHERE for room, to in ARROWS.items()}
    assert not [how[of] for room, how in there.items() for of in set(how) - allowed[room]]
    assert not circle(allowed)
    assert circle(allowed | {"pipeline": {"train"}})  # negative control


def test_every_arrow_is_used() -> None:
    there = rooms()
    assert not [(room, of) for room, to in ARROWS.items() for of in to - set(there[room])]


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circle(GRAPH)
    assert {path.partition("/")[0] for path in GRAPH} == set(TREES)
    for path, needed in {  # it sees some
        "yolodata/cli.py": "yolodata/train/train_cli.py",
        "yolodata/__init__.py": "yolodata/pipeline/classes.py",
        "yolodata/bench/registry.py": "yolodata/bench/peers/dali.py",
        "yolodata/doctor/sections.py": "yolodata/doctor/machine/__init__.py",
        "yolodata/launch/systems.py": "yolodata/launch/slurm.py",
        "benchmarks/attacks/__init__.py": "benchmarks/attacks/kills.py",
        "benchmarks/doctor_faults/__init__.py": "benchmarks/doctor_faults/shm.py",
        "tests/test_doctor_benchmark.py": "benchmarks/doctor.py",
    }.items():
        assert needed in GRAPH[path], path


def test_no_folders_of_a_room_import_each_other_in_a_circle() -> None:
    """Files of the room itself may use all of them, and be used by them."""
    graph: dict[str, set[str]] = {}
    for path, needed in GRAPH.items():
        for of in needed:
            inner, other = ("/".join(one.split("/")[:-1]) for one in (path, of))
            if inner != other and inner.count("/") > 1 and other.count("/") > 1:
                graph.setdefault(inner, set()).add(other)
    assert "yolodata/train/distributed" in graph["yolodata/train/watchdog"]
    assert not circle(graph)


OURS = (
    "yolodata.__init__",
    "yolodata.a.__init__",
    "yolodata.a.b",
    "yolodata.c.__init__",
    "yolodata.c.d",
    "yolodata.e",
)
# A form of import -> source of `yolodata.a.b` that imports `yolodata.c.d` so.
FORMS = {
    "import": "import yolodata.c.d",
    "by another name": "import yolodata.c.d as other",
    "from": "from yolodata.c import d",
    "from, by another name": "from yolodata.c import d as other",
    "from, a name": "from yolodata.c.d import thing as other",
    "from, all names": "from yolodata.c.d import *",
    "relative": "from ..c import d",
    "relative, a name": "from ..c.d import thing",
    "in a function": "def f():\n    from yolodata.c import d",
    "in a method": "class C:\n    async def f(self):\n        import yolodata.c.d",
    "for types alone": "if TYPE_CHECKING:\n    from yolodata.c.d import Thing",
    "import_module": "importlib.import_module('yolodata.c.d')",
    "import_module, by another name": "from importlib import import_module as load\n"
    "load('..c.d', __package__)",
    "import_module, assigned": "load = importlib.import_module\nload(name='..c.d', package=here)",
    "import_module, put together": "import_module('yolodata.' + name)\nNAMES = ['c.d']",
    "import_module, formatted": "import_module('yolodata.c.%s' % name)\nNAMES = {'x': 'd'}",
    "import_module, of a table": "import_module(f'yolodata.c.{TABLE[n]}')\nTABLE = {'x': 'd'}",
    "__import__": "__import__('yolodata.c.d')",
    "resolve_name": "resolve_name('yolodata.c.d:thing')",
    "resolve_name, with dots": "resolve_name('yolodata.c.d.thing')",
    "resolve_name, formatted": "resolve_name(f'yolodata.c.d:{name}')",
    "a table": "TABLE = {'x': ('yolodata.c.d', 'help')}",
    "a table, of names in them": "TABLE = ('yolodata.c.d:thing', 3)",
    "a table, put together": "TABLE = [f'yolodata.c.{name}:thing' for name in names]",
    "an argument": "f(where='yolodata.c.d')",
    "a process": "run([sys.executable, '-m', 'yolodata.c.d'])",
    "a patch": "monkeypatch.setattr('yolodata.c.d.thing', 1)",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_import_is_seen(form: str) -> None:
    found = {one.module for one in imports(FORMS[form], "yolodata.a.b", OURS)}
    assert "yolodata.c.d" in found
    assert "yolodata.e" not in found


@pytest.mark.parametrize(
    "source",
    [
        "import_module(f'{__name__}.{TABLE[name]}')\nTABLE = {'x': 'd'}",
        "import_module('.d', __name__)",
        "for one in iter_modules(__path__):\n    import_module(f'{__name__}.{one.name}')",
    ],
)
def test_short_names_are_of_the_package(source: str) -> None:
    found = {one.module for one in imports(source, "yolodata.c.__init__", OURS)}
    assert "yolodata.c.d" in found
    assert "yolodata.e" not in found


@pytest.mark.parametrize(
    "source",
    [
        "'yolodata.c.d'\nX = 1\n'yolodata.c.d'",
        "def f():\n    'yolodata.c.d'",
        "print('see yolodata.c.d')",
        "tags = {'yolodata.version': 1, 'yolodata': 2}",
        "import_module(name)\nX = 'd'",
    ],
)
def test_what_imports_nothing_is_seen_as_nothing(source: str) -> None:
    assert list(imports(source, "yolodata.a.b", OURS)) == []


def test_imports_at_once_are_told_from_later_ones() -> None:
    source = (
        "import a\nclass C:\n    import b\ndef f():\n    import c\nif TYPE_CHECKING:\n    import d"
    )
    assert set(imports(source, "yolodata.a.b", OURS)) == {
        Import("a", True),
        Import("b", True),
        Import("c", False),
        Import("d", False),
    }


@pytest.mark.parametrize(
    "line",
    [
        "COMMANDS = {'train': ('yolodata.cli', 'help')}",
        "KINDS = ('yolodata.cli:main',)",
        "def f():\n    return resolve_name(f'yolodata.cli:{name}')",
        "def f():\n    return import_module(f'yolodata.{KINDS[0]}')\nKINDS = ('cli',)",
    ],
)
def test_a_circle_through_strings_is_found(line: str) -> None:
    path = "yolodata/errors.py"
    planted = GRAPH | graph_of(SOURCES | {path: f"{SOURCES[path]}\n{line}\n"}, [path])
    assert "yolodata/cli.py" in planted[path]
    assert path in circle(planted)


def test_where_others_are_imported() -> None:
    """Ultralytics, whose licence is AGPL-3.0, and DALI, which not everybody has."""
    for file in FILES:
        path = file.relative_to(PACKAGE).as_posix()
        room = room_of(f"yolodata/{path}")
        source = SOURCES[f"yolodata/{path}"]
        assert not re.search(r"^ *from \.", source, re.MULTILINE), f"{path}: write names in full"
        for module, at_once in imports(source, f"yolodata.{path[:-3]}", ()):
            said = f"{path} imports {module}"
            if module.partition(".")[0] == "ultralytics":
                assert room in {"ultralytics", "train", "parity", "bench", "doctor", "launch"}, said
                assert room not in {"parity", "bench", "launch"} or not at_once, said
            if module.startswith("nvidia.dali"):
                others = ("pipeline/gpu/jpeg_decoder.py", "bench/peers/dali.py")
                assert room == "dali" or path in others, said
                assert not at_once, said


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
