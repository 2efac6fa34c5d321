"""A packer that dies or whose disk is full leaves nothing half valid, and can be continued."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shard_samples
import xxhash

import yolodata.shards as shards
from yolodata.errors import ShardError
from yolodata.folders import Folder
from yolodata.ingest.packing import codec_of
from yolodata.shards import recovery
from yolodata.shards.lock import storage_error
from yolodata.shards.writer import sweep

HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """In memory where possible: thousands of fsyncs, whose effect no test can see, take minutes."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


def run_child(mode: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(HERE / "shard_crash_child.py"), mode, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.parametrize(
    ("mode", "least"), [("calls", 200), ("calls-shards", 120), ("random", 30), ("limit", 4)]
)
def test_continues_after_a_kill_byte_for_byte(folder, mode, least):
    """calls: at every system call, with torn writes and lost tails; shards: with no records but
    those of complete shards; random: kill -9 at any time; limit: the kernel refuses a write."""
    result = run_child(mode, folder)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= least


def test_a_kill_costs_what_was_stored_since_the_last_record(folder):
    """With a record after every sample, the one that is being recorded; else a shard of five."""
    for mode, least, most in (("recorded", 7, 8), ("recorded-shards", 0, 5)):
        result = run_child(mode, folder / mode)
        assert result.returncode == 0, result.stderr
        assert least <= int(result.stdout) <= most


def test_the_kill_test_notices_lost_bytes(folder):
    result = run_child("calls-forget", folder)
    assert result.returncode != 0
    assert "differs from a clean pack" in result.stderr or "cannot be continued" in result.stderr


def test_disk_full_at_any_write(folder, monkeypatch):
    """No space at the n-th write: an error that says so, then the same dataset after going on."""
    shard_samples.pack(folder / "clean")
    clean = shard_samples.contents(folder / "clean")
    out = folder / "out"
    errors = []
    for call in range(1, 1000, 5):
        left = [call]

        def no_space(original, left=left):
            def call_or_fail(*args):
                left[0] -= 1
                if left[0] <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return original(*args)

            return call_or_fail

        with monkeypatch.context() as patch:
            for name in ("write", "pwrite", "fsync"):
                patch.setattr(os, name, no_space(getattr(os, name)))
            try:
                shard_samples.pack(out)
            except ShardError as error:
                errors.append(error)
        if left[0] > 0:
            break
        whole = (out / "dataset.json").exists()  # only its folder could not be synced
        if whole:
            shards.open(out).close()
        else:
            with pytest.raises(ShardError):
                shards.open(out)
        shard_samples.pack(out, overwrite=whole)
        assert shard_samples.contents(out) == clean, f"write {call}"
        for file in out.iterdir():
            file.unlink()
    assert len(errors) > 10
    for error in errors:
        assert error.errno == errno.ENOSPC
        assert "No space left" in str(error)
        assert "continues where it stopped" in str(error)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to_needs_more_than_another_try(folder, number):
    said = str(storage_error(folder, OSError(number, os.strerror(number), str(folder / "x"))))
    assert f"{os.strerror(number)}; choose another folder, or get the right to write" in said


def test_a_file_system_without_direct_writes(folder, monkeypatch):
    """It may say so when a file is opened, at a write, or after a part of one: equal bytes."""
    shard_samples.pack(folder / "clean")
    opened, written = os.open, os.pwrite
    refusals = []
    try:
        os.close(os.open(folder / "clean" / "dataset.json", os.O_RDONLY | os.O_DIRECT))
        direct = True
    except OSError:
        direct = False

    def refuse(flags):
        if flags & os.O_DIRECT:
            refusals.append(flags)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def open_or_refuse(path, flags, *args, **kwargs):
        refuse(flags)
        return opened(path, flags, *args, **kwargs)

    def write_or_refuse(part):
        def call(fd, data, at):
            if len(data) % 4096 or part is None:
                refuse(fcntl.fcntl(fd, fcntl.F_GETFL))
            return written(fd, data[:part] if part else data, at)

        return call

    for name, call in (
        ("open", open_or_refuse),
        ("pwrite", write_or_refuse(None)),
        ("pwrite", write_or_refuse(1000)),
    ):
        before = len(refusals)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, call)
            shard_samples.pack(folder / "out")
        assert len(refusals) > before or not direct
        assert shard_samples.contents(folder / "out") == shard_samples.contents(folder / "clean")
        shutil.rmtree(folder / "out")


def test_resume_says_what_is_there(tmp_path):
    with shards.ShardWriter(tmp_path, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
        assert writer.resume() == shards.Progress(0, ())
        shard_samples.feed(writer, 13)
    with pytest.raises(ShardError, match=r"not finished.*again to continue"):
        shards.open(tmp_path)
    with shards.ShardWriter(tmp_path, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
        left_out = (("images/5.jpg", "corrupt"), ("images/12.jpg", "corrupt"))
        assert writer.resume() == shards.Progress(11, left_out)
        assert writer.resume().done == 13
        shard_samples.feed(writer, 20)
        writer.finish()
    shard_samples.pack(tmp_path / "clean")
    for name, data in shard_samples.contents(tmp_path / "clean").items():
        assert (tmp_path / name).read_bytes() == data


def test_notes_come_back_once_each(tmp_path):
    """Also where a shard is closed between samples that were given together."""
    items = map(shard_samples.sample, range(20))
    noted = [item._replace(notes=(("labels", f"odd {item.name}"),)) for item in items]
    for given in (noted[:9], noted[9:]):
        with shards.ShardWriter(tmp_path, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
            done = writer.resume().samples
            assert list(writer.resume().notes) == [(i.name, i.notes[0][1]) for i in noted[:done]]
            writer.store(given)
    assert done == 9
    with shards.ShardWriter(tmp_path, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
        assert len(list(writer.resume().notes)) == len(noted)


def test_complete_shards_are_compared_if_they_changed(folder, monkeypatch):
    """By their time or their inode; whoever only copied them loses nothing."""
    shard_samples.pack(folder / "clean")
    clean = shard_samples.contents(folder / "clean")
    compared = []
    header = recovery.shard_header
    monkeypatch.setattr(recovery, "shard_header", lambda end: compared.append(end) or header(end))

    def resumed(change):
        out = folder / "out"
        with shards.ShardWriter(out, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
            shard_samples.feed(writer, 13)
        change([out / f"shard-{i:05d}.safetensors" for i in range(2)])
        compared.clear()
        with shards.ShardWriter(out, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
            found = writer.resume().samples, len(compared)
        shard_samples.pack(out)
        assert shard_samples.contents(out) == clean
        shutil.rmtree(out)
        return found

    def flip(number, at):
        def change(files):
            with files[number].open("r+b") as file:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 4]))

        return change

    def copy(files):
        for file in files:
            shutil.copyfile(file, folder / "copy")
            (folder / "copy").replace(file)

    assert resumed(lambda _: None) == (11, 0)
    last = 4096 * 6 - 1  # a zero behind the last sample
    assert [resumed(flip(0, at)) for at in (20, 4096, last)] == [(0, 1)] * 3
    assert [resumed(flip(1, at)) for at in (20, 4096, last)] == [(5, 1)] * 3
    assert resumed(copy) == (11, 2)


def test_what_cannot_be_removed_at_the_end_is_said(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with shards.ShardWriter(folder, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
        shard_samples.feed(writer, 13)
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", refuse)
            with pytest.raises(ShardError, match="Cannot allocate memory"):
                writer.finish()
    assert len(shards.open(folder)) == 11
    sweep(Folder.at(folder))
    assert not (folder / ".packing").exists()


def test_damaged_records_cost_time_only(folder, monkeypatch):
    """Flipped bits in the records or the unfinished shards: packing goes on from before them."""
    shard_samples.pack(folder / "clean")
    clean = shard_samples.contents(folder / "clean")
    rng = np.random.default_rng(5)
    monkeypatch.setattr(shards.writer, "RECORD_SECONDS", 0.0)
    for trial in range(40):
        out = folder / f"{trial}"
        with shards.ShardWriter(out, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
            shard_samples.feed(writer, 13)
        names = sorted(file.name for file in (out / ".packing").iterdir() if file.name != "lock")
        assert len(names) > 3  # settings, parts, a shard
        file = out / ".packing" / names[trial % len(names)]
        data = bytearray(file.read_bytes())
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
        shard_samples.pack(out)
        assert shard_samples.contents(out) == clean


def sealed(content, data=b""):
    """A record as a packer writes it, with the checksum that belongs to it."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    record = text + b"\n" + data
    return xxhash.xxh3_64_hexdigest(record).encode() + b"\n" + record


NONE = dict.fromkeys(("images", "objects", "points", "name_bytes"), 0)
EMPTY = {"shard": 0, "end": 0, "closed": False, "left_out": [], "totals": NONE, "file": None}
OFFSETS = bytes(3 * 8)  # of the columns that have one row more than there are images or objects


def test_hostile_records_cost_time_only(folder, monkeypatch):
    """Their checksums are right, what they say is not: packing goes on from before them."""
    shard_samples.pack(folder / "clean")
    clean = shard_samples.contents(folder / "clean")
    monkeypatch.setattr(shards.writer, "RECORD_SECONDS", 0.0)
    with shards.ShardWriter(
        folder / "half", shard_samples.META, shard_samples.SHARD_SIZE
    ) as writer:
        shard_samples.feed(writer, 13)
    parts = sorted((folder / "half" / ".packing").glob("part-*"))
    text, _, columns = parts[0].read_bytes()[17:].partition(b"\n")
    known = json.loads(text)
    count = known["totals"]["images"]
    far, long = bytearray(columns), bytearray(columns)  # the first two columns
    far[: 8 * count] = np.full(count, 1 << 40, "<u8").tobytes()
    long[8 * count : 16 * count] = np.full(count, 1 << 40, "<u8").tobytes()
    hostile = [
        sealed(b"[" * 100_000),
        sealed(b"9" * 5000),
        sealed([]),
        sealed({}),
        sealed({**EMPTY, "totals": {**NONE, "images": 1 << 60}}),
        sealed({**EMPTY, "totals": {**NONE, "images": "1"}}, OFFSETS),
        sealed({**EMPTY, "totals": 5}),
        sealed({**EMPTY, "end": -4096}, OFFSETS),
        sealed({**EMPTY, "end": 4096}, OFFSETS),
        sealed({**EMPTY, "shard": 3}, OFFSETS),
        sealed({**EMPTY, "left_out": 7}, OFFSETS),
        sealed({**EMPTY, "left_out": [["only a name"]]}, OFFSETS),
        sealed({**EMPTY, "file": 5}, OFFSETS),
        sealed({**known, "end": 1 << 40}, columns),
        sealed({**known, "closed": True}, columns),
        sealed({**known, "closed": True, "end": 1 << 40}, bytes(long)),
        sealed(known, bytes(far)),
        sealed(known, bytes(long)),
        sealed(known, columns[:-1]),
    ]
    out = folder / "out"
    for number, data in enumerate(hostile):
        for place in (parts[0], parts[-1]):
            shutil.copytree(folder / "half", out)
            (out / ".packing" / place.name).write_bytes(data)
            shard_samples.pack(out)
            assert shard_samples.contents(out) == clean, number
            shutil.rmtree(out)


def test_what_is_no_record_is_none(folder):
    """A FIFO is not waited for, a sparse giant is not read."""
    shard_samples.pack(folder / "clean")
    work = folder / "out" / ".packing"
    for name in ("settings", "part-00000"):
        for make in (os.mkfifo, lambda path: os.truncate(path, 1 << 40)):
            work.mkdir(parents=True)
            if make is not os.mkfifo:
                (work / name).touch()
            make(work / name)
            shard_samples.pack(folder / "out")
            assert shard_samples.contents(folder / "out") == shard_samples.contents(
                folder / "clean"
            )
            shutil.rmtree(folder / "out")
    (work / "settings").mkdir(parents=True)
    with pytest.raises(ShardError, match=r"\.packing/settings.*directory"):
        shard_samples.pack(folder / "out")


def test_settings_that_are_none_are_replaced(folder):
    for number, content in enumerate(
        ([], {}, {"meta": 5}, {"meta": {"codec": "x"}}, b"[" * 99_999)
    ):
        out = folder / str(number)
        (out / ".packing").mkdir(parents=True)
        (out / ".packing" / "settings").write_bytes(sealed(content))
        shard_samples.pack(out)
        assert codec_of(out) == "raw"
