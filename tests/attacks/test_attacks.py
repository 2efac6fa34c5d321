"""A small share of `benchmarks/attack.py`, with fixed seeds: nothing is found that should not be.

The attacks themselves are tried, too: each has to find a fault that is planted, and the judge has
to see every kind of end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Cases of each kind, so that all together take some seconds.
CASES = {
    "kills": 2, "flips": 2, "resealed": 3, "pictures": 3, "labels": 5, "documents": 6,
    "manifests": 4, "links": 5, "disk_faults": 4, "allocations": 4,
}  # fmt: skip


def attack(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "attack.py"), *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_all_kinds_are_tried() -> None:
    spec = importlib.util.spec_from_file_location(
        "benchmarks_attacks", ROOT / "benchmarks" / "attacks" / "__init__.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert tuple(CASES) == module.KINDS


@pytest.mark.parametrize("kind", CASES)
def test_nothing_is_found(kind: str, tmp_path: Path) -> None:
    """What failed is in the folder of findings; the same seed makes it again."""
    json_file = tmp_path / "attack.json"
    words = ["--kinds", kind, "--seed", "1", "--json", str(json_file)]
    done = attack(*words, "--cases", str(CASES[kind]), "--findings", str(tmp_path / "findings"))
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(json_file.read_text())["kinds"][kind]
    if row["not_run"]:
        pytest.skip(row["not_run"])
    assert not any(row["wrong"].values())
    assert row["tried"] > 0
    assert row["cases"] == CASES[kind]


@pytest.mark.parametrize("kind", CASES)
def test_a_planted_fault_is_found(kind: str, tmp_path: Path) -> None:
    json_file = tmp_path / "attack.json"
    done = attack("--control", "--plants", "1", "--kinds", kind, "--seed", "1",
                  "--json", str(json_file))  # fmt: skip
    row = json.loads(json_file.read_text())["kinds"][kind]
    if row["not_run"]:
        pytest.skip(row["not_run"])
    assert len(row["controls"]) == 1
    assert all(row["controls"].values()), done.stdout + done.stderr


def test_results_of_several_calls_add_up(tmp_path: Path) -> None:
    json_file = tmp_path / "attack.json"
    for seed in ("1", "2"):
        done = attack("--kinds", "labels", "--cases", "1", "--seed", seed, "--json", str(json_file))
        assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(json_file.read_text())
    assert [call["seed"] for call in document["calls"]] == ["1", "2"]
    assert {"date", "machine", "versions"} <= set(document["calls"][0])
    row = document["kinds"]["labels"]
    assert (row["cases"], row["tried"]) == (2, 80)
    assert row["peak_mib"] > 10


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the judge says of each of judge_child.py's cases, and the folder of findings."""
    folder = tmp_path_factory.mktemp("judged")
    done = subprocess.run(
        [sys.executable, str(HERE / "judge_child.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {"folder": folder, **json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("case", "wrong", "said"),
    [
        ("crash", "signal", "trial 2, the second: ended by SIGSEGV"),
        ("hang", "hang", "trial 1, it waits: hung"),
        ("spin", "hang", "trial 0"),
        ("memory", "memory", "GiB: much"),
        ("endless", "memory", "all of it"),
        ("status", "traceback", "exit status 3"),
        ("traceback", "traceback", "Traceback"),
        ("lines", "traceback", "1001 characters"),
        ("control", "traceback", r"'\x1b'"),
        ("lacking", "memory", "does not suffice"),
        ("inner crash", "signal", "SIGABRT"),
        ("outside", "outside", "victim changed"),
    ],
)
def test_the_judge_sees(judged: dict[str, Any], case: str, wrong: str, said: str) -> None:
    assert list(judged[case]["wrong"]) == [wrong]
    assert said in judged[case]["wrong"][wrong]
    assert said in (judged["folder"] / f"{case}-0" / "FOUND.txt").read_text()


def test_the_judge_sees_nothing_where_nothing_is(judged: dict[str, Any]) -> None:
    assert judged["good"]["wrong"] == judged["explained"]["wrong"] == {}
    assert judged["good"]["tried"] == 7
    assert judged["good"]["peak"] > 10 << 20
    assert not (judged["folder"] / "good-0").exists()
