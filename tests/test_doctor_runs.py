"""What the records of a run say about it: each loss that is in them, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from yolodata.doctor.finding import Finding
from yolodata.doctor.runs import examine_run, records
from yolodata.doctor.runs.records import read_run
from yolodata.errors import ConfigError
from yolodata.telemetry.step_row import COLUMNS, StepRow

STEP, EPOCHS, BATCHES = 40.0, 4, 120
Change = Callable[[StepRow], None]


def healthy(seed: int = 0, epochs: int = EPOCHS, batches: int = BATCHES) -> list[StepRow]:
    """Steps of about 40 ms, of which data, callbacks and other ranks take 1 ms each."""
    random = np.random.default_rng(seed)
    rows = []
    for step in range(1, epochs * batches + 1):
        epoch = (step - 1) // batches + 1
        begins = step > 1 and (step - 1) % batches == 0
        row = StepRow(
            step, epoch, 0.0, 16, STEP * random.normal(1, 0.05), 1.0, 400.0,
            gpu_busy=0.95, rss_mib=4000, private_mib=1500 + random.normal(0, 20),
            device_mib=9000, read_mib=500, device_wait_ms=0.0, storage_ms=0.0, decode_ms=0.5,
            plan_ms=0.1, render_ms=0.4, copy_ms=0.0, launch_ms=0.5, all_reduce_ms=1.0,
            straggler_ms=float(random.exponential(0.5)), callbacks_ms=1.0,
            validate_ms=500.0 * begins, save_ms=100.0 * begins,
        )  # fmt: skip
        if step <= 3 or begins:  # it compiles, and the loader begins
            row.step_ms *= 50 if step <= 3 else 4
        rows.append(row)
    return rows


def write(folder: Path, rows: Iterable[StepRow], rank: int = 0, ended: float = 5.0) -> Path:
    """Steps one after the other, the last so many seconds ago; a row's `time` is a pause."""
    folder.mkdir(exist_ok=True)
    rows, now = list(rows), 0.0
    for row in rows:
        now += row.time + 1e-3 * (row.step_ms + (row.validate_ms or 0) + (row.save_ms or 0))
        row.time = now
    for row in rows:
        row.time += time.time() - ended - now
    name = "steps.csv" if rank == 0 else f"steps.rank{rank}.csv"
    (folder / name).write_text(",".join(COLUMNS) + "\n" + "".join(row.line() for row in rows))
    return folder


def wait(part: str, ms: float) -> Change:
    """Steps take so much longer, because of a part of the loader's work."""

    def change(row: StepRow) -> None:
        row.step_ms += ms
        row.wait_ms += ms
        setattr(row, part, getattr(row, part) + ms)

    return change


def add(column: str, ms: float) -> Change:
    def change(row: StepRow) -> None:
        row.step_ms += ms
        setattr(row, column, getattr(row, column) + ms)

    return change


def every(number: int, change: Change) -> Change:
    def rarely(row: StepRow) -> None:
        if row.step % number == 7 % number:
            change(row)

    return rarely


def in_epoch_1(change: Change) -> Change:
    return lambda row: change(row) if row.epoch == 1 else None


def grow(column: str, mib: float) -> Change:
    return lambda row: setattr(row, column, getattr(row, column) + mib * row.step)


def between(column: str, ms: float) -> Change:
    return lambda row: setattr(row, column, ms) if getattr(row, column) else None


def pause(step: int, seconds: float) -> Change:
    def change(row: StepRow) -> None:
        row.time = seconds if row.step == step else row.time

    return change


def starve(row: StepRow) -> None:
    row.step_ms += 20
    row.gpu_busy, row.launch_ms = 0.65, 20.5


# What goes wrong, the cause, and how many times as fast a step would be.
FAULTS: dict[str, tuple[Change, str, float | None]] = {
    "storage": (wait("storage_ms", 60), "storage", 100 / 40),
    "decoding": (wait("decode_ms", 20), "decode", 60 / 40),
    "rendering": (wait("render_ms", 60), "cores", 100 / 50),
    "copies": (add("device_wait_ms", 10), "host_to_device", None),
    "decoding in bursts": (every(10, wait("decode_ms", 200)), "decode", None),
    "callbacks": (add("callbacks_ms", 10), "callbacks", 50 / 40),
    "launch": (starve, "launch", None),
    "stalls": (every(50, wait("decode_ms", 400)), "jitter", 48 / 40),
    "first epoch": (in_epoch_1(wait("storage_ms", 40)), "first_epoch", 80 / 40),
    "sums": (add("all_reduce_ms", 20), "slow_link", 60 / 50),
    "leak": (grow("private_mib", 2.0), "memory_growth", None),
    "leak on the GPU": (grow("device_mib", 6.0), "memory_growth", None),
    "saving": (between("save_ms", 12_000), "saving", None),
    "a restart": (pause(200, 120), "restarts", None),
}


def complaints(folder: Path) -> list[Finding]:
    return [finding for finding in examine_run(folder).findings if finding.complaint]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_loss_is_found_first_with_its_gain(tmp_path: Path, fault: str) -> None:
    change, cause, gain = FAULTS[fault]
    rows = healthy(seed=len(fault))
    for row in rows:
        change(row)
        if fault == "copies":
            row.copy_ms = row.device_wait_ms
    for rank in range(2):
        write(tmp_path / "run", rows if rank == 0 else healthy(9), rank)
    found = complaints(tmp_path / "run")
    assert {finding.cause for finding in found} == {cause}
    if gain is not None:
        assert found[0].gain == pytest.approx(gain, rel=0.1)
        assert found[0].lost_ms == pytest.approx(found[0].step_ms * (1 - 1 / gain), rel=0.15)


@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_has_no_complaint(tmp_path: Path, seed: int) -> None:
    """Nor one that is short, that runs, or whose ranks are several."""
    random = np.random.default_rng(seed)
    for rank in range(1 + seed % 3):
        epochs, batches = int(random.integers(1, 5)), int(random.integers(5, 200))
        write(tmp_path / "run", healthy(seed + 10 * rank, epochs, batches), rank)
    found = examine_run(tmp_path / "run")
    assert [finding for finding in found.findings if finding.complaint] == []
    assert found.measured["running"]
    parts = found.measured["step_parts_ms"]
    assert sum(parts.values()) == pytest.approx(found.measured["step_ms"], abs=0.01)


def test_a_profile_is_no_loss(tmp_path: Path) -> None:
    """It slows its steps, and the next one, in which it is written."""
    rows = healthy()
    for row in rows:
        if 200 <= row.step <= 206:
            row.step_ms += 200 + 3000 * (row.step == 206)
    folder = write(tmp_path / "run", rows)
    assert [finding.cause for finding in complaints(folder)] == ["jitter"]
    (folder / "yolodata.yaml").write_text("profile: 200-205\n")
    assert complaints(folder) == []


def test_two_losses_come_in_their_order(tmp_path: Path) -> None:
    """Without either, the loader would keep up less, or more; each says how much."""
    rows = healthy()
    for row in rows:
        wait("storage_ms", 40)(row)
        wait("decode_ms", 20)(row)
        add("callbacks_ms", 8)(row)
    first, second, third = complaints(write(tmp_path / "run", rows))
    assert [first.cause, second.cause, third.cause] == ["storage", "decode", "callbacks"]
    # 108 ms a step; 40 of 62 ms of the loader's work are storage.
    assert first.gain == pytest.approx(108 / (108 - min(61, 108 * 40 / 62)), rel=0.05)
    assert second.gain == pytest.approx(108 / (108 * (1 - 20.5 / 62)), rel=0.05)


@pytest.mark.parametrize("why", ["data", "callbacks", "arithmetic"])
def test_the_slow_rank_is_named_and_why(tmp_path: Path, why: str) -> None:
    for rank in range(4):
        rows = healthy(rank)
        for row in rows:
            row.step_ms += 30
            if rank != 2:
                row.straggler_ms = 30.0
            elif why == "data":
                row.wait_ms += 30
                row.decode_ms = 30
            elif why == "callbacks":
                row.callbacks_ms = 31
        write(tmp_path / "run", rows, rank)
    first = next(f for f in complaints(tmp_path / "run") if f.cause == "slow_rank")
    assert "rank 2" in first.title
    assert {"data": "more for data", "callbacks": "callbacks take", "arithmetic": "computes"}[
        why
    ] in first.evidence
    assert first.gain == pytest.approx(70 / 40, rel=0.1)


def test_ranks_that_wait_in_turns_have_no_slow_one(tmp_path: Path) -> None:
    for rank in range(2):
        rows = healthy(rank)
        for row in rows:
            row.step_ms += 20
            row.straggler_ms = 20.0 * (row.step % 2 == rank)
        write(tmp_path / "run", rows, rank)
    [found] = complaints(tmp_path / "run")
    assert (found.cause, found.gain) == ("uneven_ranks", pytest.approx(60 / 50, rel=0.05))


def test_another_loader_waits_for_something_unknown(tmp_path: Path) -> None:
    rows = healthy()
    for row in rows:
        row.step_ms += 40
        row.wait_ms += 40
        row.storage_ms = row.decode_ms = row.plan_ms = row.render_ms = row.copy_ms = None
    [found] = complaints(write(tmp_path / "run", rows))
    assert (found.cause, found.gain) == ("loader", pytest.approx(80 / 39, rel=0.05))
    assert "yolodata train" in found.knob.text


def test_steps_that_are_shorter_than_any_that_is_written_are_left_out(tmp_path: Path) -> None:
    """So that nothing is divided by next to nothing."""
    path = write(tmp_path, healthy()[:3]) / "steps.csv"
    head, *lines = (line.split(",") for line in path.read_text().splitlines())
    for line, tiny in zip(lines, ("1e-300", "9e-4"), strict=False):
        line[head.index("step_ms")] = tiny
    path.write_text("".join(",".join(line) + "\n" for line in (head, *lines)))
    assert read_run(tmp_path).leading["step"].tolist() == [3]


@pytest.mark.parametrize("column", ["wait_ms", "storage_ms", "callbacks_ms", "render_ms"])
def test_steps_that_are_nothing_but_loss(tmp_path: Path, column: str) -> None:
    """No gain is infinite; records may come from anywhere, with a part longer than the step."""
    rows = healthy()
    for row in rows:
        row.wait_ms = row.step_ms if column != "callbacks_ms" else 0.0
        row.storage_ms = row.decode_ms = row.plan_ms = row.render_ms = row.copy_ms = None
        setattr(row, column, 2 * row.step_ms)
    found = complaints(write(tmp_path / "run", rows))
    assert found
    assert all(1 < each.gain < 1001 for each in found if each.gain is not None)


def test_validation_is_worth_a_word_and_no_complaint(tmp_path: Path) -> None:
    rows = healthy()
    for row in rows:
        between("validate_ms", 5000)(row)
    found = examine_run(write(tmp_path / "run", rows))
    assert [finding.cause for finding in found.findings] == ["validation"]
    assert not found.findings[0].complaint
    assert found.measured["epochs"][0]["validation_s"] == pytest.approx(5)
    epoch = BATCHES * STEP * 1e-3 + 0.1
    assert found.findings[0].gain == pytest.approx((epoch + 5) / epoch, rel=0.05)


def test_the_checkpoints_are_old(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", healthy())
    file = folder / "checkpoints" / "a.ckpt"
    file.parent.mkdir()
    file.touch()
    assert complaints(folder) == []
    os.utime(file, (time.time() - 7200,) * 2)
    assert [finding.cause for finding in complaints(folder)] == ["checkpoints"]


def test_what_is_being_written_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    """Cut off anywhere: never an error, and never more steps than are there."""
    whole = write(tmp_path / "run", healthy(epochs=1, batches=12)) / "steps.csv"
    text = whole.read_bytes()
    lines = text.count(b"\n")
    for end in itertools.chain(range(0, len(text), 37), [len(text)]):
        whole.write_bytes(text[:end])
        found = examine_run(tmp_path / "run")
        rows = max(0, text[:end].count(b"\n") - 1)
        assert found.measured.get("steps_recorded", 0) == rows
        assert rows or "steps.csv has no step yet" in found.not_done[0]
    assert rows == lines - 1


def test_steps_that_a_resumed_run_took_again_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = healthy()
    again = [dataclasses.replace(row, step_ms=7.0) for row in rows[5:9]]
    write(tmp_path, rows[:9] + again + rows[9:])
    steps = read_run(tmp_path).leading
    assert steps["step"].tolist() == [row.step for row in rows]
    assert (steps["step_ms"][5:9] == 7).all()
    monkeypatch.setattr(records, "MOST", len(rows))
    with pytest.raises(ConfigError, match=rf"at most {len(rows):,} steps, got more"):
        read_run(tmp_path)


def test_rows_of_an_older_version(tmp_path: Path) -> None:
    """They lack columns; what they say is said, the rest is listed as missing."""
    old = COLUMNS[:12]
    lines = [",".join(old)]
    for row in healthy():
        wait("decode_ms", 40)(row)
        lines.append(",".join(row.line().split(",")[:12]))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "steps.csv").write_text("\n".join(lines) + "\n")
    found = examine_run(folder)
    assert [finding.cause for finding in found.findings] == ["loader"]
    assert "validation and saving: not recorded by that version" in found.not_done


def test_folders_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder; give the folder of a run"):
        examine_run(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"not the folder of a run: there is no steps\.csv"):
        examine_run(tmp_path)
    (tmp_path / "args.yaml").write_text("model: a\n: [")
    [steps, arguments] = examine_run(tmp_path).not_done
    assert "there is no steps.csv" in steps
    assert "args.yaml" in arguments
    (tmp_path / "steps.csv").write_text("")
    assert "has no step yet" in examine_run(tmp_path).not_done[0]
    (tmp_path / "steps.csv").write_bytes(b"name,price\nbread,2\n")
    with pytest.raises(ConfigError, match=r"first line must name the columns .*got 'name,price'"):
        examine_run(tmp_path)
    (tmp_path / "steps.csv").write_bytes(np.random.default_rng(0).bytes(4096) + b"\n")
    with pytest.raises(ConfigError, match="its first line must name the columns"):
        examine_run(tmp_path)
