"""Writing, reading and replacing labels; the commands `verify` and `info`."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import shard_samples

import yolodata
import yolodata.shards as shards
from yolodata.errors import ConfigError, ShardError
from yolodata.folders import Folder
from yolodata.images.resize import resize, resized_shape
from yolodata.shards import lock, mapping
from yolodata.shards.verify import verify

POSE = shards.DatasetMeta(
    "raw", 32, {0: "cat", 1: "dog", 2: "bird"}, "val", (3, 2), (0, 2, 1), {"kind": "drawn", "n": 3}
)
COUNT = 20


def stored(meta):
    return [shard_samples.sample(i, meta) for i in range(COUNT) if i % 7 != 5]


def assert_holds(dataset, samples):
    """The dataset holds exactly these samples."""
    assert len(dataset) == len(samples)
    for i, want in enumerate(samples):
        assert dataset.name(i) == want.name
        np.testing.assert_array_equal(dataset.image(i), want.data)
        for key in ("height", "width", "orig_height", "orig_width", "label_height", "label_width"):
            assert getattr(dataset, key)[i] == getattr(want, key)
        begin, end = (int(x) for x in dataset.object_offset[i : i + 2])
        np.testing.assert_array_equal(dataset.cls[begin:end], want.cls)
        np.testing.assert_array_equal(dataset.box[begin:end], want.box)
        for j in range(begin, end):
            points = dataset.polygon[
                int(dataset.polygon_offset[j]) : int(dataset.polygon_offset[j + 1])
            ]
            polygon = want.polygons[j - begin] if want.polygons else np.zeros((0, 2), np.float32)
            np.testing.assert_array_equal(points, polygon)
        if want.keypoints is not None:
            np.testing.assert_array_equal(dataset.keypoints[begin:end], want.keypoints)


@pytest.mark.parametrize("mode", ["mmap", "pread"])
@pytest.mark.parametrize("meta", [shard_samples.META, POSE], ids=["boxes", "keypoints"])
def test_what_is_read_is_what_was_written(tmp_path, meta, mode):
    written = shard_samples.pack(tmp_path, COUNT, meta)
    with shards.open(tmp_path, io=mode) as dataset:
        assert dataset.meta == written
        assert dataset.mapped == (mode == "mmap")
        assert_holds(dataset, stored(meta))
        assert (dataset.keypoints is None) == (meta.kpt_shape is None)
        assert dataset.meta.left_out == tuple((f"images/{i}.jpg", "corrupt") for i in (5, 12, 19))
        assert len(dataset.meta.shards) > 2
        for array in (dataset.cls, dataset.offset, dataset.polygon):
            assert not array.flags.writeable
        assert type(dataset.sample(0)) is np.ndarray
        for i in (-1, len(dataset)):
            with pytest.raises(IndexError, match=f"got {i}"):
                dataset.image(i)
            with pytest.raises(IndexError, match=f"got {i}"):
                dataset.name(i)
    assert sorted(p.name for p in tmp_path.iterdir())[0] == "dataset.json"  # .packing is gone


@pytest.mark.parametrize("imgsz", [64, 48])
def test_ordinary_jpeg_files_are_not_given_to_opencv(tmp_path, monkeypatch, imgsz):
    """Its decoder crashes where memory is refused."""
    picture = cv2.GaussianBlur(shard_samples.sample(1).data, (0, 0), 2)
    data = cv2.imencode(".jpg", cv2.resize(picture, (64, 40)))[1].ravel()
    want = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    h, w = resized_shape(40, 64, imgsz)
    meta = dataclasses.replace(shard_samples.META, codec="jpeg", imgsz=imgsz)
    sample = shard_samples.sample(1)._replace(
        data=data, height=h, width=w, orig_height=40, orig_width=64, label_height=40, label_width=64
    )
    with shards.ShardWriter(tmp_path, meta) as writer:
        writer.resume()
        writer.store([sample])
        writer.finish()
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was asked"))
    with shards.open(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset.image(0), resize(want, (h, w)))


def test_files_are_plain_safetensors_and_aligned(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    shard_samples.pack(tmp_path, COUNT, POSE)
    dataset = shards.open(tmp_path)
    columns = load_file(tmp_path / dataset.meta.labels.file)
    for name in columns:
        if not name.startswith("name"):
            np.testing.assert_array_equal(columns[name], getattr(dataset, name))
    for s, entry in enumerate(dataset.meta.shards):
        with safe_open(tmp_path / entry.file, "np") as file:
            data = file.get_tensor("data")
        assert data.dtype == np.uint8
        np.testing.assert_array_equal(data, dataset.shard_data(s))
        raw = (tmp_path / entry.file).read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        assert start == 4096
        assert dataset.shard_data(s).ctypes.data % 4096 == 0
        assert raw[start:] == data.tobytes()
        used = np.zeros(len(data), bool)
        for i in np.flatnonzero(dataset.shard == s):
            begin = int(dataset.offset[i])
            assert begin % 4096 == 0
            used[begin : begin + int(dataset.nbytes[i])] = True
        assert not data[~used].any()  # padding is zero
        assert (~used).sum() < 4096 * (dataset.shard == s).sum()
        assert len(data) <= shard_samples.SHARD_SIZE


def test_packing_is_deterministic(tmp_path):
    shard_samples.pack(tmp_path / "a")
    with shards.ShardWriter(tmp_path / "b", shard_samples.META, shard_samples.SHARD_SIZE) as writer:
        shard_samples.feed(writer, 3)
    shard_samples.pack(tmp_path / "b")
    assert shard_samples.contents(tmp_path / "a") == shard_samples.contents(tmp_path / "b")


def test_pickled_forked_and_shared_datasets(tmp_path):
    shard_samples.pack(tmp_path)
    for mode in ("mmap", "pread"):
        dataset = shards.open(tmp_path, io=mode)
        want = [dataset.image(i).tobytes() for i in range(len(dataset))]
        again = pickle.loads(pickle.dumps(dataset))
        assert [again.image(i).tobytes() for i in range(len(again))] == want
        dataset = shards.open(tmp_path, io=mode)  # nothing mapped yet
        barrier = threading.Barrier(4)

        def read(_, dataset=dataset, barrier=barrier):
            barrier.wait()
            return [dataset.image(i).tobytes() for i in range(len(dataset))]

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, range(4))) == [want] * 4
        pid = os.fork()
        if pid == 0:
            good = [dataset.image(i).tobytes() for i in range(len(dataset))] == want
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        view = dataset.sample(0)
        dataset.close()
        assert view.tobytes() == want[0]  # a view outlives its dataset


def test_a_map_keeps_no_descriptor_open(tmp_path):
    shard_samples.pack(tmp_path)
    dataset = shards.open(tmp_path, io="mmap")
    before = len(os.listdir("/proc/self/fd"))
    views = [dataset.shard_data(s) for s in range(len(dataset.meta.shards))]
    assert len(views) > 2
    assert len(os.listdir("/proc/self/fd")) == before


def test_asking_for_samples_early_changes_nothing(tmp_path):
    shard_samples.pack(tmp_path)
    for mode in ("mmap", "pread"):
        dataset = shards.open(tmp_path, io=mode)
        dataset.will_need(range(len(dataset)))
        assert_holds(dataset, stored(shard_samples.META))


def test_network_file_systems_are_read_not_mapped(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 21 0:41 / /net\\040share rw,relatime - nfs4 server:/export rw\n"
        "31 21 0:42 / /net\\040share/local rw - xfs /dev/sdb rw\n"
        "32 21 0:43 / /fuse rw - fuse.sshfs host: rw\n"
    )
    places = {"/home/x": False, "/net share/data": True, "/net share/local/d": False, "/fuse": True}
    for place, network in places.items():
        assert mapping.on_network(Path(place), mounts) == network
    assert not mapping.on_network(Path("/"), tmp_path / "absent")
    shard_samples.pack(tmp_path / "out")
    with pytest.raises(ShardError, match="has no address; use sample"):
        shards.open(tmp_path / "out", io="pread").shard_data(0)
    with pytest.raises(ConfigError, match="'auto', 'mmap' or 'pread'"):
        shards.open(tmp_path / "out", io="map")


def test_opening_one_of_several_splits(tmp_path):
    shard_samples.pack(tmp_path / "train")
    assert shards.open(tmp_path).path == tmp_path / "train"
    shard_samples.pack(tmp_path / "val", meta=POSE)
    assert list(shards.splits(tmp_path)) == ["train", "val"]
    assert shards.open(tmp_path, "val").meta.split == "val"
    for bad in (None, "test"):
        with pytest.raises(ShardError, match="holds the splits train, val"):
            shards.open(tmp_path, bad)
    with pytest.raises(ShardError, match="holds split 'val'"):
        shards.open(tmp_path / "val", "train")
    with pytest.raises(ShardError, match="give a directory that `yolodata shard` wrote"):
        shards.open(tmp_path / "nothing")


BAD_SAMPLES = [
    ({"height": 31}, "size must be"),
    ({"orig_width": 0}, "original size"),
    ({"label_width": 0}, "label size"),
    ({"data": b""}, "must have 1 to"),
    ({"data": bytes(100)}, "raw pixels must have"),
    ({"name": ""}, "name is empty"),
    ({"cls": np.array([0, 3, 0], np.float32)}, "whole numbers from 0 to 2"),
    ({"cls": np.array([0, 0.5, 0], np.float32)}, "whole numbers from 0 to 2"),
    ({"cls": np.array([0, np.nan, 0], np.float32)}, "cls has values that are not finite"),
    ({"cls": np.zeros(3)}, "cls must be float32"),
    ({"box": np.zeros((3, 5), np.float32)}, r"box must be float32 \(3, 4\)"),
    ({"box": np.full((3, 4), np.inf, np.float32)}, "box has values"),
    ({"polygons": [np.zeros((2, 2), np.float32)]}, "for each of 3 objects"),
    ({"polygons": [np.zeros((2, 3), np.float32)] * 3}, "polygons must be"),
    ({"polygons": [np.full((2, 2), np.nan, np.float32)] * 3}, "polygon has values"),
    ({"keypoints": np.zeros((3, 2, 3), np.float32)}, "has no kpt_shape"),
]


def test_the_writer_refuses_what_no_reader_would_accept(tmp_path):
    good = shard_samples.sample(3)
    assert len(good.cls) == 3
    with shards.ShardWriter(tmp_path / "out", shard_samples.META) as writer:
        for change, words in BAD_SAMPLES:
            with pytest.raises(ShardError, match=words) as error:
                writer.append(good._replace(**change))
            if "name" not in change:
                assert good.name in str(error.value)
        with pytest.raises(ShardError, match="no image to store"):
            writer.finish()
        writer.append(good)  # a refused sample does no harm
        writer.finish()
        with pytest.raises(ShardError, match="writer is closed"):
            writer.append(good)
    assert_holds(shards.open(tmp_path / "out"), [good])
    for bad in ({"names": {1: "a"}}, {"codec": "png"}, {"source": {"x": np.float32(1)}}):
        with pytest.raises(ShardError):
            shards.ShardWriter(
                tmp_path / "bad", shards.DatasetMeta(**{**vars(shard_samples.META), **bad})
            )
    assert not (tmp_path / "bad").exists()


def test_one_writer_at_a_time(tmp_path):
    code = (
        "import sys, shard_samples\n"
        "try: shard_samples.pack(sys.argv[1])\n"
        "except OSError as error: print(error)\n"
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    with shards.ShardWriter(tmp_path, shard_samples.META, shard_samples.SHARD_SIZE) as writer:
        shard_samples.feed(writer, 5)
        with pytest.raises(ShardError, match="this process is writing this dataset"):
            shard_samples.pack(tmp_path)
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert f"process {os.getpid()} is writing this dataset" in other.stdout, other.stderr
        shard_samples.feed(writer, 0)
    shard_samples.pack(tmp_path)  # free again
    with pytest.raises(ShardError, match=r"already holds a dataset.*overwrite=True.*--overwrite"):
        shard_samples.pack(tmp_path)
    assert verify(tmp_path, full=True).ok


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Whoever held it before has removed the file, and another one may have made a new one."""
    held = tmp_path / ".packing" / "lock"

    def late(take):
        calls = []

        def taken(fd, how):
            if not calls:
                file = held if held.parent.exists() else tmp_path / "lock"
                file.unlink()
                file.touch()
            calls.append(fd)
            return take(fd, how)

        return taken

    with monkeypatch.context() as patch, Folder.at(tmp_path) as folder:
        patch.setattr(fcntl, "flock", late(fcntl.flock))
        with (
            lock.file_lock(folder, "lock"),
            pytest.raises(BlockingIOError),
            lock.file_lock(folder, "lock", wait=False),
        ):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", late(fcntl.lockf))
        mine = lock.Lock(Folder.at(tmp_path))
        assert held.read_text() == f"{os.getpid()}\n"
        mine.remove()


def test_older_files_are_replaced_only_when_asked(tmp_path):
    shard_samples.pack(tmp_path, 20)
    other = shard_samples.META.with_results(names={0: "x", 1: "y", 2: "z"})
    shard_samples.pack(tmp_path, 9, other, overwrite=True)
    assert shards.open(tmp_path).meta.names[2] == "z"
    assert len(list(tmp_path.iterdir())) == 2 + len(shards.open(tmp_path).meta.shards)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(ShardError, match=r"holds labels\.safetensors, part of another dataset"):
        shard_samples.pack(tmp_path)
    shard_samples.pack(tmp_path, overwrite=True)
    with shards.ShardWriter(tmp_path / "half", other) as writer:
        shard_samples.feed(writer, 5)
    with pytest.raises(ShardError, match=r"with other settings.*names, shard_size"):
        shard_samples.pack(tmp_path / "half")
    shard_samples.pack(tmp_path / "half", overwrite=True)
    assert verify(tmp_path / "half", full=True).ok


def annotations(dataset, seed):
    rng = np.random.default_rng(seed)
    for i in range(len(dataset)):
        n = int(rng.integers(0, 4))
        yield shards.Annotation(
            rng.integers(0, 2, n).astype(np.float32),
            rng.random((n, 4)).astype(np.float32),
            None,
            rng.random((n, 2, 3)).astype(np.float32),
            int(dataset.label_height[i]) + 1,
            int(dataset.label_width[i]),
        )


def test_numbers_count_from_the_first_image_and_no_other_way(tmp_path):
    """-1 is no image. What stands in a list of Python's, as a loader's labels, counts as there."""
    shard_samples.pack(tmp_path)
    with shards.open(tmp_path) as dataset:
        count = len(dataset)
        of_one = (dataset.name, dataset.sample, dataset.padding, dataset.image, dataset.locate,
                  dataset.most_pixels, lambda i: dataset.names(np.array([0, i])),
                  lambda i: dataset.will_need([i]))  # fmt: skip
        for call in of_one:
            for wrong in (-1, -count, count, 1 << 40):
                with pytest.raises(IndexError, match=f"must be 0 to {count - 1}, got {wrong}"):
                    call(wrong)
        for s in (-1, len(dataset.meta.shards)):
            with pytest.raises(IndexError, match=f"shard must be 0 to .*, got {s}"):
                dataset.shard_data(s)
        assert list(dataset.stored_names(0, 0)) == list(dataset.stored_names(count, count)) == []
        for begin, end in ((-1, count), (2, 1), (0, count + 1)):
            with pytest.raises(IndexError, match=f"within 0 to {count}, got {begin} to {end}"):
                list(dataset.stored_names(begin, end))
        with pytest.raises(ConfigError, match="position must be 0 to"):
            yolodata.plan(yolodata.AugmentConfig(imgsz=dataset.meta.imgsz), dataset, position=-1)


def relabel(path, seed=0, drop=()):
    dataset = shards.open(path)
    new = [None if i in drop else a for i, a in enumerate(annotations(dataset, seed))]
    left_out = (*dataset.meta.left_out, *((dataset.name(i), "gone") for i in drop))
    names = {0: "left", 1: "right"}
    return new, shards.replace_labels(
        path, new, names=names, kpt_shape=(2, 3), flip_idx=(1, 0), left_out=left_out
    )


def test_labels_are_replaced_without_touching_pixels(tmp_path):
    shard_samples.pack(tmp_path)
    old = shards.open(tmp_path)
    before = shard_samples.contents(tmp_path)
    new, meta = relabel(tmp_path, drop=(0, 6))
    after = shard_samples.contents(tmp_path)
    assert {k for k in before if after.get(k) != before[k]} == {
        "dataset.json",
        "labels.safetensors",
    }
    assert meta.labels.file.startswith("labels-")
    assert len(list(tmp_path.glob("labels*"))) == 1
    dataset = shards.open(tmp_path)
    assert dataset.meta == meta
    assert meta.names == {0: "left", 1: "right"}
    assert meta.left_out[-2:] == ((old.name(0), "gone"), (old.name(6), "gone"))
    kept = [i for i in range(len(old)) if i not in (0, 6)]
    assert [dataset.name(i) for i in range(len(dataset))] == [old.name(i) for i in kept]
    np.testing.assert_array_equal(dataset.image(3), old.image(kept[3]))  # the old one stays usable
    np.testing.assert_array_equal(dataset.label_height, old.label_height[kept] + 1)
    np.testing.assert_array_equal(dataset.box, np.concatenate([new[i].box for i in kept]))
    np.testing.assert_array_equal(
        dataset.keypoints, np.concatenate([new[i].keypoints for i in kept])
    )
    assert verify(tmp_path, full=True).ok
    with pytest.raises(ShardError, match="one for each image, got 3"):
        shards.replace_labels(tmp_path, new[1:4])
    with pytest.raises(ShardError, match="no image would be left"):
        shards.replace_labels(tmp_path, [None] * len(dataset))
    assert shard_samples.contents(tmp_path) == after
    same = shards.replace_labels(tmp_path, [new[i] for i in kept])
    assert same == meta
    assert shard_samples.contents(tmp_path) == after


@pytest.mark.parametrize("name", ["write", "pwrite", "fsync", "replace", "unlink"])
def test_relabelling_is_all_or_nothing(tmp_path, monkeypatch, name):
    """Whatever call fails, the dataset is the old one or the new one, and can be relabelled."""
    shard_samples.pack(tmp_path / "old")
    for call in range(1, 100, 3):
        path = tmp_path / f"{call}"
        shard_samples.pack(path)
        old, left = shards.read_meta(path), [call]
        original = getattr(os, name)

        def fail(*args, left=left, original=original, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(28, "No space left on device")
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            try:
                _, new = relabel(path)
            except ShardError:
                new = None
        assert verify(path, full=True).ok
        assert new is not None or shards.read_meta(path) == old or name in ("fsync", "unlink")
        _, new = relabel(path)
        assert shards.read_meta(path) == new
        assert len(list(path.glob("labels*"))) == 1
        if left[0] > 0:
            break


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"images/\xff\xfe.jpg")
    sample = shard_samples.sample(1)._replace(name=name)
    with shards.ShardWriter(tmp_path, shard_samples.META) as writer:
        writer.leave_out(name, "because")
        writer.append(sample)
        writer.finish()
    dataset = shards.open(tmp_path)
    assert dataset.name(0) == name
    assert dataset.meta.left_out == ((name, "because"),)


# ---- command line --------------------------------------------------------------------------------


def cli(*arguments):
    from yolodata.cli import main

    return main([str(a) for a in arguments])


def test_info_counts_reasons_that_differ_in_numbers_together(tmp_path, capsys):
    letters = "abcdefghijklmnopqrstuvwxyz"
    with shards.ShardWriter(tmp_path, shard_samples.META) as writer:
        for k in range(30):
            writer.leave_out(f"{k}.jpg", f"coordinate {2 + k / 8} is above 1.01")
        for letter in letters:
            writer.leave_out(f"{letter}.jpg", f"9 pixels of {letter}")
        writer.append(shard_samples.sample(1))
        writer.finish()
    assert cli("info", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("  left out 56") + 1
    assert lines[first] == "    30 × coordinate # is above #"
    assert lines[first + 1 : first + 20] == [f"    1 × 9 pixels of {k}" for k in letters[:19]]
    assert lines[first + 20] == "    7 × 7 other reasons (--json: all)"


def test_verify_and_info_commands(tmp_path, capsys):
    shard_samples.pack(tmp_path / "train")
    shard_samples.pack(tmp_path / "val", 9, POSE)
    assert cli("info", tmp_path) == 0
    text = capsys.readouterr().out
    assert "17 of 20, 4 without objects" in text
    assert "3 × corrupt" in text
    assert "bird" in text
    assert cli("info", tmp_path, "--json", "--split", "val") == 0
    (info,) = json.loads(capsys.readouterr().out)
    assert info["images"] == 8
    assert info["objects"] == sum(count for _, count in info["classes"])
    assert info["left_out"] == {"corrupt": 1}
    for command in ("info", "verify"):
        assert cli(command, tmp_path, "--split", "test") == 2
        assert "holds the splits train, val; split must be one of" in capsys.readouterr().err
    assert cli("verify", tmp_path, "--full", "--quiet") == 0
    assert capsys.readouterr().out.count("good") == 2
    file = tmp_path / "val" / "shard-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    assert cli("verify", tmp_path, "--full", "--quiet", "--json") == 1
    train, val = json.loads(capsys.readouterr().out)
    assert train["ok"]
    assert not val["ok"]
    assert "shard-00000.safetensors" in val["problems"][0]
    assert cli("verify", tmp_path / "nothing") == 2
    assert "is not there" in capsys.readouterr().err


def test_importing_shards_is_cheap():
    """Nothing heavy comes with the reader: packers and loaders start many processes."""
    code = (
        "import sys, yolodata.shards, yolodata.shards.verify\n"
        "print([m for m in ('torch', 'cv2', 'PIL', 'ultralytics', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
