"""`yolodata launch slurm`: its script, run by Slurm on two nodes, as `benchmarks/slurm.py` does."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from loading import draw_dataset

pytestmark = pytest.mark.early

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def batch_notes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("batch_notes")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("slurm_cluster")
    if found.missing():
        pytest.skip(f"no Slurm cluster here: {found.missing()}")
    return found


def test_a_signalled_job_comes_back_to_the_bit(cluster: ModuleType, tmp_path: Path) -> None:
    """Two ranks on two nodes whose own names mean 127.0.1.1 to them."""
    data = os.environ.get("YOLODATA_TEST_DATA")
    yaml = Path(data) / "coco-mini" / "data.yaml" if data else None
    if yaml is None or not yaml.exists():
        yaml = draw_dataset(tmp_path / "set", {"train": 64, "val": 6})
    out, keep = tmp_path / "slurm.json", tmp_path / "kept"
    command = [sys.executable, BENCHMARKS / "slurm.py", "--data", yaml, "--short", "--json", out]
    command += ["--interruptions", "1", "--kinds", "signal", "--keep", keep]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    logs = "".join(file.read_text()[-3000:] for file in keep.glob("*.out"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    found = json.loads(out.read_text())
    assert sorted(found["hosts"]) == ["n1", "n2"]
    assert (found["interruptions"], found["wrong"]) == (1, 0)
    folder = re.findall(r"StateSaveLocation=(.*)/state", (keep / "slurm.conf").read_text())[0]
    assert not Path(folder).exists()
    running = subprocess.run(["pgrep", "--full", "--list-full", folder], capture_output=True)
    assert not running.stdout


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (("0.jsonl", '"a1", {"box": 1.5}', '"a1", {"box": 1.25}'), "rank 0 saw other"),
        (("1.jsonl", '"b1"', '"b2"'), "rank 1 saw other"),
        (("0.jsonl", '[0, 1, "a1", {"box": 1.5}]\n', ""), "rank 0 was not fed the batches"),
        (("1.jsonl", "[0, 1", "[0, 2"), "rank 1 was not fed the batches"),
        (("weights", "w", "v"), "weights differ"),
        (("weights", "w", None), "did not come to its end"),
    ],
)  # fmt: skip
def test_a_difference_is_found(
    batch_notes: ModuleType, tmp_path: Path, change: tuple[str, str, str | None], wrong: str
) -> None:
    for run in ("whole", "job"):
        (tmp_path / run).mkdir()
        for rank, letter in enumerate("ab"):
            lines = [json.dumps([0, step, f"{letter}{step}", {"box": 1.5}]) for step in (0, 1)]
            (tmp_path / run / f"{rank}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (tmp_path / run / "weights").write_text("w")
    with (tmp_path / "job" / "0.jsonl").open("a") as file:
        file.write('[0, 1, "a1", {"box": 1.5}]\n[0, 1, "cut in tw')  # repeated, as it was
    assert batch_notes.differences(tmp_path, "whole", "job", 2) == []
    assert batch_notes.repeated(tmp_path, "whole", "job", 2) == 1

    name, before, after = change
    file = tmp_path / "job" / name
    if after is None:
        file.unlink()
    else:
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
    assert any(wrong in each for each in batch_notes.differences(tmp_path, "whole", "job", 2))
