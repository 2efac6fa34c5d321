"""The doctor's section on data: from paces to causes, and what an examination leaves untouched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from test_images_limits import HUNGRY, stating, with_scans

from yolodata.doctor import step as doctor_step
from yolodata.doctor.data import pace as measuring
from yolodata.doctor.data import sample
from yolodata.doctor.data.experiments import parts_ms
from yolodata.doctor.data.judgement import Measured, judge
from yolodata.doctor.data.loaders import FileLoader
from yolodata.doctor.data.others import Others
from yolodata.doctor.data.pace import Pace, ProcessTree, joined, mean_is_known, of_loader, of_step
from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import Finding, ranked
from yolodata.doctor.sections import examine
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import WaitingStep
from yolodata.errors import ConfigError, YolodataError

OWN = Pace(100.0, 100.0, 10)
LOOKS = sample.Looks(progressive=1.0, longer_side=3840.0, large=1.0)


def pace(step_ms: float, **values: float) -> Pace:
    return replace(Pace(step_ms, 100.0, 10), **values)


def measured(now: float, *, cold: float | None = None, **changed: float) -> Measured:
    """A loader of Ultralytics' as it is, and with things changed."""
    return Measured(
        "ultralytics", OWN, cold=pace(now if cold is None else cold), warm=pace(now),
        changed={name: pace(ms) for name, ms in changed.items()}, read_ms=50.0, batch=16,
        workers=2, workers_tried=4, cores=2, cores_tried=4, looks=LOOKS,
    )  # fmt: skip


def test_the_parts_of_a_step_add_up_to_it() -> None:
    own, copied = Pace(10.0, 10.0, 10), Pace(14.0, 14.0, 10)
    known = Measured("ultralytics", own, copied, warm=pace(50.0), changed={"decoded": pace(30.0)})
    parts = {"model": 10, "copy": 4, "storage": 0, "decode": 20, "augment": 16}
    assert parts_ms(known) == parts
    cold = replace(known, base="cold", cold=pace(100.0), read_ms=1.0, batch=10)
    assert parts_ms(cold) == {**parts, "storage": 13, "other": 37}
    random = np.random.default_rng(0)
    for base in ("warm", "cold") * 100:
        ms = random.uniform(5, 100, 5)
        changed = {"decoded": pace(ms[0])} if random.random() < 0.7 else {}
        tried = Measured(
            "ours", Pace(ms[1], ms[1], 9), Pace(ms[2], ms[2], 9), cold=pace(ms[3]),
            warm=pace(ms[4]), changed=changed, base=base, read_ms=random.choice([0.0, 2.0]),
        )  # fmt: skip
        assert tried.now is not None
        assert min(parts_ms(tried).values()) >= 0
        assert sum(parts_ms(tried).values()) == pytest.approx(tried.now.step_ms)


def worst_first(m: Measured) -> list[Finding]:
    return ranked(judge(m))


def test_a_loader_that_keeps_up_is_no_complaint_whatever_would_be_faster() -> None:
    found = worst_first(measured(102.0, cold=103.0, yolodata=100.0, small=100.0, workers=100.0))
    assert not [one for one in found if one.complaint], found


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ("cores", "cores"),
        ("workers", "workers"),
        ("baseline", "progressive_jpeg"),
        ("small", "large_images"),
    ],
)
def test_what_is_changed_with_effect_is_the_cause(changed: str, cause: str) -> None:
    """Another loader would bring more each time, and is no fault of this one."""
    found = worst_first(measured(200.0, **{changed: 125.0}, yolodata=100.0))
    assert found[0].cause == cause
    assert found[0].kind == "slow"
    assert found[0].gain == pytest.approx(1.6)
    assert found[0].lost_ms == pytest.approx(75.0)
    assert [one.cause for one in found if one.complaint] == [cause]


@pytest.mark.parametrize("changed", ["cores", "workers", "baseline", "small"])
def test_what_is_changed_without_effect_is_not_the_cause(changed: str) -> None:
    found = worst_first(measured(200.0, **{changed: 196.0}, yolodata=100.0))
    assert [one.cause for one in found] == ["cpu_loader"]
    assert found[0].complaint
    assert found[0].gain == pytest.approx(2.0)


def test_a_loss_within_the_error_of_a_few_steps_is_none() -> None:
    few = measured(108.0, yolodata=100.0)
    assert worst_first(few)[0].complaint
    vague = replace(few, warm=pace(108.0, error_ms=4.0))
    assert not [one for one in worst_first(vague) if one.complaint]
    assert worst_first(replace(vague, warm=pace(130.0, error_ms=4.0)))[0].complaint


def test_the_larger_of_two_losses_comes_first() -> None:
    found = worst_first(measured(200.0, cold=400.0, workers=150.0))
    assert [one.cause for one in found][:2] == ["storage", "workers"]
    found = worst_first(measured(200.0, cold=240.0, workers=110.0))
    assert [one.cause for one in found][:2] == ["workers", "storage"]


def test_storage_costs_no_more_than_its_reads_take() -> None:
    """A difference that reads cannot explain is one of the moment, not of the disk."""
    slow = measured(100.0, cold=200.0)
    assert worst_first(slow)[0].cause == "storage"
    assert worst_first(slow)[0].gain == pytest.approx(2.0)
    assert not worst_first(replace(slow, read_ms=0.1))


def test_a_loss_of_the_first_epoch_alone_has_to_be_larger() -> None:
    slow = measured(100.0, cold=110.0)
    assert not worst_first(slow)
    every = worst_first(replace(slow, fits=False))
    assert every[0].cause == "storage"
    assert not every[0].first_epoch


def test_a_quota_is_judged_by_the_processor_time_that_batches_take() -> None:
    throttled = pace(300.0, cpu_ms=240.0, main_ms=4.0)
    m = replace(measured(300.0), cold=throttled, warm=throttled, quota=0.8)
    found = worst_first(m)
    assert found[0].cause == "quota"
    assert found[0].gain == pytest.approx(300 / 120, rel=0.02)  # 240 ms on two cores
    assert not found[0].measured
    assert "quota" not in [one.cause for one in worst_first(replace(m, quota=2.0))]


@pytest.mark.parametrize("after", [205.0, 195.0])
def test_another_loader_that_brings_nothing_is_not_advised(after: float) -> None:
    (found,) = worst_first(measured(200.0, yolodata=after))
    assert (found.cause, found.kind, found.gain) == ("cpu_loader", "slow", None)
    assert found.knob.settings == {}
    assert found.lost_ms is not None
    assert found.lost_ms > 0
    assert f"{after} ms with yolodata's loader" in found.evidence


def test_a_quota_that_hides_too_few_workers_explains_what_both_cost() -> None:
    """One worker more would bring nothing within the quota; another loader would, as always."""
    throttled = pace(500.0, cpu_ms=300.0, main_ms=4.0)
    m = replace(
        measured(500.0, workers=510.0, yolodata=100.0), cold=throttled, warm=throttled, quota=0.6,
        workers=0,
    )  # fmt: skip
    found = worst_first(m)
    assert [one.cause for one in found if one.complaint] == ["quota"]
    assert found[0].gain == pytest.approx(500 / 400, rel=0.02)
    # Without a limit it is the loader that takes so much time.
    assert worst_first(replace(m, quota=None))[0].cause == "cpu_loader"


def test_processor_time_that_is_not_known_explains_nothing() -> None:
    """Of a loader within the process that trains, it is not told from the step's."""
    m = replace(measured(200.0, workers=180.0, yolodata=100.0), quota=1.0)
    assert [one.cause for one in worst_first(m) if one.complaint] == ["cpu_loader", "workers"]


def test_where_a_process_trains_its_children_alone_are_the_loader() -> None:
    deadline = time.process_time() + 0.05
    trained, waited = (ProcessTree(with_own=own) for own in (False, True))
    while time.process_time() < deadline:
        pass
    assert trained.seconds()[1] == 0.0
    assert trained.seconds()[0] + 0.03 <= waited.seconds()[0]


def test_others_on_the_same_cores_are_named() -> None:
    busy = replace(measured(102.0), others=1.5)
    assert [one.cause for one in worst_first(busy)] == ["busy_machine"]
    assert not worst_first(replace(busy, others=0.2))


def test_a_loop_in_another_process_is_others_and_one_in_this_is_not() -> None:
    spin = "import time\nend = time.time() + 0.6\nwhile time.time() < end: pass"
    counted = Others()
    with subprocess.Popen([sys.executable, "-c", spin]):
        time.sleep(0.4)
        foreign = counted.cores()  # it runs still
    own = counted.cores()  # it is a child that has ended
    assert foreign > own


@dataclass
class Queue:
    """A loader whose first batches were made before anybody asked."""

    ready: int
    made_ms: float
    producers: int = 0

    def __post_init__(self) -> None:
        self.prefetched = self.ready
        self.batches = self._endless()

    def _endless(self) -> Iterator[dict[str, Any]]:
        slow = WaitingStep(self.made_ms)
        for number in range(10_000):
            if number >= self.ready:
                slow({})
            yield {}

    def close(self) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes where somebody sleeps, and nowhere else."""

    def sleep(seconds: float) -> None:
        clock.now += seconds

    clock = SimpleNamespace(
        now=0.0, sleep=sleep, perf_counter=lambda: clock.now, thread_time=lambda: 0.0
    )
    for module in (measuring, doctor_step):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_what_was_prefetched_does_not_make_a_loader_faster(clock: SimpleNamespace) -> None:
    found = of_loader(Queue(ready=20, made_ms=20.0), WaitingStep(1.0), 1.0, 0.05)
    assert found.step_ms == pytest.approx(21.0)
    assert found.waiting > 0.9


def test_a_step_beside_a_quota_counts_by_its_mean(clock: SimpleNamespace) -> None:
    """Else a loader would seem to wait: its steps count by their mean."""

    class Step(WaitingStep):
        """Takes one period, or two; once, the machine did something else."""

        made = 0

        def __call__(self, batch: Any) -> None:
            self.made += 1
            clock.sleep(2.0 if self.made == 50 else (0.116, 0.116, 0.180)[self.made % 3])

    found = of_step(Step(1.0), {}, 8.0)
    assert found.own_ms == pytest.approx(412 / 3, rel=0.03)


def test_a_step_that_waits_hides_what_others_make_meanwhile(clock: SimpleNamespace) -> None:
    found = of_loader(Queue(0, made_ms=50.0, producers=2), WaitingStep(20.0), 20.0, 0.3)
    assert found.step_ms == found.alone_ms == pytest.approx(50.0)
    assert found.batches % 2 == 0


def test_a_step_waits_until_its_batch_is_handed_over(clock: SimpleNamespace) -> None:
    found = of_loader(Queue(0, made_ms=6.0, producers=2), WaitingStep(30.0), 30.0, 0.3)
    assert found.alone_ms == pytest.approx(6.0)
    assert found.step_ms == pytest.approx(36.0)


def test_what_was_drained_makes_a_loader_no_slower(clock: SimpleNamespace) -> None:
    """Whoever drained it leaves nothing ready, which is so once."""

    class Prefetching(Queue):
        """Makes a batch while the step waits."""

        def _endless(self) -> Iterator[dict[str, Any]]:
            asked = clock.now
            while True:
                clock.sleep(max(0.0, self.made_ms / 1e3 - (clock.now - asked)))
                asked = clock.now
                yield {}

    found = of_loader(Prefetching(0, made_ms=60.0, producers=1), WaitingStep(80.0), 80.0, 0.4)
    assert found.step_ms == pytest.approx(80.0)


def test_a_mean_that_is_known_takes_no_more_time(clock: SimpleNamespace) -> None:
    of_loader(Queue(0, made_ms=2.0, producers=1), WaitingStep(0.5), 0.5, 10.0)
    assert 3.0 < clock.now < 9.0


@pytest.mark.parametrize(
    ("each_ms", "turn", "known"),
    [
        ([10.0] * 24, 2, True),
        ([10.0] * 22, 2, False),  # few turns
        ([2.0, 18.0] * 12, 2, True),  # producers deliver in turns
        ([2.0, 18.0] * 12, 1, False),
        ([8.0, 12.0] * 300, 1, True),
    ],
)
def test_a_mean_is_known_when_its_error_is_small(
    each_ms: list[float], turn: int, known: bool
) -> None:
    assert mean_is_known(each_ms, turn) == known


def test_two_measurements_of_the_same_count_by_their_batches() -> None:
    one = pace(100.0, cpu_ms=8.0, error_ms=8.0)
    found = joined(one, replace(pace(200.0, cpu_ms=4.0, error_ms=2.0), batches=30))
    assert (found.step_ms, found.cpu_ms, found.batches) == (175.0, 5.0, 40)
    assert found.error_ms == pytest.approx(2.5)  # of 80 and 60, by 40
    assert found.alone_ms is None


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twelve drawn pictures of 96 x 64, half of them progressive JPEG files."""
    rng = np.random.default_rng(0)
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for number in range(12):
        corners = rng.integers(0, 256, (2, 3, 3), np.uint8)
        picture = Image.fromarray(corners).resize((96, 64), Image.Resampling.BICUBIC)
        picture.save(images / f"{number}.jpg", progressive=number % 2 == 0)
        (labels / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    file = tmp_path / "data.yaml"
    file.write_text(
        yaml.safe_dump({"path": str(tmp_path), "train": "images", "val": "images", "names": ["a"]})
    )
    return file


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in folder.rglob("*")
    }


@pytest.mark.parametrize("loader", ["ultralytics", "yolodata"])
def test_an_examination_measures_and_leaves_the_dataset_alone(dataset: Path, loader: str) -> None:
    before = files(dataset.parent)
    arguments = {"batch": 4, "imgsz": 64, "workers": 1}
    setup = Setup(str(dataset), arguments, loader, step_ms=1.0, seconds=2.0)
    outcome: Outcome = examine(setup, ["data"]).outcomes["data"]
    assert files(dataset.parent) == before
    paces = outcome.measured["step_ms"]
    assert {"constant_batch", "as_is", "as_is_cold"} <= paces.keys()
    assert all(ms >= 1.0 for ms in paces.values())
    assert outcome.measured["timeline"]["step_ms"]
    if loader == "ultralytics":
        assert outcome.measured["looks"]["progressive"] == 0.5


def test_the_codec_that_is_asked_for_is_examined(dataset: Path) -> None:
    arguments, settings = {"batch": 4, "imgsz": 64}, {"codec": "jpeg", "threads": 1}
    setup = Setup(str(dataset), arguments, step_ms=1.0, seconds=2.0, settings=settings)
    assert setup.examined_loader == "yolodata"
    outcome = examine(setup, ["data"]).outcomes["data"]
    assert outcome.measured["workers"] == 1
    paces = outcome.measured["step_ms"]
    assert "raw" in paces  # what there is to gain from
    with pytest.raises(ConfigError, match="takes no settings of yolodata"):
        Setup(str(dataset), arguments, "ultralytics", settings=settings)


def test_what_packing_leaves_out_is_not_copied(dataset: Path, tmp_path: Path) -> None:
    """Decoding it might take all memory, or for ever."""
    images = dataset.parent / "images"
    for k, kind in enumerate(("jpg", "png", "tif")):
        name, data = stating(kind, 16000, 16001)
        (images / f"z{k}{name}").write_bytes(data)
    (images / "scans.jpg").write_bytes(with_scans(101))
    os.mkfifo(images / "pipe.jpg")
    os.mkfifo(dataset.parent / "labels" / "3.txt.pipe")
    (dataset.parent / "labels" / "3.txt.pipe").replace(dataset.parent / "labels" / "3.txt")
    (images / "bomb.jp2").write_bytes(HUNGRY["precincts"])
    (images / "text.jpg").write_text("no picture")
    with (images / "sparse.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8L")
        file.truncate(1 << 40)
    paths = [str(path) for path in images.iterdir()]
    copies = sample.copy(paths, tmp_path / "copies", 0, seconds=5.0)
    assert len(copies.files) == 12
    # Nor is upstream's loader told of it, which waits for a FIFO. Scans take time alone.
    told = {Path(path).name for path in sample.readable(paths)}
    assert len(told - {"scans.jpg"}) == 12


def test_upstream_is_told_of_no_file_that_it_would_not_end_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow reads all of a WebP file to open it, and of a sparse one there may be a terabyte."""
    sparse, pipe, good = (tmp_path / name for name in ("sparse.webp", "pipe.jpg", "good.jpg"))
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(pipe)
    with monkeypatch.context() as patched:
        patched.setattr(sample, "open_picture", lambda _: pytest.fail("it is opened"))
        assert sample.readable([str(sparse)]) == []
    cv2.imwrite(str(good), np.zeros((32, 32, 3), np.uint8))
    loader = FileLoader.__new__(FileLoader)
    vars(loader).update(_setup=SimpleNamespace(seed=0), _copies=SimpleNamespace(files=[tmp_path]))
    loader._told = [str(pipe), str(good), str(sparse)]
    assert loader._forgotten() == [str(good)]
    loader._told = [str(pipe)]
    assert loader._forgotten() == [str(tmp_path)]


def test_pictures_stored_in_another_way_are_the_same_pictures(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stored")
    paths = sorted(str(path) for path in (dataset.parent / "images").glob("*.jpg"))
    copies = sample.copy(paths, folder / "copies", seed=0, seconds=5.0)
    assert len(copies.files) == 12
    baseline = sample.as_baseline(copies.files, folder / "baseline")
    assert sample.look(copies.files, 64).progressive == 0.5
    assert sample.look(baseline, 64).progressive == 0.0
    for file, other in zip(copies.files, baseline, strict=True):
        # The quantisation stays, so that decoding and encoding once more changes little.
        difference = cv2.absdiff(cv2.imread(str(file)), cv2.imread(str(other)))
        assert difference.mean() < 2.0
    small = sample.as_small(copies.files, folder / "small", 48)
    assert {cv2.imread(str(file)).shape[:2] for file in small} == {(32, 48)}
    assert sample.look(copies.files, 48).large == 1.0


def test_mistakes_are_said_in_a_sentence(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not there; give a dataset YAML"):
        Setup(str(tmp_path / "no.yaml"))
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"pipe\.yaml: is neither a file nor a folder; give"):
        Setup(str(tmp_path / "pipe.yaml"))
    with pytest.raises(ConfigError, match="batch must be a whole number of pictures"):
        _ = Setup(str(dataset), {"batch": -1}).batch
    with pytest.raises(ConfigError, match="loader must be one of"):
        Setup(str(dataset), loader="torch")
    for file in (dataset.parent / "images").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(YolodataError):
        examine(Setup(str(dataset), {"imgsz": 64}, step_ms=1.0, seconds=2.0), ["data"])
