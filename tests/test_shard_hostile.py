"""Datasets that somebody made to do harm: opening and reading them ends, soon, with an error."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import hostile_shards
import numpy as np
import pytest
import shard_samples

from yolodata import Loader, ValidationLoader, _native
from yolodata.errors import DatasetError, ShardError
from yolodata.pipeline.options import LabelOptions
from yolodata.shards import ShardDataset, json_text, read_meta, reader
from yolodata.shards.class_names import check_same_classes
from yolodata.shards.info import describe
from yolodata.shards.layout import LabelsLayout
from yolodata.shards.left_out import read_left_out
from yolodata.shards.mapping import is_of_others
from yolodata.shards.verify import verify
from yolodata.train.exit_codes import MISTAKE, STATUS, status_left

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
GIANT = 1 << 42  # bytes


def run_child(*arguments: str, limit: float = 300) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what fails here hangs, takes all memory or ends by a signal."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit,
    )


# Everything that a dataset's folder may hold in the place of a file.

OPENING = """
import resource, sys
from pathlib import Path
import yolodata.shards as shards
from yolodata.errors import ShardError
from yolodata.shards.left_out import read_left_out
from yolodata.shards.mapping import is_of_others
from yolodata.shards.verify import verify
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
for path in map(Path, sys.argv[1:]):
    for use in (
        lambda: shards.open(path, io="mmap"),
        lambda: shards.open(path, io="pread"),
        lambda: read_left_out(path) or None,
        lambda: print("problems", path, verify(path).problems[:1]),
    ):
        try:
            opened = use()
            if opened is not None:
                opened.sample(0)
        except ShardError as error:
            print("refused", error)
"""


def replace(file: Path, kind: str) -> None:
    file.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    elif kind == "folder":
        file.mkdir()
    else:
        with file.open("wb") as handle:
            handle.truncate(GIANT)


def test_opening_ends_whatever_lies_there(tmp_path):
    names = ("dataset.json", "labels.safetensors", "shard-00000.safetensors", "left_out.json")
    kinds = ("fifo", "endless", "folder", "giant")
    paths = []
    for name in names:
        for kind in kinds:
            path = tmp_path / f"{name}-{kind}"
            shard_samples.pack(path, 2)
            replace(path / name, kind)
            paths.append(str(path))
    done = run_child("-c", OPENING, *paths)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in names:
        uses = 1 if name == "left_out.json" else 2
        for kind in kinds:
            lines = [line for line in done.stdout.splitlines() if f"{name}-{kind}/{name}" in line]
            refused = [line for line in lines if line.startswith("refused")]
            assert len(refused) == uses, (name, kind, lines)
            if name != "left_out.json":
                assert any(line.startswith("problems") for line in lines), (name, kind)


def test_labels_that_are_holes_are_not_read(tmp_path):
    """The header and the sizes agree; to read all of it would take hours."""
    shard_samples.pack(tmp_path, 2)
    objects = 1 << 36
    layout = LabelsLayout.of(2, objects, 0, 2, None)
    with (tmp_path / "labels.safetensors").open("wb") as file:
        file.write(layout.header)
        file.truncate(layout.nbytes)
    labels = {"file": "labels.safetensors", "nbytes": layout.nbytes, "checksum": "0" * 16}
    hostile_shards.sign(tmp_path, images=2, objects=objects, labels=labels)
    for io in ("mmap", "pread"):
        with pytest.raises(ShardError, match=r"labels\.safetensors: has \d+ bytes.* holes"):
            ShardDataset(tmp_path, io=io)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": ' + "[" * 90_000 + "]" * 90_000 + "}", "not valid JSON: maximum recursion"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "more than 32 deep"),
        ('{"a": [' + "[]," * (1 << 23) + "[]]}", "more than 8388608 JSON values"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON: Exceeds the limit"),
        ('{"format_version": ' + "9" * 400 + "}", "format_version must be 1"),
        ('{"format_version": 1, "source": NaN}', "NaN is no number of JSON"),
        ('{"format_version": 1, "source": 1e999}', "not valid JSON"),
        ('{"format_version": 1, "' + "k" * 100_000 + '": 1}', "checksum"),
    ],
    ids=["deep", "deeper", "wide", "long", "400 digits", "NaN", "infinite", "key"],
)
def test_json_is_bounded(tmp_path, text, said):
    for name, read in (("dataset.json", read_meta), ("left_out.json", read_left_out)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ShardError, match=name) as error:
            read(tmp_path)
        assert said in str(error.value) or "must map paths to reasons" in str(error.value)
        assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", [",:[{" * 60, '\\",[' * 80])
def test_names_count_as_one_value(name, monkeypatch):
    """Whole lists of images that were left out could not be read for their commas."""
    monkeypatch.setattr(json_text, "_MAX_VALUES", 2 * 100)
    listed = {f"{name}{k}": "why" for k in range(99)}
    assert json_text.parse_json(json.dumps(listed).encode(), "x") == listed
    for encoding in ("utf-8", "utf-16-le"):  # in the latter, a byte of these is a quote
        text = json.dumps([[0]] * 200)
        hidden = f'{{"\u2200": {text}, "\u2200": 0}}'.encode(encoding)
        with pytest.raises(ShardError, match="more than 200 JSON values"):
            json_text.parse_json(hidden, "x")


@pytest.mark.parametrize("points", ["9", [9], -1, 1 << 70, None, 1.5, True])
def test_counts_in_the_header_of_labels_are_counts(tmp_path, points):
    shard_samples.pack(tmp_path, 3)
    file = tmp_path / "labels.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["polygon"]["shape"] = [points, 2]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    labels = {"file": file.name, "nbytes": file.stat().st_size, "checksum": "0" * 16}
    hostile_shards.sign(tmp_path, labels=labels)
    with pytest.raises(ShardError, match=r"labels.safetensors: the header claims .* polygon"):
        ShardDataset(tmp_path)
    file.write_bytes(data + bytes(64))  # that no column has
    hostile_shards.sign(tmp_path, labels={**labels, "nbytes": len(data) + 64})
    with pytest.raises(ShardError, match=r"its header describes \d+; the file is cut"):
        ShardDataset(tmp_path)


def test_a_path_that_cannot_be(tmp_path):
    for path in ("a\0b", "x" * 5000, tmp_path / ("y" * 300)):
        with pytest.raises(ShardError, match=r"give a directory|no path has a NUL"):
            ShardDataset(path)


def test_many_classes_are_compared_in_time():
    many = {i: f"class {i}" for i in range(100_000)}
    other = {i: f"{'y' * 5000}{i}" for i in range(100_000)}
    with pytest.raises(DatasetError, match="and 99995 more") as error:
        check_same_classes({"train": many, "val": other})
    assert len(str(error.value)) < 3000


# Values.


def test_a_resealed_dataset_is_an_error_or_harmless(tmp_path):
    done = run_child(str(HERE / "hostile_shards.py"), str(tmp_path), "0", "25")
    assert done.returncode == 0, (done.stdout[-1500:], done.stderr[-1500:])
    assert "0 wrong" in done.stdout


@pytest.mark.parametrize("column", ["name", "offset", "nbytes"])
def test_limits_of_a_row(tmp_path, column):
    shard_samples.pack(tmp_path, 3)
    columns = hostile_shards.columns_of(tmp_path)
    if column == "name":
        columns["name"] = np.full(5000, 65, np.uint8)
        columns["name_offset"] = np.array([0, 1, 2, 5000], np.uint64)
        column = "name_offset"
    elif column == "nbytes":
        columns[column][1] = (1 << 30) + 1
    else:
        columns[column][1] = columns[column][2]
    hostile_shards.reseal(tmp_path, columns)
    with pytest.raises(ShardError, match=rf"labels\.safetensors: byte \d+: column {column}, row"):
        ShardDataset(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("column", "task"), [("polygon", "detect"), ("polygon", "segment"), ("keypoints", "pose")]
)
def test_what_is_no_number_is_an_error_when_it_is_used(tmp_path, column, task, value):
    path = hostile_shards.outlined(tmp_path)
    columns = hostile_shards.columns_of(path)
    columns[column].reshape(-1)[7] = value
    hostile_shards.reseal(path, columns)
    labels = LabelOptions(task=task)
    words = rf"labels\.safetensors: .*column {column}.* must be finite"
    loaders = [Loader(path, 4, labels=labels)]
    if column == "keypoints" or task == "segment":
        loaders.append(ValidationLoader(path, 4, labels=labels, split="train"))
    for loader in loaders:
        with loader, pytest.raises(ShardError, match=words):
            list(loader)


OUTLINES = """
import numpy as np
from yolodata import _native
rng = np.random.default_rng(0)
image, place = np.array([0]), np.array([[32, 32, 1, 0, 0.0]])
far = np.array([0, 1, -1, 1e4, -1e4, 1e7, -1e7, 6.7e7, -3.3e7, 1e9, -3e9, 1e30, -3.4e38], "f4")
for _ in range(500):
    counts = rng.integers(3, 7, 4)
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    points = rng.random((offset[-1], 2), np.float32)
    points[rng.random(points.shape) < 0.5] = rng.choice(far)
    points[rng.random(points.shape) < 0.3] = rng.choice(far)
    side = np.array([32], np.uint32)
    table = _native.LabelTable(
        side, side, np.array([0, 4], np.uint64), np.zeros(4, np.float32),
        np.zeros((4, 4), np.float32), offset, points, None, None, 100)
    for overlap in (False, True):
        _native.letterbox_masks(table, image, place, 32, 32, 1, overlap)
"""


def test_outlines_far_outside_are_drawn_without_a_crash():
    done = run_child("-c", OUTLINES)
    assert done.returncode == 0, done.stderr[-1000:]


def one_image(counts: list[int], points: np.ndarray) -> _native.LabelTable:
    """A picture of 640 pixels, with an outline for each of `counts` numbers of points."""
    side, objects = np.array([640], np.uint32), len(counts)
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    return _native.LabelTable(
        side, side, np.array([0, objects], np.uint64), np.zeros(objects, np.float32),
        np.zeros((objects, 4), np.float32), offset, points.astype(np.float32), None, None, 100,
        where="labels.safetensors",
    )  # fmt: skip


def test_outlines_take_no_memory_without_end():
    """A long outline gives its number of points to all others; one can fill a picture often."""
    place = np.array([[640, 640, 1, 0, 0.0]])
    many = one_image([60_000] + [1] * 3000, np.zeros((63_000, 2)))
    with pytest.raises(ShardError, match=r"labels.safetensors: column polygon: 3001 outlines"):
        _native.letterbox_masks(many, np.array([0]), place, 640, 640, 4, True)
    zigzag = np.stack([np.arange(100_000) / 1e5, np.arange(100_000) % 2], 1)
    with pytest.raises(ShardError, match=r"labels.safetensors: column polygon: .* too often"):
        _native.letterbox_masks(
            one_image([100_000], zigzag), np.array([0]), place, 640, 640, 4, True
        )


def test_info_of_a_dataset_without_images(tmp_path):
    shard_samples.pack(tmp_path, 2)
    columns = hostile_shards.columns_of(tmp_path)
    empty = {name: column[:0] for name, column in columns.items()}
    for name in ("name_offset", "object_offset", "polygon_offset"):
        empty[name] = np.zeros(1, np.uint64)
    hostile_shards.reseal(tmp_path, empty)
    assert describe(tmp_path)["smallest"] is None
    assert verify(tmp_path, full=True).ok


# A shard that becomes shorter while it is mapped.

CUT_OFF = """
import ctypes, mmap, os, signal, sys
from pathlib import Path
from yolodata.shards import ShardDataset, mapping
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.watchdog.supervisor import Supervisor
how, folder = sys.argv[1], Path(sys.argv[2])
signal.signal(signal.SIGBUS, signal.SIG_DFL)
with Supervisor(ProcessGroup.join(), 60.0, lambda: None).catch_signals():
    dataset = ShardDataset(folder, io="mmap")
    data = dataset.sample(4)
    if how == "other":
        file = open(folder / "dataset.json", "r+b")
        data = mmap.mmap(file.fileno(), 0)
    elif how == "in its place":
        ours = dataset.shard_data(0)
        while not isinstance(ours, mapping._Map):
            ours = ours.base
        place, nbytes, libc = ours._address, ours._nbytes, ours._libc
        del data, ours
        dataset.close()
        del dataset
        file = open(folder / "other", "w+b")
        file.truncate(nbytes)
        assert libc.mmap(place, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0) == place
    else:
        file = open(folder / "shard-00000.safetensors", "r+b")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGBUS)
    file.truncate(8192 * (how in ("shard", "killed", "late")))
    if how == "late":
        del dataset
    elif how == "in its place":
        ctypes.string_at(place + nbytes - 1, 1)
    else:
        print(data[0], dataset.shard_data(0)[-4096])
if how == "late":
    print(data[0])
"""


@pytest.mark.parametrize("how", ["shard", "other", "in its place", "killed", "late"])
def test_a_file_that_is_cut_off_is_named(tmp_path, how):
    """Only of a map of ours, only while training runs, and only of a fault."""
    shard_samples.pack(tmp_path, 5, shard_size=1 << 20)
    status = tmp_path / "status"
    status.touch()
    done = subprocess.run(
        [sys.executable, "-c", CUT_OFF, how, str(tmp_path)],
        env={**ENVIRONMENT, STATUS: str(status)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if how == "shard":
        assert done.returncode == MISTAKE
        words = f"{tmp_path}/shard-00000.safetensors: was cut off while it was read"
        assert done.stderr.startswith(f"yolodata: {words}: it ends at byte 8192, byte 20480"), done
        code, reason = status_left(status)
        assert code == MISTAKE
        assert reason.startswith(words)
    else:
        assert done.returncode == -signal.SIGBUS, done
        assert "cut off" not in done.stderr
        assert status_left(status) is None


def test_shards_that_others_can_cut_off_are_read_where_that_costs_little(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for codec, owner, mode, mapped in (
        ("raw", 0, 0o646, True),
        ("jpeg", 0, 0o644, True),
        ("jpeg", 0, 0o646, False),
        ("jpeg", 2, 0o644, False),
    ):
        found = os.stat_result((mode, 0, 0, 1, os.geteuid() * bool(owner) + owner, 0, 0, 0, 0, 0))
        assert is_of_others(found) == (codec == "raw" or not mapped)
        path = tmp_path / f"{codec}-{owner}-{mode}"
        shard_samples.pack(path, 2, shard_samples.META.with_results(codec=codec))
        monkeypatch.setattr(reader, "is_of_others", lambda _, found=found: is_of_others(found))
        assert ShardDataset(path).mapped == mapped
        assert ShardDataset(path, io="mmap").mapped
        assert pickle.loads(pickle.dumps(ShardDataset(path))).mapped == mapped
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not is_of_others(found)
