"""The bench: what it draws, how it measures, what it writes, and what it says when it cannot."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from ingesting import tree_hash, write_yolo

from yolodata import environment
from yolodata.bench import (
    coco,
    data,
    drawing,
    report,
    results,
    rounds,
    rows,
    server,
    session,
)
from yolodata.bench.load import Load
from yolodata.bench.registry import make
from yolodata.bench.subject import Batch, Row, Sample, Subject, Task
from yolodata.cli import main
from yolodata.errors import ConfigError, DatasetError
from yolodata.telemetry import Telemetry

pytestmark = pytest.mark.early

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--quick", "--imgsz", "64", "--batch", "4", "--rounds", "1", "--seconds", "0.1"]


# What is drawn.


def test_sketches_are_distributed_like_coco() -> None:
    plans = drawing.sketch(2000, seed=1)
    counts = np.array([len(p.cls) for p in plans])
    assert counts.mean() == pytest.approx(coco.OBJECTS_PER_IMAGE, rel=0.05)
    assert np.median(counts) == 4
    assert 0.003 < (counts == 0).mean() < 0.02
    assert np.percentile(counts, 99) == pytest.approx(37, abs=6)
    pixels = np.array([p.width * p.height for p in plans])
    assert pixels.mean() == pytest.approx(coco.PIXELS_PER_IMAGE, rel=0.05)
    assert np.mean([(p.width, p.height) == (640, 480) for p in plans]) > 0.2
    assert np.mean([max(p.width, p.height) == 640 for p in plans]) > 0.8
    sides = np.concatenate([np.sqrt((p.boxes[:, 2:] - p.boxes[:, :2]).prod(1)) for p in plans])
    # 41 % of COCO's objects cover less than 32 x 32 pixels; boxes are 1.6 times as large.
    assert np.mean(sides < 32 * 1.6**0.5) == pytest.approx(0.41, abs=0.04)
    assert np.mean(sides < 96 * 1.6**0.5) == pytest.approx(0.76, abs=0.05)
    classes = np.concatenate([p.cls for p in plans])
    assert np.mean(classes == 0) == pytest.approx(coco.PERSON_SHARE, abs=0.01)
    for p in plans:
        assert (p.boxes >= 0).all()
        assert (p.boxes <= np.array([p.width, p.height] * 2) + 1e-9).all()


def test_even_few_pictures_have_the_means_of_coco() -> None:
    plans = drawing.sketch(64, seed=3)
    assert np.mean([len(p.cls) for p in plans]) == pytest.approx(7.27, rel=0.15)
    nbytes = [p.bytes_per_pixel * p.width * p.height for p in plans]
    assert np.mean(nbytes) == pytest.approx(coco.BYTES_PER_IMAGE, rel=0.15)


def test_drawing_is_deterministic_and_files_are_as_large_as_coco_s(tmp_path: Path) -> None:
    for name, seed, threads in (("a", 5, 1), ("b", 5, 3), ("c", 6, 2)):
        drawing.write(tmp_path / name, 16, seed, threads)
    hashes = {
        name: [
            hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted((tmp_path / name).rglob("0*"))
        ]
        for name in "abc"
    }
    assert hashes["a"] == hashes["b"]
    assert not set(hashes["a"]) & set(hashes["c"])
    files = sorted((tmp_path / "a" / "images" / "train").iterdir())
    plans = drawing.sketch(16, 5)
    wanted = sum(p.bytes_per_pixel * p.width * p.height for p in plans)
    assert sum(f.stat().st_size for f in files) == pytest.approx(wanted, rel=0.08)
    labels = (tmp_path / "a" / "labels" / "train" / "000000.txt").read_text().splitlines()
    assert len(labels) == len(plans[0].cls)
    values = np.array([line.split() for line in labels], dtype=float).reshape(-1, 5)
    assert ((values[:, 1:] > 0) & (values[:, 1:] <= 1)).all()


# How it measures.


def fake(prefetched: int) -> Subject:
    """A loader with a full queue of `prefetched` batches; each later one takes 5 ms."""
    telemetry = Telemetry()

    def batches() -> Iterator[Batch]:
        for turn in range(10_000):
            if turn >= prefetched:
                time.sleep(0.005)
                telemetry.add("render", 0.010)
            telemetry.count("decodes", 2)
            yield {"img": np.zeros((2, 3, 4, 4), np.uint8)}

    return Subject(batches(), prefetched=prefetched, read=telemetry.read)


class Parent:
    """The other end of a server's pipe: asks for one thing after another, keeps the answers."""

    def __init__(self, *messages: Any) -> None:
        self.messages, self.answers = [*messages, ("stop",)], []

    def recv(self) -> Any:
        return self.messages.pop(0)

    def send(self, answer: Any) -> None:
        self.answers.append(answer)


def served(
    subject: Subject, row: Row, *messages: Any, **more: Any
) -> tuple[list[Any], list[Batch]]:
    """What a server answers, and the batches that its consumer gets."""
    parent: Any = Parent(("start", row.id, 10.0), *messages)
    here = server.Server(parent, [(row, Task(None, 64, 2, 0))], lambda *_: subject)
    vars(here).update(more)
    batches = list(here)
    here.close()
    return parent.answers, batches


FOUR = Row("four", "yolodata", "four", "four", "raw", 4, 4)


def test_a_slice_leaves_out_what_was_ready_before() -> None:
    answers, _ = served(fake(prefetched=50), FOUR, ("slice", "four", 0.06, 0))
    sample = answers[-1][1]
    assert isinstance(sample, Sample)
    assert sample.pictures % (2 * 4) == 0  # whole turns of 4 workers
    assert sample.img_s < 2 / 0.005  # with the queue it would seem four times as fast
    assert sample.stages_ms["render"] == pytest.approx(5.0)
    assert sample.counts["decodes"] == pytest.approx(1.0)


def test_a_slice_leaves_out_what_is_slow_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock starts when all workers have taken a turn."""
    clock = {"now": 0.0, "slow": 0}

    def batches() -> Iterator[Batch]:
        while True:
            clock["now"] += 0.4 if clock["slow"] > 0 else 0.1
            clock["slow"] -= 1
            yield {"img": np.zeros((2, 3, 4, 4), np.uint8)}

    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    subject = Subject(batches(), workers=lambda: clock.update(slow=2) or ())
    answers, taken = served(subject, FOUR, ("slice", "four", 4.0, 0))
    sample = answers[-1][1]
    assert sample.steps % 4 == 0
    assert len(taken) == sample.steps + 4
    assert sample.img_s == pytest.approx(2 / 0.1)


def test_a_slice_has_the_steps_that_were_asked_for() -> None:
    """The consumer, who takes them, gets each batch."""
    trains = replace(FOUR, trains=True)
    answers, batches = served(
        fake(0), trains, ("slice", "four", 0.0, 3), warm_steps=2, describe=lambda: {"amp": True}
    )
    (_, ready), (_, sample) = answers
    assert ready["process"] == {"amp": True}
    assert (sample.steps, len(batches)) == (3, 2 + 3)
    assert 0.01 < sample.waited <= sample.seconds


def ready(brightness: float = 110, objects: float = 7, shape: Any = (3, 64, 64)) -> dict[str, Any]:
    return {"shape": shape, "dtype": "uint8", "brightness": (brightness, 2.0),
            "objects": (objects, 0.5), "pinned": True, "facts": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (ready(), None),
        (ready(brightness=114, objects=8), None),
        (ready(brightness=60), "brightness"),
        (ready(objects=1.0), "objects"),
        (ready(shape=(3, 32, 32)), "pictures"),
    ],
)
def test_unequal_work_is_noticed(other: dict[str, Any], word: str | None) -> None:
    found = [
        rounds.Measured(row, this)
        for row, this in zip(rows.loader_rows(1), [ready(), other], strict=False)
    ]
    complaints = results.same_work(found)
    assert bool(complaints) == (word is not None)
    assert word is None or word in complaints[0]


def test_rows() -> None:
    both = rows.loader_rows(4)
    assert len({row.id for row in both}) == len(both)
    assert [r.id for r in rows.choose(both, ["yolodata-*-4"])] == [
        "yolodata-jpeg-4",
        "yolodata-raw-4",
    ]
    assert [r.id for r in rows.choose(both, ["polygons-*"])] == [
        f"polygons-{row.id}" for row in both[:4]
    ]
    for row in both:
        peers = [other for other in both if other.id in row.peers]
        assert len(peers) == len(row.peers)
        assert all(peer.group == row.group for peer in peers)


def load(busy: float, ours: float, steal: float = 0.0) -> Load:
    """What the system says after two seconds."""
    return Load(at=2.0, busy=busy, ours=ours, steal=steal)


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (load(2.0, 2.0), (0.0, 0.0)),
        (load(3.0, 2.0, 0.5), (0.5, 0.25)),
        (load(1.99, 2.0), (0.0, 0.0)),  # clocks of 10 ms
        (load(0.0, 2.0), (None, None)),  # a container that does not see the machine
    ],
)
def test_what_others_do_is_what_is_left(after: Load, found: tuple[Any, Any]) -> None:
    assert after.since(Load(0.0, 0.0, 0.0, 0.0)) == found


def test_what_a_child_takes_is_ours_while_it_runs_and_when_it_is_gone() -> None:
    spin = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True); input()"
    before = Load.now()
    with subprocess.Popen(
        [sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running = Load.now()
        child.communicate(b"\n")
    gone = Load.now()
    for now in (running, gone):
        assert now.ours - before.ours > 0.3
        assert now.busy - before.busy > 0.3


def test_counted_images_count_what_is_put_in(tmp_path: Path) -> None:
    """In another process, too: as Ultralytics' workers have them."""
    from multiprocessing import get_context

    from yolodata.bench.loader_ultralytics import _CountedImages

    context = get_context("spawn")
    decodes = context.Value("q", 0)
    images = _CountedImages([None] * 4, decodes)
    images[1] = b"picture"
    images[1] = None
    assert decodes.value == 1
    child = context.Process(target=images.__setitem__, args=(2, b"picture"))
    child.start()
    child.join()
    assert decodes.value == 2


# A whole run.


OF_DATA = [row for row in rows.loader_rows(1) if row.labels == "boxes"]
"""The rows of a dataset whose labels are what they are."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run on somebody's own dataset wrote, said and left behind."""
    folder = tmp_path_factory.mktemp("bench")
    theirs = folder / "theirs"
    drawing.write(theirs, 12, 0, 2)
    before = tree_hash(theirs)
    arguments = ["--data", str(theirs / "data.yaml"), *TINY, "--only", "*-1", "--profile"]
    outputs = ["--json", str(folder / "out.json"), "--plot", str(folder / "out.png")]
    done = subprocess.run(
        [sys.executable, "-m", "yolodata.bench", *arguments, *outputs],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return {"done": done, "folder": folder, "unchanged": before == tree_hash(theirs)}


def test_a_run_prints_a_table(tiny: dict[str, Any]) -> None:
    done = tiny["done"]
    assert done.returncode == 0, done.stderr + done.stdout
    for row in OF_DATA:
        assert row.label in done.stdout
    # Twelve images: both sides have them in memory before the clock starts, but for a few that are
    # still being decoded then.
    for label in ("Ultralytics, no cache", "yolodata, JPEG shards"):
        assert re.search(rf"{label} \((already|partly) decoded\)", done.stdout)
        assert f"ALREADY DECODED: {label} (one core)" in done.stdout
    assert "raw shards (already" not in done.stdout
    for word in ("img/s", "decode", "render", "plan", "collate", "Floor", "consumer's calls"):
        assert word in done.stdout


def test_the_dataset_that_was_given_is_unchanged(tiny: dict[str, Any]) -> None:
    assert tiny["unchanged"]


def test_ratios_are_those_of_the_samples(tiny: dict[str, Any]) -> None:
    values = json.loads((tiny["folder"] / "out.json").read_text())
    assert values["benchmark"] == "loader"
    assert values["machine"]["cpu"]
    assert values["versions"]["ultralytics"]
    by_name = {row["name"]: row for row in values["rows"]}
    assert list(by_name) == [row.id for row in OF_DATA]
    for row in values["rows"]:
        speeds = row["img_s"]
        assert speeds["samples"] == [
            n / s for n, s in zip(row["pictures"], row["seconds"], strict=True)
        ]
        assert speeds["median"] == median(speeds["samples"])
        assert (speeds["min"], speeds["max"]) == (min(speeds["samples"]), max(speeds["samples"]))
        assert all(seconds >= 0.1 for seconds in row["seconds"])
    assert {(r["ours"], r["peer"]) for r in values["ratios"]} == {
        (row.id, peer) for row in OF_DATA for peer in row.peers
    }
    for ratio in values["ratios"]:
        ours, peer = by_name[ratio["ours"]]["img_s"], by_name[ratio["peer"]]["img_s"]
        quotients = [a / b for a, b in zip(ours["samples"], peer["samples"], strict=True)]
        assert ratio["samples"] == quotients
        assert ratio["median"] == median(quotients)
    for name in ("yolodata-raw-1", "yolodata-jpeg-1"):
        assert by_name[name]["stages_ms"]["render"] > 0
        assert by_name[name]["stages_ms"]["plan"] > 0
    for name in ("yolodata-jpeg-1", "ultralytics-none-1", "ultralytics-ram-1"):
        assert by_name[name]["counts"]["decodes"] < 0.9
    assert len(values["load"]["others"]["samples"]) in (0, len(values["rows"]))


def test_plot_is_a_picture(tiny: dict[str, Any]) -> None:
    import cv2

    image = cv2.imread(str(tiny["folder"] / "out.png"))
    assert image is not None
    assert image.std() > 5


# What the spread leaves open.


def compared(speeds: dict[str, list[float]], peer: str) -> dict[str, Any]:
    """A document with a row for each name, all of which are compared with `peer`."""
    found = [
        rounds.Measured(
            Row(name, "yolodata" if name != peer else "ultralytics", f"loader {name}", name,
                "raw", 1, 1, () if name == peer else (peer,)),
            samples=[Sample(seconds=1.0, pictures=round(speed)) for speed in each],
        )
        for name, each in speeds.items()
    ]  # fmt: skip
    begin = results.about("loader", imgsz=64, batch=2, rounds=5, seconds=1.0)
    return results.document(begin, {}, found)


PEER = [1000.0, 1100.0, 900.0, 1050.0, 950.0]


@pytest.mark.parametrize(
    ("ratios", "reason"),
    [
        ([3.0, 3.1, 2.9, 3.2, 2.8], None),
        ([0.30, 0.31, 0.29, 0.32, 0.28], None),  # slower, for certain
        ([1.02, 1.03, 1.02, 1.04, 1.03], None),  # little, but certain
        ([1.1, 1.2, 0.9, 1.3, 1.2], "5 rounds disagree about which is faster"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], "disagree"),
        ([1.01, 1.6, 1.2, 1.02, 1.9], "half of 5 rounds range over 0.58"),
        ([0.99, 0.6, 0.85, 0.98, 0.5], "half of 5 rounds range over"),
        ([2.0, 9.0, 4.0, 5.0, 7.0], "half of 5 rounds range over 3.00: it may be any"),
        ([3.0], "one round has no spread"),
    ],
)
def test_a_ratio_that_the_spread_makes_meaningless_is_marked(
    ratios: list[float], reason: str | None
) -> None:
    """In the report, in Markdown and on the chart; and none that is clear."""
    from yolodata.bench import plot

    ours = [ratio * peer for ratio, peer in zip(ratios, PEER, strict=False)]
    values = compared({"peer": PEER[: len(ratios)], "ours": ours}, "peer")
    shown = report.text(values), report.markdown(values), *plot._warnings(values)
    assert len(shown) == (2 if reason is None else 3)
    for text in shown:
        assert ("loader ours against loader peer (one core): " in text) == (reason is not None)
        assert reason is None or reason in text
    for text in shown[:2]:
        assert (") ?" in text) == (reason is not None)


@pytest.mark.parametrize(("codec", "decodes"), [("jpeg", 0.0), ("jpeg", 0.6), ("files", 0.6),
                                                ("jpeg", 1.0), ("files", 4.0), ("raw", 0.0),
                                                ("ram", 0.0)])  # fmt: skip
def test_a_row_that_does_not_decode_says_so(codec: str, decodes: float) -> None:
    """In the table of a terminal, in Markdown and on the chart; and no row that needs not to."""
    kind = "ultralytics" if codec in ("files", "ram") else "yolodata"
    values = compared({"peer": PEER, "ours": PEER}, "peer")
    values["rows"][1] |= {"kind": kind, "codec": codec, "counts": {"decodes": decodes}}
    marked = codec in ("jpeg", "files") and decodes < 0.9
    for text in (report.text(values), report.markdown(values), report.label(values["rows"][1])):
        assert ("loader ours (already decoded)" in text) == (marked and not decodes)
        assert ("loader ours (partly decoded)" in text) == (marked and decodes > 0)
    for text in (report.text(values), report.markdown(values)):
        assert (f"{decodes:.2f} decodes a picture while the clock ran" in text) == marked
        assert not decodes or f"{decodes:.2f}" in text


@pytest.mark.parametrize(
    ("others", "warned"), [([0.0, 0.02, 0.25], False), ([0.2, 0.3, 0.2], True), ([0, 0, 1], True)]
)
def test_a_busy_machine_is_warned_of(others: list[float], warned: bool) -> None:
    """Little is no warning; the usual or the worst round may be."""
    values = compared({"peer": PEER, "ours": PEER}, "peer")
    values["load"] |= {"others": results.spread(others), "steal": results.spread([0.01] * 3)}
    for text in (report.text(values), report.markdown(values)):
        assert "of 2 cores busy" in text or values["machine"]["cores_total"] != 2
        assert ("measure again on a quieter machine" in text) == warned


def test_the_chart_has_one_base_and_nothing_overlaps() -> None:
    """All texts and bars of a chart with long names, of which one row failed."""
    from matplotlib.text import Text

    from yolodata.bench import plot

    random = np.random.default_rng(0)
    speeds = {f"{'long ' * (i % 3 * 8)}{i}": (random.uniform(1, 20) * random.uniform(1, 9, 5))
              * 1000 for i in range(14)}  # fmt: skip
    values = compared({name: list(each) for name, each in speeds.items()}, next(iter(speeds)))
    values["rows"][3]["img_s"] = results.spread([])
    for count in (1, 14):
        figure = plot.draw(values | {"rows": values["rows"][:count]})
        figure.draw_without_rendering()
        unseen = {label for axes in figure.axes for label, at in zip(
                  axes.get_xticklabels(), axes.get_xticks(), strict=True)
                  if at > axes.get_xlim()[1]}  # fmt: skip
        texts = [text for text in figure.findobj(Text)
                 if text.get_visible() and text.get_text() and text not in unseen]  # fmt: skip
        boxes = [text.get_window_extent() for text in texts]
        boxes += [axes.get_window_extent() for axes in figure.axes]
        assert len(texts) > 3 * count
        width, height = figure.bbox.width, figure.bbox.height
        for i, box in enumerate(boxes):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert (box.x1 <= width, box.y1 <= height) == (True, True)
            assert not any(box.overlaps(other) for other in boxes[:i])
        words = " ".join(text.get_text() for text in texts)
        assert values["date"] in words
        assert values["machine"]["cpu"] in words
        assert ("failed" in words) == (count > 3)
        assert words.count("times as fast as") == (count > 1)
        assert all("img/s" in axes.get_xlabel() for axes in figure.axes)


# What it says when it cannot.


def test_a_failing_row_does_not_stop_the_others(tmp_path: Path) -> None:
    fine = Row("fine", "copy", "fine", "fine", "memory", 1, 1)
    broken = Row("broken", "yolodata", "broken", "broken", "raw", 1, 1, ("fine",))
    said: list[str] = []
    found = rounds.run(
        [broken, fine],
        lambda row: Task(tmp_path / "absent", 64, 2, 0),
        rounds.Plan(rounds=2, seconds=0.05),
        tmp_path,
        said.append,
    )
    assert found[0].error is not None
    assert "broken" in found[0].error
    assert "absent" in found[0].error
    assert any("left out" in line for line in said)
    assert len(found[1].samples) == 2
    assert results.document({"settings": {"imgsz": 64}}, {}, found)["ratios"] == []


def test_a_row_that_does_not_start_in_time_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others were measured before it was started, and are measured again without it."""

    class Stuck(session.Session):
        def __init__(self, jobs: Any, folder: Path) -> None:
            super().__init__(jobs, folder)
            if self.name == "stuck":
                os.kill(self._process.pid or 0, signal.SIGSTOP)

    monkeypatch.setattr(rounds, "Session", Stuck)
    monkeypatch.setattr(rounds, "_SAY_EVERY", 0.1)
    fine = Row("fine", "copy", "fine", "fine", "memory", 1, 1)
    stuck = Row("stuck", "ultralytics", "stuck", "stuck", "files", 1, 1)
    plan = rounds.Plan(rounds=2, seconds=0.05, start_limit=60)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if "measuring the others" in text:  # from now on, less time
            object.__setattr__(plan, "start_limit", 0.5)

    kept: list[list[int]] = []
    found = rounds.run(
        [stuck, fine],
        lambda row: Task(None, 64, 2, 0),
        plan,
        tmp_path,
        say,
        lambda results: kept.append([len(r.samples) for r in results]),
    )
    assert "did not start within 0.5 s" in (found[0].error or "")
    assert found[1].error is None
    assert len(found[1].samples) == 2
    assert kept[:2] == [[0, 0], [0, 1]]
    assert any("waiting for stuck" in line for line in said)
    assert any("fine is ready" in line for line in said)


def test_a_killed_child_is_reported(tmp_path: Path) -> None:
    row = Row("victim", "copy", "victim", "victim", "memory", 1, 1)
    here = session.Session([(row, Task(None, 64, 2, 0))], tmp_path)
    try:
        here.ask(180, "start", "victim", 60.0)
        assert here._process.pid is not None
        os.kill(here._process.pid, signal.SIGKILL)
        with pytest.raises(session.BenchError, match=r"victim: .*unexpectedly.*signal 9"):
            here.ask(120, "slice", "victim", 0.05, 0)
        with pytest.raises(session.BenchError, match="signal 9"):  # once and for all
            here.ask(120, "slice", "victim", 0.05, 0)
    finally:
        here.close()
    here.close()
    assert not here._process.is_alive()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--imgsz", "100"], ["multiple of 32", "100"]),
        (["--imgsz", "0"], ["--imgsz", "32 to", "got 0"]),
        (["--batch", "0"], ["--batch", "got 0"]),
        (["--rounds", "0"], ["--rounds", "got 0"]),
        (["--images", "8"], ["--batch", "8 images"]),
        (["--data", "no/such.yaml"], ["no/such.yaml", "does not exist"]),
        (["--only", "ultra-*"], ["ultra-*", "ultralytics-ram-1"]),
        (["--threads", "0"], ["--threads", "got 0"]),
        (["--plot", "chart"], ["--plot", ".png"]),
        (["--task", "pose"], ["pose", "--data"]),
        (["--augment", "zoom=2"], ["copy_paste", "'zoom=2'"]),
        (["--augment", "mixup=2"], ["mixup must be 0 to 1", "got 2"]),
        (["train", "--model", "yolo26n.pt"], ["--model", "yolo26n.pt", "YAML"]),
        (["train", "--steps", "0"], ["--steps", "1 to", "got 0"]),
        (["train", "--cores", "0"], ["--cores", "1 to", "got 0"]),
        (["train", "--seconds", "2"], ["--seconds", "--steps"]),
        (["train", "--only", "nothing"], ["nothing", "fixed-"]),
        (["train", "--device", "cuda"], ["--device cuda", "no CUDA device", "--device cpu"]),
        (["--model", "yolo26n.yaml"], ["--model", "train"]),
        (["--no-amp"], ["--amp", "train"]),
        (["--gpu-batch", "0"], ["--gpu-batch", "got 0"]),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "gpu", lambda: None)
    assert main(["bench", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("yolodata: ")
    for word in words:
        assert word in message


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nonsense"]) == 2
    assert "loader" in capsys.readouterr().err


def test_a_kept_folder_is_used_again_or_refused(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    wanted = data.Wanted(None, 4, 12, 64, seed=0)
    said: list[str] = []
    made = data.prepare(wanted, keep, {"files", "ram"}, said.append)
    assert made.facts["images"] == 4
    assert len(list((keep / "long" / "images" / "train").iterdir())) == 12
    assert "COCO" in made.facts["summary"]
    first = tree_hash(keep)
    assert data.prepare(wanted, keep, {"files", "ram"}, said.append) == made
    assert tree_hash(keep) == first
    with pytest.raises(ConfigError, match="empty folder"):
        data.prepare(data.Wanted(None, 5, 12, 64, seed=0), keep, {"files"}, said.append)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        data.prepare(wanted, tmp_path / "other", {"files"}, said.append)
    came = tmp_path / "came"  # with a dataset
    for name in ("set", "long", "set/labels/train.cache"):  # Ultralytics writes the last
        (came / name).parent.mkdir(parents=True)
        (came / "bench.json").write_bytes((keep / "bench.json").read_bytes())
        (came / name).symlink_to(tmp_path / "other")
        with pytest.raises(ConfigError, match=f"{name}: is a link.* --keep an empty folder"):
            data.prepare(wanted, came, {"files"}, said.append)
        shutil.rmtree(came)
    came.mkdir()
    (came / "bench.json").write_text("[" * 60_000)
    with pytest.raises(ConfigError, match=r"cannot be used .*; give --keep another one"):
        data.prepare(wanted, came, {"files"}, said.append)
    assert os.listdir(tmp_path / "other") == ["diary.txt"]


def test_no_file_is_copied_that_packing_would_not_read(tmp_path: Path) -> None:
    """A sparse one would fill the disk, and /dev/zero has no end."""
    source = write_yolo(tmp_path / "source", {"train": 3})
    wanted = data.Wanted(source, 9, 9, 64, seed=0)
    bad = tmp_path / "source" / "images" / "train" / "x.jpg"
    bad.symlink_to("/dev/zero")
    with pytest.raises(
        DatasetError, match=r"x\.jpg: picture or labels cannot be read: .*is a device"
    ):
        data.prepare(wanted, tmp_path / "keep", {"files"}, lambda _: None)
    bad.unlink()
    with bad.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DatasetError, match=r"x\.jpg: picture or labels .*has 1099511627776 bytes"):
        data.prepare(wanted, tmp_path / "keep", {"files"}, lambda _: None)


def test_other_tasks_are_measured_on_drawn_outlines(tmp_path: Path) -> None:
    """Both sides get masks, and the augmentation that was asked for."""
    made = data.prepare(
        data.Wanted(None, 6, 6, 64, 0, "segment"), tmp_path, {"ram", "raw"}, lambda _: None
    )
    augment = {"copy_paste": 1.0, "mixup": 1.0}
    for name in ("yolodata-raw-1", "ultralytics-ram-1"):
        row = next(row for row in rows.loader_rows(1) if row.id == name)
        row = replace(row, threads=min(row.threads, int("yolodata" in name)))
        subject = make(
            row, Task(made.by_codec[row.source], 64, 3, 0, (), "cpu", "segment", augment)
        )
        batch = next(subject.batches)
        assert batch["masks"].shape == (3, 16, 16)
        assert len(batch["cls"])
        subject.close()


def test_shards_can_be_measured_without_a_peer(tmp_path: Path) -> None:
    wanted = data.Wanted(None, 4, 4, 64, seed=0)
    made = data.prepare(wanted, tmp_path / "keep", {"raw"}, lambda _: None)
    shards = tmp_path / "keep" / "raw"
    assert made.by_codec["raw"] == shards / "train"
    for path in (shards, shards / "train"):
        assert data.imgsz_of(path) == 64
        again = data.prepare(data.Wanted(path, 4, 4, 64, 0), tmp_path, set(), lambda _: None)
        assert again.by_codec == dict.fromkeys(("raw", "raw-many"), shards / "train")
        assert [r.id for r in OF_DATA if again.serves(r)] == [
            "yolodata-raw-1",
            "copy-1",
        ]
        assert "give the dataset itself" in again.facts["summary"]


def test_table_names_failures() -> None:
    row = rows.loader_rows(1)[0]
    begin = {
        "benchmark": "loader",
        "machine": {"cpu": "C", "cores_usable": 1, "cores_total": 1, "os": "O"},
        "versions": {"python": "3"},
        "settings": {"imgsz": 64, "batch": 2, "rounds": 1, "seconds": 0.1},
    }
    found = [rounds.Measured(row, error="ultralytics-none-1: it broke")]
    values = results.document(begin, {}, found) | {"complaints": ["a is not b"]}
    text = report.text(values)
    assert "it broke" in text
    assert "failed" in text
    assert "NOT COMPARABLE: a is not b" in text
