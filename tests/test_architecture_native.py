"""The rooms of csrc/ and their arrows (docs/architecture.md), read off the source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
FILES = sorted(file for file in CSRC.rglob("*.*") if file.suffix in {".h", ".cpp", ".cu", ".cc"})

# Room -> rooms whose headers it may include.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "plan": {"core"},
    "render": {"core", "plan"},
    "filters": {"core", "render"},
    "engine": {"plan", "render"},
    "jpeg": {"core"},
    "ingest": {"jpeg"},
    "dali": {"plan", "render"},
    "bind": {"core", "plan", "render", "filters", "engine", "ingest", "jpeg"},
}


def room(file: Path) -> str:
    return file.relative_to(CSRC).parts[0]


def includes(file: Path) -> list[Path]:
    """Our own headers that a file includes, by the name in full."""
    names = re.findall(r'^\s*#\s*include\s+"([^"]+)"', file.read_text(), re.MULTILINE)
    ours = [name for name in names if not name.startswith("dali/")]  # DALI's own
    for name in ours:
        assert (CSRC / name).is_file(), f"{file} includes {name}, which is not in csrc/"
    return [CSRC / name for name in ours]


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Names that lead from one back to itself; empty where there are none."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in graph.get(name, ()):
            if found := follow(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := follow(name, []))), [])


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CSRC)))
def test_includes_follow_the_arrows(file: Path) -> None:
    for header in includes(file):
        allowed = ARROWS[room(file)] | {room(file)}
        assert room(header) in allowed, f"{room(file)} includes {header.relative_to(CSRC)}"


def test_every_arrow_is_used() -> None:
    """Also: every room is known, and none lies about what it needs."""
    used: dict[str, set[str]] = {room(file): set() for file in FILES}
    for file in FILES:
        used[room(file)] |= {room(header) for header in includes(file)} - {room(file)}
    assert used == ARROWS


def test_there_is_no_circle() -> None:
    """Neither between headers, nor between units: a header together with its source."""
    headers = {str(file): [str(header) for header in includes(file)] for file in FILES}
    assert not circle(headers)
    units: dict[str, set[str]] = {}
    for file in FILES:
        unit = str(file.with_suffix(""))
        others = {str(header.with_suffix("")) for header in includes(file)}
        units.setdefault(unit, set()).update(others - {unit})
    assert not circle(units)


def test_a_circle_would_be_found() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert not circle({"a": ["b", "c"], "b": ["c"], "c": []})


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CSRC)))
def test_the_outside_is_known_where_it_belongs(file: Path) -> None:
    """nanobind in bind, CUDA's run time in .cu files, DALI in dali."""
    outside = set(re.findall(r'#\s*include\s+["<]([\w]+)[/.]', file.read_text()))
    if room(file) != "bind":
        assert "nanobind" not in outside
    if file.suffix != ".cu" and file != CSRC / "core" / "cuda_check.h":
        assert "cuda_runtime" not in outside
        assert CSRC / "core" / "cuda_check.h" not in includes(file)
    if room(file) != "dali":
        assert "dali" not in outside
