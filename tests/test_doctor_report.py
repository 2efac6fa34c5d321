"""The doctor's reports: what they say of given outcomes, and that each form can be used."""

from __future__ import annotations

import ast
import json
import re
import sys
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import draw_dataset
from training import network

from yolodata.cli import main
from yolodata.doctor import charts, sections
from yolodata.doctor.apply import settings_file
from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.report import Report, as_json
from yolodata.doctor.report_html import html
from yolodata.doctor.report_text import summary, text

EVIL = "<script>alert('&')</script>\x07\udcff"
"""A class of this name, in a file whose name is not UTF-8."""

STORAGE = Finding(
    "storage", "slow", "The storage delivers too slowly.", "78 ms a batch; 8 ms from memory.",
    Knob("Keep the pixels.", {"yolodata.codec": "raw", "batch": 8}),
    lost_ms=70.0, step_ms=100.0, gain=3.33, measured=True,
)  # fmt: skip
WORKERS = Finding(
    "workers", "slow", "There are no workers.", "0 of 4 cores decode.",
    Knob("Set workers=4.", {"workers": 4, "batch": 16}), lost_ms=20.0, step_ms=100.0, gain=1.25,
)  # fmt: skip
OVERLAP = Finding("overlap", "risk", f"{EVIL} is in train and val.", EVIL, Knob("Remove it.", {}))
RATE = Finding(
    "learning_rate",
    "breaks",
    "The loss becomes NaN.",
    "4.1, 80, nan",
    Knob("Do it.", {"lr0": 1e-5}),
)
PCIE = Finding(
    "pcie", "slow", "The link is narrow.", "x4 of x16", Knob("Move the card.", {}), lost_ms=1.0,
    step_ms=100.0, gain=1.01, fake=True,
)  # fmt: skip
AMP = Finding(
    "amp", "opportunity", "Mixed precision is faster.", "bf16", Knob("Use it.", {"amp": True}),
    gain=1.5, measured=True,
)  # fmt: skip

MEASURED: dict[str, Any] = {
    "step_parts_ms": {"storage": 60.0, "decode": 5.0, "augment": 3.0, "copy": 2.0, "model": 30.0},
    "throughput_images_s": {"as_is": 640.0, "constant_batch": 2130.0, "not_there": None},
    "ceilings_images_s": {"link": 9000.0},
    "timeline": {"seconds": [0.1, 0.2, 0.3], "step_ms": [100.0] * 3, "wait_ms": [62.0] * 3},
}
BOXES: dict[str, Any] = {"box_sizes_px": {"edges": [0, 3, 640], "counts": [5, 9]}, "loss": [EVIL]}
REDUCE: dict[str, Any] = {
    "all_reduce": [{"bytes": 2**k, "ms": 0.1, "bus_gb_s": k} for k in range(10, 20)]
}


def report(*findings: Finding, **sections: Outcome) -> Report:
    outcomes = {"data": Outcome(MEASURED, findings), **sections}
    machine = {"cpu": "a", "cores_usable": 2, "gpu": {"name": "a GPU"}}
    setup = {"data": EVIL, "loader": "ultralytics", "arguments": {"batch": 4}}
    return Report(setup, outcomes, 61.0, "2026-01-01T00:00:00+00:00", machine, {"python": "3"})


def test_the_worst_is_said_first_with_what_it_costs_and_what_brings() -> None:
    made = report(
        AMP, WORKERS, OVERLAP, STORAGE, ranks=Outcome(not_done=["ranks: there is one rank"])
    )
    assert summary(made) == (
        "The GPU waits 62% of each step. What costs most of it: The storage delivers too slowly. "
        "There are 2 more complaints."
    )
    said = text(made, 100)
    order = [said.index(one.title[-20:]) for one in (STORAGE, WORKERS, OVERLAP, AMP)]
    assert order == sorted(order)
    for figure in ("70.0 ms a step", "70% of an epoch", "3.33 times", "measured", "calculated"):
        assert figure in said
    assert "yolodata.codec=raw" in said
    assert said.count("workers=4") == 1  # it is in the sentence already
    assert said.index("Opportunities") > said.index("Complaints")
    assert "  ranks: there is one rank" in said.splitlines()
    assert "fake" not in said


def test_the_share_that_a_section_says_comes_before_that_of_its_plot() -> None:
    told = {**MEASURED, "waiting_share": 0.25}
    made = Report({"data": "a"}, {"data": Outcome(told, [STORAGE])}, 1.0, "now", {}, {})
    assert summary(made).startswith("Training waits 25% of each step.")


def test_what_breaks_a_run_is_no_matter_of_waiting() -> None:
    assert summary(report(STORAGE, RATE)).startswith(
        "This run will end, or its result is worthless. The loss becomes NaN. There is 1 more"
    )


def test_the_healthy_have_nothing_to_hear() -> None:
    assert summary(report()) == "Nothing to complain about."
    assert summary(report(AMP)).startswith("Nothing to complain about. 1 change would")
    assert "Complaints" not in text(report(AMP), 80)


def test_nothing_acts_on_the_terminal() -> None:
    shown = text(report(OVERLAP), 80)
    assert "<script>" in shown
    assert "\\x07" in shown
    assert all(sign.isprintable() or sign == "\n" for sign in shown)


def test_what_is_fake_says_so_everywhere() -> None:
    made = report(STORAGE, PCIE)
    assert "pcie (slow, fake)" in text(made, 100)
    assert "storage (slow)" in text(made, 100)
    assert "fake: probes of the hardware were replaced" in text(made, 100)
    assert "<strong>Fake:</strong>" in html(made)
    assert json.loads(as_json(made))["fake"] is True
    assert "fake" not in html(report(STORAGE)).lower()


@pytest.mark.parametrize("width", [20, 60, 80, 100, 300])
def test_lines_fit_the_terminal(width: int) -> None:
    lines = text(report(RATE, STORAGE, WORKERS, PCIE, AMP), width).splitlines()
    assert max(map(len, lines)) <= max(60, min(width, 120))
    assert all(line == line.rstrip() for line in lines)


def test_json_ranks_and_has_no_nan() -> None:
    made = report(STORAGE, RATE, convergence=Outcome({"losses": [4.1, float("nan")]}))
    found = json.loads(as_json(made), parse_constant=pytest.fail)
    assert [finding["cause"] for finding in found["findings"]] == ["learning_rate", "storage"]
    assert found["findings"][1]["share"] == pytest.approx(0.7)
    assert found["findings"][1]["knob"]["settings"] == {"yolodata.codec": "raw", "batch": 8}
    assert found["sections"]["convergence"]["measured"]["losses"] == [4.1, None]
    assert found["healthy"] is False
    for name in ("schema", "yolodata", "date", "examined", "seconds", "machine", "versions", "fake",
                 "healthy", "findings", "not_done", "sections"):  # fmt: skip
        assert name in found


def page(made: Report) -> tuple[str, ElementTree.Element]:
    written = html(made)
    return written, ElementTree.fromstring(written)


def test_the_page_is_whole_asks_the_network_nothing_and_runs_nothing() -> None:
    conv, ranks = Outcome(BOXES, [OVERLAP]), Outcome(REDUCE, (), [EVIL])
    written, root = page(report(STORAGE, AMP, convergence=conv, ranks=ranks, machine=Outcome()))
    shown = "".join(root.itertext())
    assert "<script>alert('&')</script>\\x07\\udcff is in train and val." in shown
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "image", "use"})
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on")
            assert name not in ("href", "src", "srcset"), value
    outside = re.sub(r'xmlns="http://www.w3.org/2000/svg"', "", written)
    assert not re.search(r"https?:|url\(|@import", outside)
    charts_drawn = [e for e in root.iter() if e.tag.endswith("svg")]
    assert len(charts_drawn) == 5
    assert "No plot of" not in shown
    written.encode("utf-8")


def test_what_was_not_measured_is_said() -> None:
    made = report(STORAGE)
    shown = "".join(page(made)[1].itertext())
    assert "No plot of: All-reduce, Sizes of boxes. It was not measured." in shown
    empty = Report({"data": "a"}, {"data": Outcome()}, 1.0, "now", {}, {})
    assert "No plot of: One step, Speed against ceilings" in "".join(page(empty)[1].itertext())


def test_plots_are_of_the_numbers() -> None:
    bar = ElementTree.fromstring(charts.stacked_bar({"storage": 75.0, "model": 25.0}))
    wide = [float(e.get("width", 0)) for e in bar if e.get("height") == "44.0"]
    assert wide == pytest.approx([540.0, 180.0])
    boxes = ElementTree.fromstring(charts.histogram([0, 3, 8, 16], [10, 40, 20], "px", 3))
    tall = [float(e.get("height", 0)) for e in boxes if e.tag.endswith("rect")]
    assert [t / tall[1] for t in tall] == pytest.approx([0.25, 1, 0.5], abs=0.01)
    assert [e.get("class") for e in boxes if e.tag.endswith("rect")] == ["c5", "c0", "c0"]
    # A pause of one step of 100,000 is seen, though a pixel stands for hundreds of them.
    steps = [10.0] * 100_000
    steps[77_777] = 1000.0
    line = ElementTree.fromstring(charts.timeline(range(100_000), steps, [0.0] * 100_000))
    (points,) = (e.get("points", "") for e in line if e.tag.endswith("polyline"))
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert len(heights) < 1000
    assert min(heights) == pytest.approx(10)
    assert sorted(heights)[1] == pytest.approx(208)


@pytest.mark.parametrize(
    "drawn",
    [
        charts.stacked_bar({}), charts.stacked_bar({"model": 0.0}), charts.dots({}, {}, "x"),
        charts.histogram([0, 1], [], "px", 3), charts.histogram([0, 1], [0], "px", 3),
        charts.timeline([1.0], [1.0], [1.0]), charts.curve([(1, 2)], "a", "b"),
    ],
)  # fmt: skip
def test_nothing_is_drawn_of_nothing(drawn: str) -> None:
    assert drawn == ""


@pytest.mark.parametrize("values", [[5e-3], [1.0], [1, 1e9], [99.9, 100.0], [0.001, 0.001]])
def test_plots_take_every_size_of_number(values: list[float]) -> None:
    named = {str(n): value for n, value in enumerate(values)}
    assert ElementTree.fromstring(charts.dots(named, named, "x")) is not None
    steps = [0.0, *values]
    assert ElementTree.fromstring(charts.timeline(range(len(steps)), steps, steps)) is not None


def test_settings_of_complaints_are_applied_the_worse_first() -> None:
    made = report(AMP, WORKERS, STORAGE, RATE, OVERLAP)
    written = settings_file(made, {"model": "m.yaml", "batch": 4, "data": "d.yaml"}, Path("x.yaml"))
    assert yaml.safe_load(written) == {
        "model": "m.yaml", "data": "d.yaml", "yolodata.codec": "raw", "batch": 8, "workers": 4,
        "lr0": 1e-5,
    }  # fmt: skip
    assert "# amp: true" in written


def causes(tree: ast.AST) -> Iterator[str]:
    """What stands in the place of a cause: cause="x", or "x" before a kind."""
    kinds = {"breaks", "slow", "risk", "opportunity"}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        words = [a.value if isinstance(a, ast.Constant) else None for a in call.args]
        yield from (a for a, b in pairwise(words) if b in kinds and isinstance(a, str))
        named = {k.arg: k.value for k in call.keywords}.get("cause")
        if isinstance(named, ast.Constant):
            yield str(named.value)


def test_the_table_of_causes_has_a_row_for_each() -> None:
    """A row of docs/doctor.md: what it means, how it is found, the knob."""
    root = Path(__file__).resolve().parents[1]
    heads = re.findall(r"^\| (`[^|]*) \|", (root / "docs" / "doctor.md").read_text(), re.M)
    told = {name for head in heads for name in re.findall(r"`(\w+)`", head)}
    files = (root / "yolodata" / "doctor").rglob("*.py")
    found = {cause for file in files for cause in causes(ast.parse(file.read_text()))}
    assert len(found) > 20
    assert not found - told


# The command.


class Section(types.ModuleType):
    """A section that finds what it is told."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("section")
        self.outcome = outcome

    def examine(self, examination: Examination) -> Outcome:
        examination.say("looking")
        self.seen = examination.setup
        return self.outcome


@pytest.fixture
def section(monkeypatch: pytest.MonkeyPatch) -> Section:
    made = Section(Outcome(MEASURED, [STORAGE, AMP]))
    monkeypatch.setitem(sys.modules, "a_section", made)
    monkeypatch.setattr(sections, "SECTIONS", {"data": ("a_section", 1.0)})
    return made


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return draw_dataset(tmp_path / "set", {"train": 4, "val": 2})


def test_the_command_examines_what_it_is_given(
    section: Section, drawn: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "new" / "doctor.json"
    words = ["model=yolo26s.yaml", str(drawn), "batch=3", "step=5", "seconds=7", "seed=9"]
    assert main(["doctor", *words, "loader=yolodata", f"json={out}", f"html={out}.html"]) == 1
    shown = capsys.readouterr()
    assert "The storage delivers too slowly." in shown.out
    assert shown.err == ""  # no bar where there is no terminal
    setup = section.seen
    assert (setup.data, setup.batch, setup.step_ms) == (str(drawn), 3, 5.0)
    assert (setup.seconds, setup.seed, setup.examined_loader) == (7.0, 9, "yolodata")
    found = json.loads(out.read_text())
    assert found["examined"]["arguments"] == {"model": "yolo26s.yaml", "batch": 3}
    assert found["machine"]["cores_usable"] >= 1
    assert Path(f"{out}.html").read_text().startswith("<!DOCTYPE html>")
    section.outcome = Outcome(MEASURED, [AMP])
    assert main(["doctor", str(drawn)]) == 0


def test_one_rank_speaks(
    section: Section, drawn: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert main(["doctor", str(drawn)]) == 0
        assert bool(capsys.readouterr().out) is lines


def test_the_settings_train(section: Section, drawn: Path, tmp_path: Path, capsys: Any) -> None:
    small = Finding(
        "workers", "slow", "Slow: #1.", "", Knob("", {"yolodata.prefetch": 2, "batch": 2})
    )
    section.outcome = Outcome({}, [small, AMP])
    out = tmp_path / "better.yaml"
    words = [f"model={network()}", "epochs=1", "imgsz=32", "batch=4", "device=cpu", "plots=False",
             "workers=0", f"project={tmp_path / 'runs'}", "name=it", "val=False"]  # fmt: skip
    assert main(["doctor", str(drawn), *words, f"apply={out}"]) == 1
    assert f"yolodata train cfg={out}" in capsys.readouterr().out
    assert main(["train", f"cfg={out}"]) == 0
    run = tmp_path / "runs" / "it"
    assert yaml.safe_load((run / "args.yaml").read_text())["batch"] == 2
    assert yaml.safe_load((run / "yolodata.yaml").read_text())["prefetch"] == 2
    capsys.readouterr()
    before = out.read_text()
    assert main(["doctor", str(drawn), *words, f"apply={out}"]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert out.read_text() == before
    section.outcome = Outcome({}, [OVERLAP])
    assert main(["doctor", str(drawn), f"apply={tmp_path / 'none.yaml'}"]) == 1
    assert not (tmp_path / "none.yaml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{yaml} only=date", "--only must be one of data, got 'date'"),
        ("{yaml} seconds=0", "seconds must be 2 to 3600"),
        ("{yaml} bacth=3", "bacth"),
        ("{yaml} yolodata.threads=0", "yolodata.threads must be 1 to 1024, got 0"),
        ("{yaml} yolodata.thread=3", "did you mean 'threads'"),
        ("{yaml} yolodata.threads=3 loader=ultralytics", "takes no settings of yolodata, got thr"),
        ("{yaml} device=0,1", "device=0,1 takes 2 processes; start them with torchrun"),
        ("{folder}", "is a folder that holds no shards and none of args.yaml, steps.csv"),
        ("nothere.yaml", "nothere.yaml: is not there"),
        ("{run} seconds=9 batch=3", "whose records are only read; leave out --seconds, batch"),
        ("{yaml} html={folder}", "cannot be written"),
    ],
)
def test_mistakes(
    section: Section, drawn: Path, tmp_path: Path, capsys: Any, words: str, said: str
) -> None:
    places = {"yaml": drawn, "folder": drawn.parent, "run": tmp_path / "run"}
    places["run"].mkdir()
    (places["run"] / "steps.csv").touch()
    assert main(["doctor", *words.format(**places).split()]) == 2
    assert said in capsys.readouterr().err
