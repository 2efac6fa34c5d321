"""The scripts behind published figures still run: at the smallest size, judging nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from loading import draw_dataset, packed
from training import prepare

from yolodata.environment import versions

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = script("training")

    def here(command: list[str], **_: Any) -> CompletedProcess[str]:
        """In this process, which has imported torch already."""
        loader, seed = command[command.index("--one") + 1 :][:2]
        started.append((loader, int(seed)))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[1:])
            return CompletedProcess(command, training.main(), "", "")

    monkeypatch.setattr(training, "subprocess", SimpleNamespace(run=here))
    folder = prepare(tmp_path)
    out, started = tmp_path / "out.json", []
    arguments = ["--data", folder / "set" / "data.yaml", "--model", folder / "tiny.yaml"]
    arguments += ["--imgsz", 32, "--epochs", 1, "--seeds", 1, "--json", out]
    monkeypatch.setattr(sys, "argv", ["training.py", *map(str, arguments)])
    training.main()  # ends with 1 where single runs differ
    result = json.loads(out.read_text())
    assert [(run["loader"], run["seed"]) for run in result["runs"]] == started
    assert started == [("ultralytics", 0), ("yolodata", 0)]
    assert all(len(run["curves"]["class loss"]) == 1 for run in result["runs"])
    assert set(result["final"]["mAP50"]) == {"ultralytics", "yolodata"}
    assert result["versions"] == versions()

    del result["runs"][0]  # an interrupted run: what is there is not trained again
    out.write_text(json.dumps(result))
    kept = result["runs"][0]
    training.main()
    assert started[2:] == [("ultralytics", 0)]
    assert kept in json.loads(out.read_text())["runs"]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--epochs", "2"])
    with pytest.raises(SystemExit, match="runs of other settings"):
        training.main()

    charts = script("charts")
    assert charts.main([str(out)]) == 0
    assert charts.main(["--check", str(out)]) == 0
    out.write_text(out.read_text().replace("mAP50-95", "mAP95"))
    assert charts.main(["--check", str(out)]) == 1


@pytest.mark.parametrize("page", ["README.md", "docs/gpu.md", "docs/parity.md"])
def test_published_tables_are_those_of_the_results(page: str) -> None:
    assert script("tables").main(["--check", str(SCRIPTS.parent / page)]) == 0


def test_published_charts_are_those_of_the_results() -> None:
    """Run `python benchmarks/charts.py` when this fails."""
    assert script("charts").main(["--check"]) == 0
    for chart in (SCRIPTS / "results").glob("*.png"):
        assert chart.stat().st_size < 300_000


def test_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it times still exists, and is called."""
    shards = packed(draw_dataset(tmp_path / "set", {"train": 12}), tmp_path / "raw", "raw", 64)
    out = tmp_path / "out.json"
    arguments = ["--data", shards, "--imgsz", 64, "--batch", 4, "--steps", 4, "--step-ms", 2]
    arguments += ["--device", "cpu", "--json", out]
    monkeypatch.setattr(sys, "argv", ["consumer.py", *map(str, arguments)])
    assert script("consumer").main() == 0
    result = json.loads(out.read_text())
    assert result["parts_us"]["settle"] > 0
    assert result["parts_us"]["wait for the batch"] > 0
    assert result["threads_cpu_ms"] > 0
