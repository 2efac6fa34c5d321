"""A small share of `benchmarks/attack.py`, with fixed seeds: nothing is found that should not be.

The attacks themselves are tried, too: the judge has to see every kind of end, and once a week each
attack has to find a fault that is planted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.early

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KINDS = (
    "kills", "flips", "resealed", "pictures", "labels", "documents", "manifests", "runs", "links",
    "disk_faults", "allocations",
)  # fmt: skip
CASES = 2  # of each kind; a case has 5 to 40 trials


def attack(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "attack.py"), *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results: cases of all kinds."""
    folder = tmp_path_factory.mktemp("attack")
    return attacked(folder, "--cases", str(CASES), "--findings", str(folder / "findings"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results: of each kind one planted fault."""
    return attacked(tmp_path_factory.mktemp("planted"), "--control", "--plants", "1")


def attacked(folder: Path, *words: str) -> Path:
    done = attack("--seed", "1", "--json", str(folder / "attack.json"), *words)
    assert (folder / "attack.json").exists(), done.stdout + done.stderr
    return folder / "attack.json"


def row_of(file: Path, kind: str) -> dict[str, Any]:
    document = json.loads(file.read_text(encoding="utf-8"))
    assert set(document["kinds"]) == set(KINDS)
    found: dict[str, Any] = document["kinds"][kind]
    if found["not_run"]:
        pytest.skip(found["not_run"])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_found(file: Path, kind: str) -> None:
    """`python benchmarks/attack.py --kinds KIND --case SEED` makes a case again."""
    row = row_of(file, kind)
    assert row["findings"] == []
    assert not any(row["wrong"].values())
    assert row["cases"] == CASES
    assert row["tried"] > CASES


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_found(planted: Path, kind: str) -> None:
    row = row_of(planted, kind)
    assert len(row["controls"]) == 1
    assert all(row["controls"].values())


def test_results_of_several_calls_add_up(file: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.json"
    shutil.copy(file, both)
    done = attack("--kinds", "labels", "--cases", "1", "--seed", "2", "--json", str(both))
    before, after = (json.loads(each.read_text(encoding="utf-8")) for each in (file, both))
    assert [call["seed"] for call in after["calls"]] == ["1", "2"]
    assert {"date", "machine", "versions"} <= set(after["calls"][1])
    one, two = (document["kinds"]["labels"] for document in (before, after))
    assert (two["cases"], two["tried"]) == (one["cases"] + 1, one["tried"] + 40)
    assert two["controls"] == one["controls"]
    assert "labels" in done.stdout


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
    for case in ("good", "explained", "slowed"):
        assert judged[case]["wrong"] == {}
    assert judged["good"]["tried"] == 7
    assert judged["good"]["peak"] > 10 << 20
    assert not (judged["folder"] / "good-0").exists()
