"""The scripts behind published figures still run: at the smallest size, judging nothing."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from loading import draw_dataset, packed
from training import prepare

from yolodata import topology
from yolodata.bench import cores, registry, server
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


PAGES = sorted(
    str(page.relative_to(SCRIPTS.parent))
    for folder in (".", "docs", "benchmarks")
    for page in (SCRIPTS.parent / folder).glob("*.md")
    if "<!-- results:" in page.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("page", PAGES)
def test_published_tables_are_those_of_the_results(page: str) -> None:
    assert script("tables").main(["--check", str(SCRIPTS.parent / page)]) == 0


def test_pages_with_tables_are_found() -> None:
    assert {"README.md", "docs/gpu.md", "docs/reliability.md"} < set(PAGES)


def test_tables_come_from_the_json_files(tmp_path: Path) -> None:
    tables = script("tables")
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(SCRIPTS / "results" / "loader.json", results)
    page = tmp_path / "README.md"
    page.write_text("Before\n<!-- results: loader.json -->\nold\n<!-- /results -->\nafter\n")

    def run(action: str) -> int:
        code: int = tables.main(["--results", str(results), action, str(page)])
        return code

    assert run("--check") == 1
    assert run("--write") == 0
    assert run("--check") == 0
    text = page.read_text()
    assert "old" not in text
    assert "| yolodata, raw shards |" in text
    assert text.startswith("Before\n")
    assert text.endswith("after\n")
    (results / "loader.json").unlink()
    with pytest.raises(SystemExit, match="is missing"):
        run("--check")


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


def test_diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds as many differences as it made."""
    out = tmp_path / "out.json"
    monkeypatch.syspath_prepend(str(SCRIPTS))  # it takes datasets of scale.py
    monkeypatch.setattr(
        sys, "argv", ["diff.py", "--images", "2000", "--runs", "1", "--json", str(out)]
    )
    assert script("diff").main() == 0
    same, some, every = json.loads(out.read_text())["rows"]
    assert same["counts"] == {}
    assert some["counts"]["changed"] == 2
    assert every["counts"]["changed"] == 2000


@pytest.mark.skipif(shutil.which("dvc") is None, reason="dvc is not installed")
def test_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions go there and back with each type of links."""
    draw_dataset(tmp_path / "set", {"train": 3})
    monkeypatch.setattr(
        sys, "argv", ["dvc.py", str(tmp_path / "set"), "--images", "6", "--rounds", "1"]
    )
    assert script("dvc").main() == 0


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


class Here:
    """A `Session` in this process, which has imported torch already."""

    def __init__(self, jobs: Any, folder: Path) -> None:
        ((self._row, task),) = jobs
        self._subject = registry.make(self._row, task)

    def ask(self, limit: float, what: str, name: str, seconds: float, steps: int = 0) -> Any:
        assert name == self._row.id
        if what == "start":
            return {"facts": self._subject.facts()}
        assert what == "slice"
        steps_taken = server.measure(self._subject, seconds, steps, self._row.threads)
        while True:
            try:
                next(steps_taken)
            except StopIteration as end:
                return end.value

    def close(self) -> None:
        self._subject.close()


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaling, tables = script("scaling"), script("tables")
    monkeypatch.setattr(scaling, "Session", Here)
    monkeypatch.setattr(cores, "pin", lambda numbers: True)
    monkeypatch.setattr(cores, "pin_thread", lambda number: None)
    monkeypatch.setattr("cv2.setNumThreads", lambda count: None)
    monkeypatch.setattr("yolodata.bench.scaling._CHUNK", 1 << 16)
    monkeypatch.setattr("yolodata.bench.scaling._BURST", 0.01)
    out = tmp_path / "out.json"
    arguments = ["--images", 4, "--many", 8, "--imgsz", 64, "--batch", 2, "--rounds", 1]
    arguments += ["--seconds", 0.05, "--json", out]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *map(str, arguments)])
    monkeypatch.setattr(scaling, "core_counts", lambda usable, quota: [1, min(2, usable)])
    assert scaling.main() == 0
    result = json.loads(out.read_text())
    counts = sorted({1, min(2, len(os.sched_getaffinity(0)))})
    assert [(row["codec"], row["cores"]) for row in result["rows"]] == [
        (codec, n) for codec in ("raw", "jpeg") for n in counts
    ]
    for row in result["rows"]:
        assert row["copy_gb_s"]["median"] > row["gb_s"]["median"] > 0
        # Threads work ahead of what is counted, more or less in so short a time.
        assert 0 < row["cpu_ms"] < 1e3 * row["cores"] / row["img_s"]["median"] * 10
        assert (row["efficiency"]["samples"] == [1.0]) == (row["cores"] == 1)
    assert set(result["bends"]) == {"raw", "jpeg"}
    assert "by core time" in str(tables.markdown(out))


def test_where_a_line_bends_and_why() -> None:
    scaling = script("scaling")
    one = {"efficiency": {"median": 1.0}, "cpu_ms": 1.0, "core_efficiency": 1.0, "shared": False}
    one |= {"others": 0.0, "idle": 0.01, "throttled": 0.0, "nodes": 1, "of_copy": {"median": 0.2}}

    def reasons(efficiency: float, **differs: Any) -> list[str]:
        row = one | {"efficiency": {"median": efficiency}} | differs
        row["core_efficiency"] = one["cpu_ms"] / row["cpu_ms"]
        return [text.partition(":")[0] for text in scaling.why(one, row)]

    assert reasons(0.91, cpu_ms=1.1) == []
    assert reasons(0.7, cpu_ms=1.4, of_copy={"median": 0.8}) == ["memory bandwidth"]
    assert reasons(0.7, cpu_ms=1.4, shared=True) == ["hyper-threads share cores"]
    assert reasons(0.7, cpu_ms=1.4, nodes=2) == ["NUMA, 2 nodes"]
    assert reasons(0.7, cpu_ms=1.4) == ["clock or shared caches"]
    assert reasons(0.5, throttled=0.5, idle=0.5) == ["quota"]
    assert reasons(0.6, idle=0.4) == ["threads wait"]
    assert reasons(0.6, others=0.4) == ["other processes"]
    assert reasons(0.6, idle=0.2, cpu_ms=1.3) == ["threads wait", "clock or shared caches"]
    assert reasons(0.8) == ["nothing that these figures show"]
    rows = [
        {"codec": "raw", "cores": n, "why": why} for n, why in ((1, []), (2, ["a"]), (4, ["b"]))
    ]
    assert scaling.bends(rows) == {"raw": {"cores": 2, "why": ["a"]}, "jpeg": None}


def test_which_cores_are_taken() -> None:
    scaling, node = script("scaling"), topology.Node
    assert scaling.core_counts(6, None) == [1, 2, 4, 6]
    assert scaling.core_counts(8, 3.5) == [1, 2, 4]
    assert scaling.core_counts(8, 0.5) == [1]
    nodes = [node(0, (0, 1, 4, 5), {}), node(1, (2, 3, 6, 7), {})]
    siblings = {core: (core % 4, core % 4 + 4) for core in range(8)}
    assert scaling.core_order(range(8), nodes, siblings) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert scaling.core_order((1, 3, 5, 6), nodes, siblings) == [1, 3, 6, 5]
    assert scaling.core_order((3, 1), [], {}) == [1, 3]
    facts = {"source_bytes": 10.0, "output_bytes": 5.0, "stored_bytes": 3.0, "decoded_bytes": 9.0}
    assert scaling.bytes_moved("raw", facts, 0.0) == 15.0
    assert scaling.bytes_moved("jpeg", facts, 0.5) == 21.0
