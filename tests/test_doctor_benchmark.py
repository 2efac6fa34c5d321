"""`benchmarks/doctor.py` judges rightly: on given figures, with wrong ones that must fail."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("doctor")


def finding(cause: str, gain: float | None = None, kind: str = "slow") -> dict[str, Any]:
    return {"cause": cause, "gain": gain, "kind": kind, "complaint": kind != "opportunity"}


def row(*findings: dict[str, Any], **truth: float) -> dict[str, Any]:
    """A run, with true gains by cause."""
    return {
        "fault": "storage",
        "seed": 3000,
        "seeds": "checking",
        "findings": list(findings),
        "complaints": [one["cause"] for one in findings if one["complaint"]],
        "truth": {name: {"before": [100 * gain], "after": [100.0]} for name, gain in truth.items()},
        "failed": "",
        "error": "",
        "fake": False,
    }


@pytest.mark.parametrize(
    ("findings", "cause", "gain"),
    [
        ([finding("storage", 2.0)], True, True),
        ([finding("storage", 2.38)], True, True),
        ([finding("storage", 2.5)], True, False),  # 25 % more than mending brings
        ([finding("storage", 1.5)], True, False),
        ([finding("storage")], True, False),  # nothing predicted
        ([finding("cores", 2.0)], False, False),
        ([finding("cores", 3.0), finding("storage", 2.0)], False, True),
        ([], False, False),
    ],
)
def test_cause_and_gain(
    doctor: ModuleType, findings: list[dict[str, Any]], cause: bool, gain: bool
) -> None:
    verdict = doctor.judge(row(*findings, storage=2.0), "storage")
    assert (verdict.void, verdict.cause, verdict.gain) == ("", cause, gain)


def test_what_is_not_about_time_has_no_gain(doctor: ModuleType) -> None:
    verdict = doctor.judge(row(finding("overlap", kind="risk")), "overlap")
    assert (verdict.cause, verdict.gain) == (True, None)
    refuted = row(finding("out_of_memory", kind="breaks")) | {"broken": "batch=8 was killed"}
    assert not doctor.judge(refuted, "out_of_memory").cause


def test_healthy(doctor: ModuleType) -> None:
    opportunity = finding("cpu_loader", 1.2, "opportunity")
    assert doctor.judge(row(opportunity), "").cause
    assert not doctor.judge(row(finding("cores", 1.1)), "").cause
    assert not doctor.judge(row() | {"error": "status 2: it crashed"}, "").cause
    ill = doctor.judge(
        row(finding("cores", 1.1)) | {"truth": {"": {"before": [9], "after": [8]}}}, ""
    )
    assert "1.12 times" in ill.void  # the set-up was not what it should be


def test_a_run_that_says_nothing_is_void(doctor: ModuleType) -> None:
    assert "no more than 1.05" in doctor.judge(row(storage=1.05), "storage").void
    failed = row(finding("storage", 2.0)) | {"failed": "the disk is full"}
    assert doctor.judge(failed, "storage").void == "the disk is full"
    beside = row(finding("storage", 2.0), storage=2.0) | {"busy_cores": 1.0}
    assert "1.00 cores busy" in doctor.judge(beside, "storage").void
    moving = row(finding("storage", 2.0)) | {"truth": {"": {"before": [200, 270], "after": [100]}}}
    assert "took 200 ms, and 270" in doctor.judge(moving, "storage").void
    learning = row(finding("overlap", kind="risk")) | {"busy_cores": 1.0}
    assert not doctor.judge(learning, "overlap").void  # nothing of it is a time


def test_of_two_faults_the_larger_comes_first(doctor: ModuleType) -> None:
    both = [finding("storage", 2.0), finding("cores", 1.5)]
    assert doctor.judge(row(*both, storage=2.0, cores=1.5), "*").cause
    assert not doctor.judge(row(*both[::-1], storage=2.0, cores=1.5), "*").cause
    tied = doctor.judge(row(*both[::-1], storage=2.0, cores=1.9), "*")
    assert tied.cause
    assert tied.gain is False  # 1.5, where cores bring 1.9


class Broken:
    """A fault of which nothing is measured."""

    cause = "storage"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        return {"ms": rng.random()}

    @contextmanager
    def inject(self, severity: dict[str, Any], folder: Path) -> Iterator[Any]:
        if self.cause == "shm":
            raise PermissionError("only root may")
        fault = import_module("doctor_faults.fault")
        truth = fault.Truth([190.0, 210.0], [100.0])
        yield fault.Case([], truth=lambda: truth, facts={"ms": 7})


def test_runs_accumulate(
    doctor: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = Broken()
    forbidden.cause = "shm"
    faults = {"storage": Broken(), "shm": forbidden, "nccl": Broken()}
    out = tmp_path / "out.json"
    gains = iter((2.0, 2.5, 2.0))

    def examined(*_: Any) -> dict[str, Any]:
        made = row(finding("storage", next(gains)) | {"settings": {}})
        return {key: made[key] for key in ("findings", "complaints", "error", "fake")}

    monkeypatch.setattr(doctor, "all_faults", lambda: faults)
    monkeypatch.setattr(doctor, "examined", examined)
    monkeypatch.setattr(doctor, "busy_cores", lambda: 0.0)
    about = {"date": "2026-11-28", "machine": {}, "versions": {"commit": "0123"}}
    monkeypatch.setattr(doctor.results, "about", lambda name: dict(about))
    told = ["doctor.py", "--json", str(out), "--only", "storage", "--only", "shm"]
    monkeypatch.setattr(sys, "argv", [*told, "--runs", "2"])
    assert doctor.main() == 1  # the second gain
    monkeypatch.setattr(sys, "argv", [*told, "--runs", "1", "--tuning"])
    assert doctor.main() == 1
    document = json.loads(out.read_text())
    assert [(one["seeds"], one["seed"]) for one in document["rows"]] == [
        ("checking", doctor.CHECKING[0]), ("checking", doctor.CHECKING[1]), ("tuning", 0),
    ]  # fmt: skip
    assert document["rows"][0]["facts"] == {"ms": 7}
    assert [one["invocation"] for one in document["rows"]] == [0, 0, 1]
    text = doctor.summary(document, faults, "checking")
    assert "2 of 2" in text
    assert "1 of 2" in text
    assert "Never run with checking seeds: shm (PermissionError: only root may); nccl" in text


def test_faults_are_drawn_from_their_seeds_alone(doctor: ModuleType) -> None:
    assert not set(doctor.TUNING) & set(doctor.CHECKING)
    faults = doctor.all_faults()
    data = {"storage", "cores", "quota", "workers", "progressive_jpeg", "large_images"}
    assert data | {f"{name} and another" for name in data} <= set(faults)
    for name, fault in faults.items():
        first, again, other = (fault.draw(random.Random(f"{name} {n}")) for n in (1, 1, 2))
        assert first == again
        assert json.loads(json.dumps(first)) == first
        assert first != other or not first, f"{name}: severity does not vary"


SLOW = """
import sys, time
from pathlib import Path
from doctor_faults.slow_disk import slow
folder = Path(sys.argv[1])
def ms():
    start = time.perf_counter()
    assert (folder / "a").read_bytes() == b"a" * 200_000  # two requests
    return 1e3 * (time.perf_counter() - start)
with slow(folder, 30.0, 1000.0):
    assert sorted(file.name for file in folder.iterdir()) == ["a", "b"]
    assert (folder / "b").stat().st_mtime_ns == int(sys.argv[2])
    assert not (folder / "c").exists()
    latency, again = ms(), ms()
with slow(folder, 0.0, 2.0):
    link = ms()
assert 60 <= latency, latency
assert again < 30, again  # of the page cache
assert 100 <= link, link
assert ms() < 30
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"
)
def test_slow_disk(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 200_000)
    (tmp_path / "b").write_bytes(b"")
    mtime = str((tmp_path / "b").stat().st_mtime_ns)
    done = subprocess.run(
        [sys.executable, "-c", SLOW, str(tmp_path), mtime],
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr:
        pytest.skip("this container may not mount")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
