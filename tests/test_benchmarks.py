"""The scripts behind published figures still run: at the smallest size, judging nothing."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import signal
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
    sys.modules[spec.name] = module  # where dataclasses look for it
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


def test_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every turn once, and what the whole writes."""
    soak = script("soak")
    out = tmp_path / "out.json"
    turns: list[Any] = []

    def all_turns(taken: Any, *arguments: Any) -> Any:
        turns.extend(taken.kinds())
        for turn in taken.kinds().values():
            turn()
        return run(taken, *arguments)

    run = soak.soak
    monkeypatch.setattr(soak, "soak", all_turns)
    monkeypatch.setattr(soak, "os", SimpleNamespace(**{**vars(os), "nice": lambda _: 0}))
    arguments = ["--minutes", 0.0001, "--settle", 0, "--images", 4, "--json", out]
    monkeypatch.setattr(sys, "argv", ["soak.py", *map(str, arguments)])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert soak.main() == 0
    finally:
        gc.unfreeze()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    result = json.loads(out.read_text())
    assert sum(result["turns"].values()) == len(result["samples"]["private"]) == 1
    assert result["left"] == {"descriptors": 0, "threads": 0, "processes": 0, "shm": []}
    assert result["growth"] is result["met"] is None  # one sample says nothing
    assert result["peak_private"] >= result["samples"]["private"][0] > 1 << 20
    assert len(turns) == 8


def test_soak_judges_memory_by_its_slope() -> None:
    soak = script("soak")

    def after(percent: float, minutes: float = 480, noise: float = 0.001) -> dict[str, float]:
        """Of a process of 300 MB that grows so much an hour, up and down by `noise`."""
        samples = []
        for i in range(200):
            at = 10 + i * minutes / 200
            size = 300e6 * (1 + percent / 100 * (at - 10) / 60) * (1 + noise * (-1) ** i)
            samples.append(soak.Held(at, int(size), 7, 3, 0))
        return soak.growth(samples)

    assert after(0.5)["percent_per_hour"] == pytest.approx(0.5, abs=0.01)
    assert after(-2)["percent_per_hour"] == pytest.approx(-2, abs=0.01)
    nothing = {"descriptors": 0, "threads": 0, "processes": 0, "shm": []}
    assert soak.judged(after(0.5), nothing) is True
    assert soak.judged(after(1.5), nothing) is False
    assert soak.judged(after(0.5, minutes=10, noise=0.05), nothing) is None  # too short to tell
    for name, value in (("descriptors", 1), ("shm", ["yolodata-1"])):
        assert soak.judged(after(0.5), {**nothing, name: value}) is False
    assert soak.growth([]) is soak.judged(None, nothing) is None
