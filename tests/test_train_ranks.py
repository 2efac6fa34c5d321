"""Two processes that train together: as one would, and as long as both live."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_notes
from training import (
    BATCHES,
    arguments,
    first_update,
    notes,
    prepare,
    together,
    train,
    yolodata_train,
)

from yolodata.telemetry.step_row import read_steps
from yolodata.train import trainer_for
from yolodata.train.distributed import launch

pytestmark = pytest.mark.early

CHILD = Path(__file__).with_name("train_child.py")
HANGS = r"rank 1 .* stalled: no progress for \d+ s, with a limit of \d+ s: it was "


def in_use() -> set[str]:
    """Files of /dev/shm that processes of this machine, which may be others' too, have mapped."""
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it has ended
            found |= set(re.findall(r"/dev/shm/(\S+)", maps.read_text()))
    return found


def left_in_shared_memory(before: set[str]) -> set[str]:
    """Files that came since, and stay: those of other work on this machine are gone some time."""
    deadline = time.monotonic() + 60
    while True:
        files = {entry.name for entry in os.scandir("/dev/shm") if entry.is_file()}
        left = files - before - in_use()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(1)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One start of the command line for all tests: what takes long is starting Python."""
    folder = prepare(tmp_path_factory.mktemp("ranks"))
    shm = set(os.listdir("/dev/shm"))
    values = arguments(
        folder, "frozen", epochs=4, multi_scale=0.0, val=False, resume="auto", nproc=2
    )
    ours = {"yolodata.stall": 12, "yolodata.callbacks": CHILD}
    done = yolodata_train({**values, **ours}, {"NOTES": str(folder)})
    ended = time.time()
    return folder, done, ended, left_in_shared_memory(shm)


@pytest.fixture(scope="module")
def alone(ran: Any) -> list[dict[str, Any]]:
    """The same run in one process."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FREEZE_BN", "1")
    return noted(ran[0], "one", patch, val=True)


def noted(folder: Path, name: str, patch: pytest.MonkeyPatch, **changed: Any) -> list[Any]:
    (folder / name).mkdir(exist_ok=True)
    patch.setattr(train_notes, "NOTES", folder / name)
    patch.setattr(train_notes, "RANK", 9)
    events = {e: getattr(train_notes, e) for e in ("on_train_start", "on_train_batch_end")}
    train(
        trainer_for("detect"),
        arguments(folder, name, epochs=4, multi_scale=0.0, **{"val": False, **changed}),
        events,
    )
    patch.undo()
    return notes(folder / name, 9)


def test_two_ranks_train_as_one(ran: Any, alone: list[dict[str, Any]]) -> None:
    folder, done, *_ = ran
    assert (folder / "two").is_dir(), done.stderr
    ranks = [notes(folder / "two", rank) for rank in range(2)]
    assert len(alone) == len(ranks[0]) == 4 * BATCHES
    for one, *both in zip(alone, *ranks, strict=True):
        assert together(both)[: len(one["fed"])] == one["fed"]
        for rank in both:  # each of them says what both lost
            assert rank["loss"] == pytest.approx(one["loss"], rel=1e-3)
            assert rank["mean"] == pytest.approx(one["mean"], rel=1e-3)


def test_two_ranks_log_what_one_process_logs(ran: Any, alone: list[dict[str, Any]]) -> None:
    """results.csv but for the time; the objects of a step, which the progress bar shows."""
    tables = [
        list(csv.DictReader((ran[0] / "runs" / name / "results.csv").open()))
        for name in ("one", "two")
    ]
    assert len(tables[0]) == len(tables[1]) == 4
    for one, two in zip(*tables, strict=True):
        one.pop("time"), two.pop("time")
        assert {"train/cls_loss", "val/box_loss", "metrics/mAP50(B)", "lr/pg0"} <= one.keys()
        assert {n: float(v) for n, v in two.items()} == pytest.approx(
            {n: float(v) for n, v in one.items()}, rel=1e-3, abs=2e-5
        )
    shown = [[step["shown"] for step in notes(ran[0] / "two")], [s["shown"] for s in alone]]
    assert shown[0] == shown[1]
    assert any(shown[0])


def test_the_late_rank_is_known_and_named(ran: Any) -> None:
    """Rank 1 is 250 ms late in each step of the last epoch; both know it, by steps.csv alone."""
    folder = ran[0] / "runs" / "two"
    files = [folder / "steps.csv", folder / "steps.rank1.csv"]
    steps = [list(read_steps(file)) for file in files]
    behind = [
        (first.epoch, first.straggler_ms - second.straggler_ms)
        for first, second in zip(*steps, strict=True)
    ]
    late, usual = (
        np.median([ms for e, ms in behind if (e == 4) == last]) for last in (True, False)
    )
    assert late - usual == pytest.approx(250, abs=125)  # others may keep the machine busy
    for rows in steps:
        for row in rows:
            parts = (row.wait_ms, row.callbacks_ms, row.all_reduce_ms, row.straggler_ms)
            assert all(part is not None and 0 <= part <= row.step_ms for part in parts)


def test_gradients_travel_only_before_an_update(ran: Any) -> None:
    steps = notes(ran[0] / "two", 1)
    reduced, pending, updates = 0, 0, 0
    for step in steps:
        pending += 1
        updated = pending >= step["accumulate"]
        assert step["reduced"] - reduced == int(updated)
        reduced, pending, updates = step["reduced"], 0 if updated else pending, updates + updated
    assert updates < len(steps) / 2


def test_parts_are_the_big_batch(ran: Any) -> None:
    """Four batches of two pictures on each of two ranks, one all-reduce; or sixteen at once."""
    folder, *_ = ran
    first_update(folder, "big", batch=16)
    whole, _ = torch.load(folder / "big-0.pt")
    for rank in range(2):
        parts, reduced = torch.load(folder / f"parts-{rank}.pt")
        assert reduced == 1
        for name, gradient in whole.items():
            torch.testing.assert_close(
                parts[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item()
            )
    assert all(gradient.abs().max() > 0 for gradient in whole.values())


def test_ranks_stay_together_after_a_dry_step(ran: Any) -> None:
    weights = [(ran[0] / f"dry-{rank}").read_text() for rank in range(2)]
    assert weights[0] == weights[1]


def test_one_rank_is_asked_to_stop_and_both_do(ran: Any) -> None:
    folder, *_ = ran
    for rank in range(2):
        assert (folder / f"stopped-{rank}").read_text() == "75"
        whole, parts = notes(folder / "two", rank), notes(folder / "stopped", rank)
        facts = [
            [(s["epoch"], s["batch"], s["fed"], s["loss"]) for s in run] for run in (whole, parts)
        ]
        assert facts[0] == facts[1]


def test_one_rank_is_asked_to_stop_in_validation_and_both_do(ran: Any) -> None:
    folder, *_ = ran
    said = (folder / "asked-0.txt").read_text()
    assert [(folder / f"asked-{rank}.status").read_text() for rank in range(2)] == ["75"] * 2, said
    [written] = (folder / "runs" / "asked" / "checkpoints").glob("*.ckpt")
    assert torch.load(written)["stage"] == "validate"
    where = "another rank was asked to stop: stopped while (validating|summing up the validation)"
    assert re.search(f"{where}; resume=auto goes on from {written}", said)


def test_torchruns_own_tracebacks_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rank that the system kills is named; one that was asked to stop has said so itself."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(75))\n"
        "if os.environ['RANK'] == os.environ['KILLED']:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ['KILLED'] == 'mistake':\n"
        "    raise SystemExit(2)\n"
        "if os.environ['KILLED'] == 'none':\n"
        f"    open({str(tmp_path)!r} + '/ready' + os.environ['RANK'], 'w')\n"
        "time.sleep(60)\n"
    )
    start = launch.command([], 2)
    monkeypatch.setattr(launch, "command", lambda *_: [*start[: start.index("-m", 2)], str(script)])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("KILLED", "1")
    assert launch.launch([], 2) == 128 + signal.SIGKILL
    said = capfd.readouterr().err
    assert re.fullmatch(r"yolodata: rank 1 \(process \d+\) ended by SIGKILL\n", said)
    monkeypatch.setenv("KILLED", "mistake")
    assert launch.launch([], 2) == 1
    assert capfd.readouterr().err == ""  # ranks say themselves what is wrong

    def ask() -> None:
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("KILLED", "none")
    threading.Thread(target=ask, daemon=True).start()
    assert launch.launch([], 2) == 75
    assert capfd.readouterr().err == "yolodata: SIGTERM: 2 processes are asked to stop\n"
    assert os.listdir(tmp_path / "temporary") == []


def test_unequal_data_ends_all_ranks(ran: Any) -> None:
    for rank in range(2):
        told = (ran[0] / f"unequal-{rank}").read_text()
        assert "images: 22 on rank 0, 11 on rank 1" in told


@pytest.mark.parametrize(
    ("name", "lost", "statuses", "reason"),
    [
        ("killed", 0, ["-9", "76"], r"rank 0 \(process .*\) died"),  # and the store with it
        ("hanging", 1, ["76", "76"], HANGS + "waiting for data at epoch 2"),
        ("failing", 1, ["76", "1"], "rank 1 failed: ValueError: mischief"),
        ("beginning", 1, ["76", "76"], HANGS + "waiting for data at epoch 1, batch 1"),
        ("validating", 1, ["76", "76"], HANGS + "validating"),
        ("busy", 1, ["76", "76"], HANGS + "in callbacks at epoch 2"),
    ],
)
def test_a_lost_rank_ends_all(
    ran: Any, name: str, lost: int, statuses: list[str], reason: str
) -> None:
    folder, *_ = ran
    ends = [folder / f"{name}-{rank}.status" for rank in range(2)]
    assert [file.read_text() for file in ends] == statuses
    said = [(folder / f"{name}-{rank}.txt").read_text() for rank in range(2)]
    assert re.search(f"rank {1 - lost} ends: .*{reason}", said[1 - lost]), said


@pytest.mark.parametrize("name", ["killed", "hanging"])
def test_all_are_gone_within_a_minute(ran: Any, name: str) -> None:
    """The promise of docs/training.md, of a third of its `stall`; frozen is below."""
    folder, *_ = ran
    ended = max(float((folder / f"{name}-{rank}.ended").read_text()) for rank in range(2))
    assert 0 < ended - float((folder / name / "mischief").read_text()) < 60


@pytest.mark.parametrize("what", ["worked", "waited"])
def test_a_rank_may_work_alone_for_long(ran: Any, what: str) -> None:
    """Itself, or its child: longer than one may hang."""
    assert (ran[0] / "busy" / what).is_file()


def test_the_command_line_trains_with_two_processes(ran: Any) -> None:
    folder, done, *_ = ran
    assert done.returncode == 76, done.stderr  # the rank's; torchrun itself ends with 1
    for rank in range(2):
        whole, begun = notes(folder / "two", rank), notes(folder / "frozen", rank)
        assert len(begun) == BATCHES + 4
        assert [step["fed"] for step in begun] == [step["fed"] for step in whole[: len(begun)]]
        assert begun[0]["loss"] == pytest.approx(whole[0]["loss"], rel=1e-3)


def test_a_frozen_rank_ends_all_and_leaves_nothing(ran: Any) -> None:
    folder, done, ended, shm = ran
    assert ended - float((folder / "frozen" / "mischief").read_text()) < 60
    told = [line for line in done.stderr.splitlines() if "no sign of life" in line]
    assert "rank 0 ends: rank 1 (process" in told[0]
    assert "the run ended: rank 1 (process" in done.stderr.splitlines()[-1]  # below torchrun's
    assert done.returncode != 0
    for file in folder.glob("*/[01].pid"):  # of all runs
        assert not Path(f"/proc/{file.read_text()}").exists()
    assert not shm


@pytest.mark.parametrize("name", ["halved", "killed"])
def test_goes_on_with_another_number_of_ranks(
    ran: Any, alone: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each sample once, counted over both runs; the losses are those of one run.

    Both were asked to stop in the second epoch; or the rank that writes was killed there.
    """
    folder, *_ = ran
    monkeypatch.setenv("FREEZE_BN", "1")
    later = noted(folder, name, monkeypatch, resume="auto")
    begun = (later[0]["epoch"], later[0]["batch"])
    if name == "halved":
        assert (1, 1) < begun <= (1, BATCHES)
    first = [(step["epoch"], step["batch"]) for step in alone].index(begun)
    assert 0 < first < len(alone)
    assert [step["fed"] for step in later] == [step["fed"] for step in alone[first:]]
    for one, other in zip(alone[first:], later, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
