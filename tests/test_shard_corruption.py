"""Every MUST of docs/shard-format.md, broken; and random damage anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct

import numpy as np
import pytest
import shard_samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import yolodata.shards as shards
from yolodata.errors import ShardError
from yolodata.shards.format import content_checksum
from yolodata.shards.layout import parse_labels_header
from yolodata.shards.verify import verify

KEYPOINTS = shards.DatasetMeta(
    "raw", 32, {0: "cat", 1: "dog", 2: "bird"}, kpt_shape=(3, 2), flip_idx=(0, 2, 1)
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed")
    shard_samples.pack(path, 20, KEYPOINTS)
    return path


@pytest.fixture
def dataset(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copy")


def sign(path, change) -> None:
    """Edit dataset.json and give it a fitting checksum."""
    content = json.loads((path / "dataset.json").read_text())
    del content["checksum"]
    change(content)
    content["checksum"] = content_checksum(content)
    (path / "dataset.json").write_text(json.dumps(content))


def poke(path, column: str, row: int, value, part: int = 0) -> int:
    """Overwrite one value in the labels file; returns the byte."""
    file = path / "labels.safetensors"
    data = bytearray(file.read_bytes())
    place = parse_labels_header(bytes(data), len(data), shards.read_meta(path), "labels").columns[
        column
    ]
    code = {"U8": "B", "U32": "<I", "U64": "<Q", "F32": "<f"}[place.dtype]
    row_bytes = (place.end - place.begin) // place.shape[0]
    at = place.begin + (row % place.shape[0]) * row_bytes + part * struct.calcsize(code)
    data[at : at + struct.calcsize(code)] = struct.pack(code, value)
    file.write_bytes(data)
    return place.begin + (row % place.shape[0]) * row_bytes


# column, row, value, part of the row, words of the message
BAD_VALUES = [
    ("name_offset", 0, 1, 0, "must be 0"),
    ("name_offset", 5, 1 << 63, 0, "at most"),
    ("name_offset", -1, 3, 0, "number of entries"),
    ("object_offset", 0, 2, 0, "must be 0"),
    ("object_offset", 4, 0, 0, "at least"),
    ("object_offset", 4, (1 << 64) - 1, 0, "at most"),
    ("object_offset", -1, 1 << 40, 0, "number of entries"),
    ("polygon_offset", 3, 1 << 50, 0, "at most"),
    ("polygon_offset", -1, 0, 0, "number of entries"),
    ("shard", 2, 77, 0, "number of shards"),
    ("shard", 0, 1, 0, "behind the sample before"),
    ("offset", 1, 64, 0, "multiple of 4096"),
    ("offset", 1, 1 << 40, 0, "inside its shard"),
    ("offset", 1, (1 << 64) - 4096, 0, "inside its shard"),
    ("offset", 1, 0, 0, "behind the sample before"),
    ("nbytes", 3, 0, 0, "from 1 to"),
    ("nbytes", 3, (1 << 64) - 1, 0, "from 1 to"),
    ("nbytes", 3, 1 << 29, 0, "has left"),
    ("nbytes", 3, 64, 0, r"height \* width \* 3"),
    ("height", 1, 0, 0, "imgsz=32"),
    ("height", 1, 33, 0, "imgsz=32"),
    ("width", 1, 1 << 31, 0, "imgsz=32"),
    ("orig_height", 1, 0, 0, "from 1 to"),
    ("orig_width", 1, (1 << 32) - 1, 0, "from 1 to"),
    ("label_height", 1, 0, 0, "from 1 to"),
    ("label_width", 1, 1 << 30, 0, "from 1 to"),
    ("cls", 2, 3.0, 0, "below 3"),
    ("cls", 2, -1.0, 0, "below 3"),
    ("cls", 2, 0.5, 0, "below 3"),
    ("cls", 2, float("nan"), 0, "below 3"),
    ("box", 2, float("nan"), 1, "finite"),
    ("box", 2, float("inf"), 3, "finite"),
]


@pytest.mark.parametrize(("column", "row", "value", "part", "words"), BAD_VALUES)
def test_a_column_that_breaks_its_rule(dataset, column, row, value, part, words):
    byte = poke(dataset, column, row, value, part)
    with pytest.raises(ShardError, match=words) as error:
        shards.open(dataset)
    assert "labels.safetensors" in str(error.value)
    if not words.startswith("behind"):  # an overlap is seen at the later sample
        assert f"byte {byte}: column {column}" in str(error.value)


def test_sides_are_compared_together(dataset):
    poke(dataset, "label_width", 1, 1025)
    poke(dataset, "label_height", 1, 1 << 20)
    with pytest.raises(ShardError, match="row 1 must be at most 1073741824 with label_width"):
        shards.open(dataset)
    poke(dataset, "label_width", 1, 1024)
    shards.open(dataset).close()


@pytest.mark.parametrize("column", ["polygon", "keypoints"])
def test_points_are_checked_by_verify(dataset, column):
    byte = poke(dataset, column, 7, float("nan"), 1)
    problems = verify(dataset).problems
    assert any(f"byte {byte}: column {column}" in problem for problem in problems)


def _pop(key):
    return lambda content: content.pop(key)


def _put(key, value):
    return lambda content: content.__setitem__(key, value)


def _shard(key, value):
    return lambda content: content["shards"][1].__setitem__(key, value)


BAD_META = [
    (_put("format_version", 2), "format_version must be 1, got 2"),
    (_put("format_version", True), "format_version"),
    (_pop("codec"), "missing keys"),
    (_put("more", 1), "unknown keys"),
    (_put("codec", "webm"), "codec must be one of"),
    (_put("imgsz", 0), "imgsz"),
    (_put("imgsz", 32.0), "imgsz"),
    (_put("imgsz", 64), "imgsz=64"),
    (_put("names", []), "names"),
    (_put("names", ["cat"]), "below 1"),
    (_put("names", {"0": "cat"}), "names"),
    (_put("split", None), "split"),
    (_put("kpt_shape", [3, 4]), "kpt_shape"),
    (_put("kpt_shape", [4, 3]), "flip_idx"),
    (_put("kpt_shape", [(1 << 16) + 1, 3]), "kpt_shape must be null or"),
    (_put("kpt_shape", None), "flip_idx"),
    (_put("flip_idx", [0, 1, 3]), "flip_idx"),
    (_put("source", []), "source"),
    (_put("images", -1), "images"),
    (_put("images", 18), "images must be at most 17|column offset must be"),
    (_put("images", 1 << 47), "images must be at most 17: its shards have"),
    (_put("imgsz", 16385), "imgsz must be an integer from 1 to 16384"),
    (_put("split", "../train"), "split must be one of"),
    (_put("objects", 7), "column object_offset|column polygon_offset|must be"),
    (_put("left_out", [["a"]]), "left_out"),
    (_put("shards", []), "images must be at most 0"),
    (_shard("file", "../shard-00001.safetensors"), "shard-00001.safetensors at place 1"),
    (_shard("nbytes", 3 * 4096 + 64), "4096-byte pages"),
    (_shard("nbytes", -64), "shards"),
    (_shard("nbytes", 1 << 40), "ends at byte"),
    (_shard("checksum", "0" * 16), "shards"),
    (lambda c: c["shards"].pop(), "images must be at most 15"),
    (lambda c: c["labels"].__setitem__("file", "/etc/passwd"), "labels must be"),
    (lambda c: c["labels"].__setitem__("checksum", "xyz"), "labels must be"),
    (lambda c: c["labels"].__setitem__("nbytes", 100), "labels.safetensors: has"),
]


def test_a_shard_that_is_no_file(dataset):
    (dataset / "shard-00001.safetensors").unlink()
    os.mkfifo(dataset / "shard-00001.safetensors")
    with pytest.raises(ShardError, match=r"shard-00001\.safetensors: is no file; restore"):
        shards.open(dataset)


@pytest.mark.parametrize(("change", "words"), BAD_META)
def test_a_dataset_json_that_breaks_its_rule(dataset, change, words):
    sign(dataset, change)
    with pytest.raises(ShardError, match=words):
        shards.open(dataset)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": 1e999999}',
        b'{"a":' + b"9" * 9999 + b"}",
    ],
)
def test_a_dataset_json_that_is_none(dataset, text):
    (dataset / "dataset.json").write_bytes(text)
    with pytest.raises(ShardError, match=r"dataset\.json"):
        shards.open(dataset)


def test_an_edited_dataset_json(dataset):
    text = (dataset / "dataset.json").read_text()
    (dataset / "dataset.json").write_text(text.replace("cat", "cow"))
    with pytest.raises(ShardError, match=r"edited or damaged.*yolodata labels"):
        shards.open(dataset)
    (dataset / "dataset.json").write_text(json.dumps(json.loads(text)))  # spaces do not matter
    shards.open(dataset)


@pytest.mark.parametrize("name", ["labels.safetensors", "shard-00001.safetensors", "dataset.json"])
def test_a_missing_file(dataset, name):
    (dataset / name).unlink()
    with pytest.raises(ShardError, match=f"{name}.*No such file"):
        shards.open(dataset)


@pytest.mark.parametrize("name", ["labels.safetensors", "shard-00001.safetensors"])
@pytest.mark.parametrize("change", [-4096, -1, 1, 4096])
def test_a_file_of_another_size(dataset, name, change):
    data = (dataset / name).read_bytes()
    (dataset / name).write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(ShardError, match=f"{name}.*{len(data) + change}.*{len(data)}"):
        shards.open(dataset)


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_shard_header_is_checked_before_a_sample_is_given(dataset, io):
    file = dataset / "shard-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    opened = shards.open(dataset, io=io)
    first = int(np.searchsorted(opened.shard, 1))
    opened.sample(first - 1)
    with pytest.raises(ShardError, match=r"shard-00001\.safetensors: byte 40: not the header"):
        opened.sample(first)
    assert any("byte 40" in problem for problem in verify(dataset, io=io).problems)


def test_a_labels_header_of_another_shape(dataset):
    file = dataset / "labels.safetensors"
    data = file.read_bytes()
    for old, new in ((b'"box"', b'"bax"'), (b'"U64"', b'"I64"'), (b'"cls":', b'"cls" ')):
        file.write_bytes(data.replace(old, new, 1))
        with pytest.raises(ShardError, match=r"labels\.safetensors"):
            shards.open(dataset)
    file.write_bytes((1 << 62).to_bytes(8, "little") + data[8:])
    with pytest.raises(ShardError, match="byte 0: the header claims"):
        shards.open(dataset)


def test_pread_survives_what_a_map_would_not(dataset):
    """A file that becomes shorter while it is open: an error, where a map would kill us."""
    opened = shards.open(dataset, io="pread")
    opened.sample(0)
    with open(dataset / "shard-00000.safetensors", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(ShardError, match=r"shard-00000\.safetensors: ends at byte 5000"):
        opened.sample(0)


def test_full_verification_names_the_sample(dataset):
    opened = shards.open(dataset)
    file = dataset / "shard-00002.safetensors"
    i = int(np.searchsorted(opened.shard, 2)) + 1
    at = 4096 + int(opened.offset[i])
    clean = file.read_bytes()
    for byte, words in (
        (5, f"{opened.name(i)} has checksum"),
        (4095, rf"byte {4095 - opened.nbytes[i]} behind {opened.name(i)} must be 0"),
    ):
        data = bytearray(clean)
        data[at + byte] ^= 4
        file.write_bytes(data)
        assert verify(dataset).ok  # the structure is good
        (problem,) = verify(dataset, full=True).problems
        assert re.search(rf"shard-00002.safetensors: byte {at}: {words}", problem)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_damage_is_an_error_or_harmless(packed, tmp_path_factory, data):
    """Bit flips, cuts and garbage: opening and reading raise ShardError or work; nothing crashes;
    full verification finds all but changed spaces in dataset.json."""
    clean = shard_samples.contents(packed)
    path = tmp_path_factory.mktemp("fuzz")
    name = data.draw(st.sampled_from(sorted(clean)))
    damaged = bytearray(clean[name])
    # Headers and index first: most of a file's bytes are pixels.
    at = data.draw(st.integers(0, len(damaged) - 1) | st.integers(0, min(2500, len(damaged) - 1)))
    kind = data.draw(st.sampled_from(["flip", "flip", "cut", "garbage", "insert"]))
    if kind == "flip":
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "garbage":
        garbage = data.draw(st.binary(min_size=1, max_size=16))
        damaged[at : at + len(garbage)] = garbage
    else:
        damaged[at:at] = data.draw(st.binary(min_size=1, max_size=8))
    try:
        for file, content in clean.items():
            (path / file).write_bytes(damaged if file == name else content)
        for io in ("mmap", "pread"):
            try:
                with shards.open(path, io=io) as dataset:
                    for i in range(len(dataset)):
                        dataset.image(i)
                        dataset.name(i)
            except ShardError as error:
                assert name in str(error)  # noqa: PT017
        report = verify(path, full=True, workers=1)
        if report.ok:
            assert shards.read_meta(path) == shards.read_meta(packed)
            assert name == "dataset.json" or damaged == clean[name]
    finally:
        shutil.rmtree(path)
