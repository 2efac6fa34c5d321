"""What training costs: known numbers, a simulation that knows no formula, mistakes."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest

from yolodata.cli import main
from yolodata.cost.interruptions import Pauses, daly, slowdown, young
from yolodata.cost.measurements import measurements
from yolodata.cost.prices import read_prices
from yolodata.errors import ConfigError
from yolodata.telemetry.journal import FILE, Journal, read_journal

PRICES = """
currency: EUR
date: 2026-11-20
source: a page
gpus:
  NVIDIA X1: {on_demand: 4.0, spot: 1.0, interruptions_per_hour: 0.5, replacement_minutes: 6}
  x2: {on_demand: 2.0}
"""


def test_young_and_daly_have_their_known_values() -> None:
    assert young(5, 1000) == pytest.approx(100)  # sqrt(2 * 5 * 1000)
    assert young(8, 3600) == pytest.approx(240)
    # Daly's correction: 100 * (1 + sqrt(0.0025) / 3 + 0.0025 / 9) - 5.
    assert daly(5, 1000) == pytest.approx(96.694444)
    assert daly(300, 100) == 100
    assert daly(0, 1000) == 0


@pytest.mark.parametrize(("waits", "between"), [(5, 1000), (0.1, 3600), (60, 600)])
def test_the_interval_is_where_the_loss_is_least(waits: float, between: float) -> None:
    pauses = Pauses(waits, 20, 30)
    least = min(slowdown(second / 10, pauses, between) for second in range(10, 20_000))
    assert slowdown(daly(waits, between), pauses, between) == pytest.approx(least, rel=1e-3)
    assert slowdown(4 * daly(waits, between), pauses, between) > least * 1.005


def simulated(interval: float, pauses: Pauses, between: float, segments: int) -> float:
    """Time by work, of a run that is interrupted at random: it is played, second by second."""
    rng = random.Random(1)
    now, fails = 0.0, rng.expovariate(1 / between)
    on_disk = done = 0  # checkpoints
    writing = math.inf  # when the newest one is on disk
    while on_disk < segments:
        end = now + interval + pauses.waits
        if writing <= min(end, fails):
            on_disk, writing = done, math.inf
        elif end <= fails:
            now, done = end, done + 1
            writing = end + pauses.write
        else:  # interrupted; and perhaps again, while it starts
            now, done, writing = fails, on_disk, math.inf
            while True:
                fails = now + rng.expovariate(1 / between)
                if fails > now + pauses.restart:
                    break
                now = fails
            now += pauses.restart
    return now / (on_disk * interval)


@pytest.mark.parametrize("interval", [10, 25, 60])
def test_a_simulation_loses_as_much(interval: float) -> None:
    pauses, between = Pauses(2, 6, 15), 100
    expected = slowdown(interval, pauses, between)
    assert simulated(interval, pauses, between, 30_000) == pytest.approx(expected, rel=0.01)
    assert expected > 1.3
    # Negative controls: what is left out would be noticed.
    assert slowdown(interval, Pauses(2, 0, 15), between) < expected * 0.95
    assert slowdown(interval, Pauses(0, 6, 15), between) < expected * 0.98


def test_without_interruptions_only_checkpoints_cost() -> None:
    assert slowdown(98, Pauses(2, 5, 50), math.inf) == pytest.approx(100 / 98)
    assert slowdown(98, Pauses(2, 5, 50), 1e12) == pytest.approx(100 / 98)
    assert slowdown(1e6, Pauses(2, 5, 50), 1) == math.inf


# A run that took 100 s an epoch of 1,000 images on two GPUs, and was interrupted once.


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.yaml").write_text("model: m.yaml\nimgsz: 64\nbatch: 20\nepochs: 10\n")
    lines = ["step,epoch,time,images,step_ms,wait_ms,images_s"]
    for epoch in range(1, 6):
        for step in range(1, 51):
            late = 5000 * (epoch > 3)  # an interruption within epoch 4
            time = 1e6 + epoch * 100 + step + late
            lines.append(f"{step + 50 * epoch},{epoch},{time},10,1000,0,10")
    (folder / "steps.csv").write_text("\n".join(lines) + "\n99,5,1000")
    journal = Journal(folder)
    start = {"ranks": 2, "ranks_a_machine": 2, "gpu": "NVIDIA X1"}
    journal.add("start", resumed=False, after_s=999.0, **{**start, "ranks": 9})
    journal.add("start", resumed=False, after_s=50.0, **start)
    for waits in (1.0, None, 3.0, 2.0):
        journal.add("checkpoint", step_waits_s=waits, write_s=8.0, mib=30.0)
    journal.add("start", resumed=True, after_s=40.0, **start)
    with (folder / FILE).open("a") as file:
        file.write('{"event": "checkp')
    return folder


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return path


def test_a_run_is_read(run: Path) -> None:
    (one,) = measurements(run)
    assert one.images_s == pytest.approx(10)  # 1,000 images in 100 s
    assert (one.images, one.epochs, one.gpus, one.gpu) == (1000, 10, 2, "NVIDIA X1")
    assert one.pauses == Pauses(2.0, 8.0, 40.0)
    assert one.lacking == ""
    assert len(read_journal(run)) == 6  # not the start of the run before, nor the line cut in two


def test_lines_that_nobody_of_us_wrote_are_left_out(run: Path) -> None:
    before = measurements(run)
    start = {"event": "start", "resumed": True, "after_s": 1.0, "ranks": 2, "ranks_a_machine": 2,
             "gpu": None}  # fmt: skip
    checkpoint = {"event": "checkpoint", "step_waits_s": 1.0, "write_s": 1.0}
    with (run / FILE).open("a") as file:
        file.write("\n[1]\n")
        for line in (start, checkpoint):
            for name in line:
                others = {k: v for k, v in line.items() if k != name}
                for odd in ([], "x", -1, math.nan, True, 10**400):
                    if (name, odd) not in [("resumed", True), ("event", "x"), ("gpu", "x")]:
                        others[name] = odd
                        file.write(json.dumps(others) + "\n")
                del others[name]
                file.write(json.dumps(others) + "\n")
    assert measurements(run) == before


def test_a_journal_that_is_no_file(run: Path) -> None:
    (run / FILE).unlink()
    os.mkfifo(run / FILE)
    with pytest.raises(
        ConfigError, match=r"journal\.jsonl cannot be read: must be a file, is a FIFO"
    ):
        measurements(run)


def test_money_and_hours_of_a_run(run: Path, prices: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "cost.json"
    assert main(["cost", str(run), f"prices={prices}", f"json={out}", "also=x2=0.5"]) == 0
    found = json.loads(out.read_text())
    one, claim = found["estimates"]
    hours = 100 / 3600
    assert one["epoch"]["hours"] == pytest.approx(hours)
    assert one["run"]["hours"] == pytest.approx(10 * hours)
    assert one["run"]["on_demand"] == pytest.approx(10 * hours * 2 * 4.0)
    lost = one["interruptions"]
    assert lost["between_hours"] == pytest.approx(2)
    # The best interval (Daly: 169 s) is longer than an epoch, whose end has a checkpoint anyway.
    assert lost["yolodata.checkpoint_minutes"] == 0
    assert lost["paid"] == pytest.approx(slowdown(100, Pauses(2, 8, 40), 7200))
    assert lost["passed"] == pytest.approx(lost["paid"] * (1 + 360 / 7200))
    assert one["run"]["spot"] == pytest.approx(10 * hours * 2 * 1.0 * lost["paid"])
    assert claim["epoch"]["hours"] == pytest.approx(2 * hours)
    assert claim["claim"].startswith("your claim, not measured: 0.5 times as fast as NVIDIA X1")
    said = capsys.readouterr().out
    assert "Prices in EUR of 2026-11-20 (a page)" in said
    assert "x2 (claim)" in said
    assert said.isascii()
    # Longer epochs need checkpoints within.
    assert main(["cost", str(run), f"prices={prices}", f"json={out}", "images=100000"]) == 0
    (one,) = json.loads(out.read_text())["estimates"]
    minutes = one["interruptions"]["yolodata.checkpoint_minutes"]
    assert 60 * minutes == pytest.approx(daly(2, 7200))
    assert one["interruptions"]["paid"] == pytest.approx(
        slowdown(daly(2, 7200), Pauses(2, 8, 40), 7200)
    )
    assert "Nobody measured x2" in capsys.readouterr().out


def test_whole_machines_are_paid(run: Path, prices: Path, tmp_path: Path) -> None:
    prices.write_text(
        "currency: EUR\ndate: 1\ngpus:\n  X1: {on_demand: 8, per: machine, gpus: 8, spot: 8,"
        " interruptions_per_hour: 0}\n"
    )
    out = tmp_path / "cost.json"
    assert main(["cost", str(run), f"prices={prices}", f"json={out}"]) == 0
    (one,) = json.loads(out.read_text(), parse_constant=pytest.fail)["estimates"]
    assert one["epoch"]["on_demand"] == pytest.approx(100 / 3600 * 8)
    assert one["interruptions"]["between_hours"] is None
    price = read_prices(prices).gpus[0]
    assert [price.machines(gpus, 1) for gpus in (1, 8, 9, 16)] == [1, 1, 2, 2]


def test_benchmarks_and_the_doctor_are_read(tmp_path: Path) -> None:
    gpu = {"gpu": {"name": "NVIDIA X1"}}
    row = {"name": "ours", "kind": "yolodata", "img_s": {"median": 500.0}}
    fixed = {"name": "fixed", "kind": "fixed", "img_s": {"median": 900.0}}
    failed = {"name": "theirs", "kind": "ultralytics", "img_s": {"median": None}}
    bench = tmp_path / "bench.json"
    values: dict[str, Any] = {"benchmark": "train", "machine": gpu, "settings": {"device": "cuda"}}
    bench.write_text(json.dumps(values | {"rows": [row, fixed, failed]}))
    (one,) = measurements(bench)
    assert (one.gpu, one.images_s, one.images, one.pauses) == ("NVIDIA X1", 500, None, None)
    doctor = tmp_path / "doctor.json"
    values = {
        "findings": [], "machine": gpu, "fake": False,
        "examined": {"arguments": {"batch": 8}, "step_ms": None, "loader": "ultralytics"},
        "sections": {"data": {"measured": {"throughput_images_s": {"as_is": 300.0}}}},
    }  # fmt: skip
    doctor.write_text(json.dumps(values))
    (one,) = measurements(doctor)
    assert (one.gpu, one.images_s) == ("NVIDIA X1", 300)
    for change, said in (
        ({"fake": True}, "is fake"),
        ({"examined": {"step_ms": 9.0}}, "waits instead of training"),
        ({"sections": {}}, "has no speed of training"),
    ):
        doctor.write_text(json.dumps(values | change))
        with pytest.raises(ConfigError, match=said):
            measurements(doctor)


@pytest.mark.parametrize(
    "values",
    [
        {"settings": [1]}, {"machine": "x"}, {"rows": 5}, {"rows": [[]]}, {"rows": [{}] * 2},
        {"settings": {"device": "cuda"}, "machine": {"gpu": {"a": 1}}},
        {"rows": [{"name": "a", "img_s": {"median": "x"}}]},
        {"rows": [{"name": "a", "img_s": {"median": math.inf}}]},
        {"rows": [{"name": "a", "img_s": {"median": -1}}]},
        {"rows": [{"name": "a", "img_s": {"median": 1}}] * 1001},
        {"benchmark": [1]}, {"benchmark": "x" * 2000}, {"benchmark": "train", "x": " " * (1 << 24)},
    ],
)  # fmt: skip
def test_results_of_somebody_else_are_refused(
    tmp_path: Path, prices: Path, values: dict[str, Any], capsys: Any
) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"benchmark": "train", **values}))
    assert main(["cost", str(path), "--prices", str(prices), "--images", "9"]) == 2
    said = capsys.readouterr().err
    assert path.name in said
    assert len(said) < 1000
    if "benchmark" in values:
        assert "at most 16777216 are allowed" in said if "x" in values else "training steps" in said


def test_pauses_of_a_hundred_years_are_refused(run: Path) -> None:
    start = {"event": "start", "resumed": True, "ranks": 2, "ranks_a_machine": 2, "gpu": None}
    with (run / FILE).open("a") as file:
        file.write("\n" + f"{json.dumps({**start, 'after_s': 9e9})}\n" * 9)
    with pytest.raises(ConfigError, match=r"restart must be 0 to 1e\+09, got 9e\+09"):
        measurements(run)


def test_no_name_of_somebody_else_acts_on_the_terminal(
    run: Path, prices: Path, capsys: Any
) -> None:
    line = {"event": "start", "resumed": True, "ranks": 2, "ranks_a_machine": 2, "after_s": 1.0}
    line |= {"gpu": "\x1b[2J\u202ea"}
    (run / FILE).write_text(f"{json.dumps(line)}\n")
    assert main(["cost", str(run), "--prices", str(prices)]) == 0
    said = capsys.readouterr().out
    assert "\\x1b[2J\\u202ea" in said
    assert "\x1b" not in said


def test_what_somebody_else_states_at_length_is_cut(
    run: Path, prices: Path, tmp_path: Path, capsys: Any
) -> None:
    """In whatever is printed: of a run, of a benchmark, of the doctor."""
    long = "x" * 9000
    start = {"event": "start", "resumed": True, "ranks": 2, "ranks_a_machine": 2, "after_s": 1.0}
    (run / FILE).write_text(f"{json.dumps({**start, 'gpu': long})}\n")
    (run / "args.yaml").write_text(f"model: {long}\nbatch: [{'1, ' * 9000}]\n")
    bench, doctor, machine = tmp_path / "b.json", tmp_path / "d.json", {"gpu": {"name": long}}
    settings = {"device": "cuda", "model": dict.fromkeys(map(str, range(9000)), 1)}
    row = {"name": long, "img_s": {"median": 500.0}}
    values: dict[str, Any] = {"benchmark": "train", "machine": machine, "settings": settings}
    bench.write_text(json.dumps(values | {"rows": [row]}))
    values = {
        "findings": [], "machine": machine,
        "examined": {"arguments": {"batch": long}, "loader": long, "ranks": 10**4000},
        "sections": {"data": {"measured": {"throughput_images_s": {"as_is": 300.0}}}},
    }  # fmt: skip
    doctor.write_text(json.dumps(values))
    paths = map(str, (run, bench, doctor))
    assert main(["cost", *paths, "--prices", str(prices), "--images", "9", "--epochs", "2"]) == 0
    assert len(capsys.readouterr().out) < 20_000


WRONG_PRICES = [
    ("[1]", "must have currency, date, source, gpus, got [1]"),
    (PRICES.replace("currency: EUR", ""), "must have currency"),
    (PRICES.replace("date", "dated"), "'dated' is not known (did you mean 'date'?)"),
    (
        PRICES.replace("spot: 1.0", "spott: 1.0"),
        "NVIDIA X1: 'spott' is not known (did you mean 'spot'?)",
    ),
    (PRICES.replace("spot: 1.0", "spot: -1"), "NVIDIA X1: spot must be at least 0, got -1"),
    (PRICES.replace("spot: 1.0", "spot: 1€"), "NVIDIA X1: spot must be a finite number, got '1€'"),
    (PRICES.replace("spot: 1.0, ", ""), "interruptions_per_hour is of spot machines"),
    (PRICES.replace("spot: 1.0", "spot: 1, per: box"), "per must be one of gpu, machine"),
    (PRICES.replace("spot: 1.0", "spot: 1, per: machine"), "belong together"),
    (PRICES.replace("spot: 1.0", "spot: 1, gpus: 4"), "belong together"),
    (PRICES.replace("on_demand: 2.0", ""), "x2 must have on_demand, spot or both"),
    (PRICES.replace("x2", "x1"), "has NVIDIA X1 twice"),
    ("currency: a\ndate: b\ngpus: {}", "gpus must name one GPU or more"),
    ("a: [", "cannot be read as prices"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_PRICES)
def test_wrong_prices_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_prices(path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{run} prices=none.yaml", "none.yaml: cannot be read as prices"),
        ("{run} prices={prices} epochs=0", "--epochs must be at least 1"),
        ("{run} prices={prices} also=L40S", "--also must be GPU=RATIO"),
        ("{run} prices={prices} also=L40S=-1", "--also must be GPU=RATIO"),
        ("{prices} prices={prices}", "cannot be read"),
        ("{empty} prices={prices}", "is no folder of a run"),
        ("{bench} prices={prices}", "does not say how many images an epoch has; give --images"),
        ("{loader} prices={prices}", "holds no training steps but loader"),
        ("{young} prices={prices}", "has no whole epoch after the first"),
        ("{silent} prices={prices}", "has no journal.jsonl with a start"),
        ("{run}", "--prices"),
    ],
)
def test_mistakes(
    run: Path, prices: Path, tmp_path: Path, capsys: Any, words: str, said: str
) -> None:
    places = {"run": run, "prices": prices}
    for name in ("empty", "young", "silent"):
        places[name] = tmp_path / name
        places[name].mkdir()
    for name in ("young", "silent"):
        (places[name] / "args.yaml").write_text("epochs: 1")
        (places[name] / "steps.csv").write_text("step,epoch,time,images\n1,1,5.0,4\n")
    (places["young"] / FILE).write_bytes((run / FILE).read_bytes())
    places["loader"] = tmp_path / "loader.json"
    places["loader"].write_text('{"benchmark": "loader"}')
    places["bench"] = tmp_path / "bench.json"
    row = {"name": "ours", "kind": "yolodata", "img_s": {"median": 5.0}}
    places["bench"].write_text(json.dumps({"benchmark": "train", "rows": [row]}))
    assert main(["cost", *words.format(**places).split()]) == 2
    assert said in capsys.readouterr().err
