"""What a fuzzer gives its bytes to: readers of files that come from somebody else.

A target takes any bytes and returns; what it may raise is handled here, and everything else that a
reader raises is a finding. `python tests/fuzz/run.py` runs them under a coverage-guided fuzzer;
`tests/test_fuzz.py` gives them the files of `corpus/`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from yolodata import shards
from yolodata.cost.measurements import measurements
from yolodata.diff.results import read_results
from yolodata.doctor.runs import examine_run
from yolodata.errors import ConfigError, DatasetError, ShardError
from yolodata.folders import Folder
from yolodata.info import info_cli
from yolodata.ingest import dataset_yaml, image_check, rle
from yolodata.ingest.labels import labels_of_any, labels_of_most
from yolodata.ingest.sample import LabelRules, RawLabels, Refused
from yolodata.ingest.source import open_source
from yolodata.ingest.text import decode_text, decode_xml
from yolodata.provenance import weights
from yolodata.provenance.manifest import RunManifest
from yolodata.shards import left_out, notes, records
from yolodata.shards.format import DATASET_FILE, DatasetMeta, content_checksum
from yolodata.terminal import printable
from yolodata.train.checkpoint.manifest import Entry, Manifest
from yolodata.train.settings import TrainSettings

TARGETS: dict[str, Callable[[bytes], None]] = {}
OF_A_RUN = ("steps.csv", "journal.jsonl", "args.yaml", "yolodata.yaml", "results.csv")
SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".avif", ".ppm", ".jp2", ".mpo")


def target(function: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Puts a function on the list."""
    TARGETS[function.__name__] = function
    return function


@cache
def folder() -> Path:
    """A folder of this process, in memory where there is such a place."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@target
def dataset_json(data: bytes) -> None:
    """dataset.json: as it is, and with the checksum that its content has."""
    with contextlib.suppress(ShardError):
        DatasetMeta.from_json(data, "dataset.json")
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        if isinstance(content, dict):
            content.pop("checksum", None)
            content["checksum"] = content_checksum(content)
            with contextlib.suppress(ShardError):
                meta = DatasetMeta.from_json(json.dumps(content).encode(), "dataset.json")
                assert DatasetMeta.from_json(meta.to_json(), "dataset.json") == meta


@cache
def _small_dataset() -> tuple[Path, DatasetMeta, bytes]:
    """A dataset of three pictures with every kind of label, and the bytes of its labels file."""
    path = folder() / "dataset"
    meta = DatasetMeta(
        "raw", 32, {0: "cat", 1: "dog"}, kpt_shape=(2, 3), flip_idx=(1, 0), source={"kind": "drawn"}
    )
    with shards.ShardWriter(path, meta) as writer:
        for i in range(3):
            n = i + 1
            writer.append(
                shards.StoredSample(
                    data=np.full((24 - i, 32, 3), 50 * i, np.uint8),
                    height=24 - i, width=32, orig_height=24 - i, orig_width=32,
                    label_height=24 - i, label_width=32,
                    name=f"{i}.jpg",
                    cls=np.arange(n, dtype=np.float32) % 2,
                    box=np.full((n, 4), 0.5, np.float32),
                    polygons=[np.full((3, 2), 0.25, np.float32)] * n,
                    keypoints=np.full((n, 2, 3), 0.5, np.float32),
                )
            )  # fmt: skip
        meta = writer.finish()
    return path, meta, (path / meta.labels.file).read_bytes()


@target
def labels_file(data: bytes) -> None:
    """Changes of a labels file whose checksum is right; each is 1 byte where and 1 byte what."""
    from yolodata import Loader, ReadOptions
    from yolodata.pipeline.config import AugmentConfig

    path, meta, original = _small_dataset()
    content = bytearray(original)
    for at in range(0, len(data) - 3, 4):
        where = int.from_bytes(data[at : at + 2], "little") % len(content)
        content[where] = data[at + 2] if data[at + 3] % 2 else content[where] ^ data[at + 2]
    if len(data) % 4 == 1:
        del content[int(data[-1]) :]
    labels = bytes(content)
    entry = shards.format.LabelsEntry(
        meta.labels.file, len(labels), xxhash.xxh3_64_hexdigest(labels)
    )
    (path / meta.labels.file).write_bytes(labels)
    (path / DATASET_FILE).write_bytes(meta.with_results(labels=entry).to_json())
    with contextlib.suppress(ShardError), shards.open(path) as dataset:
        dataset.check_values()
        for i in range(len(dataset)):
            dataset.name(i)
            dataset.image(i)
        recipe = AugmentConfig(imgsz=32, perspective=0.001, copy_paste=0.5, mixup=0.5, cutmix=0.5)
        reading = ReadOptions(threads=1)
        with Loader(dataset, batch_size=3, augment=recipe, device="cpu", reading=reading) as loader:
            for _ in loader:
                pass


@target
def yolo_label(data: bytes) -> None:
    """A label file, as boxes or outlines and as keypoints; both readers of it agree."""
    for rules in (
        LabelRules(classes=3, keypoints=0, dims=0, pose=False, single_cls=False),
        LabelRules(classes=3, keypoints=2, dims=3, pose=True, single_cls=False),
        LabelRules(classes=1, keypoints=2, dims=2, pose=True, single_cls=True),
    ):
        fast = labels_of_most(data, rules, ())
        try:
            slow = labels_of_any(data, RawLabels(data), rules)
        except Refused:
            assert fast is None
            continue
        if fast is not None:
            for a, b in ((fast.cls, slow.cls), (fast.box, slow.box)):
                np.testing.assert_array_equal(a, b)


def _pack_labels(name: str, data: bytes, format: str) -> None:
    root = folder() / format
    (root / "images").mkdir(parents=True, exist_ok=True)
    for image in ("a.jpg", "b.jpg"):
        (root / "images" / image).touch()
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(data)
    with contextlib.suppress(DatasetError):
        source = open_source(root, format=format)
        for split in source.splits.values():
            for index in range(len(split.paths)):
                with contextlib.suppress(Refused):
                    split.raw_labels(index)


@target
def coco(data: bytes) -> None:
    """A COCO annotation file."""
    _pack_labels("annotations/instances_train.json", data, "coco")


@target
def voc(data: bytes) -> None:
    """An annotation of Pascal VOC."""
    _pack_labels("Annotations/a.xml", data, "voc")


@target
def yaml(data: bytes) -> None:
    """A dataset YAML."""
    file = folder() / "data.yaml"
    file.write_bytes(data)
    with contextlib.suppress(DatasetError):
        content = dataset_yaml.read_yaml(file)
        dataset_yaml.check_keys(content, "data.yaml", None)
        dataset_yaml.class_names(content, "data.yaml")
        dataset_yaml.keypoints(content, "data.yaml")


@target
def image_list(data: bytes) -> None:
    """A list of images, as a dataset YAML names it."""
    root = folder() / "list"
    root.mkdir(exist_ok=True)
    (root / "train.txt").write_bytes(data)
    with contextlib.suppress(DatasetError):
        open_source({"path": str(root), "train": "train.txt", "val": "train.txt", "names": ["a"]})


@target
def text(data: bytes) -> None:
    """Text in any encoding."""
    with contextlib.suppress(ValueError):
        decode_text(data)
    with contextlib.suppress(ValueError):
        decode_xml(data)


@target
def masks(data: bytes) -> None:
    """A packed run-length mask of at most 255 x 255 pixels."""
    if len(data) < 2:
        return
    with contextlib.suppress(ValueError):
        mask = rle.decode_rle(data[2:], data[0], data[1])
        assert mask.shape == (data[0], data[1])


@target
def picture(data: bytes) -> None:
    """A picture file; the first byte says what its name ends in."""
    if not data:
        return
    name = "x" + SUFFIXES[data[0] % len(SUFFIXES)]
    with contextlib.suppress(DatasetError, Refused, MemoryError):
        checked = image_check.check_image(data[1:], name)
        decoded = image_check.decode(data[1:], name, 32)
        assert decoded.ndim == 3
        height, width = image_check.decoded_shape(checked, name)
        assert max(decoded.shape[:2]) <= max(32, 1)
        assert height > 0
        assert width > 0


@target
def export(data: bytes) -> None:
    """A file beside images, of a format that has to be found out; the first byte is its name."""
    if not data:
        return
    names = ("a.json", "labels/a.txt", "Annotations/a.xml", "data.yaml", "a.csv", "obj.data")
    root = folder() / "export"
    shutil.rmtree(root, ignore_errors=True)
    file = root / names[data[0] % len(names)]
    (root / "images").mkdir(parents=True)
    (root / "images" / "a.jpg").touch()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data[1:])
    with contextlib.suppress(DatasetError):
        for split in open_source(root).splits.values():
            for index in range(len(split.paths)):
                with contextlib.suppress(Refused):
                    split.raw_labels(index)


@target
def unfinished(data: bytes) -> None:
    """A record of an unfinished pack, whose checksum is right."""
    root = folder() / "work"
    root.mkdir(exist_ok=True)
    record = xxhash.xxh3_64_hexdigest(data).encode() + b"\n" + data
    for name in ("settings", "part-00000"):
        (root / name).write_bytes(record)
    with Folder.at(root) as work:
        records.load_settings(work)
        for keypoints in (None, 2):
            for part in records.load_parts(work, keypoints):
                assert all(len(text) == 2 for text in part.left_out)


@target
def beside_splits(data: bytes) -> None:
    """What is said beside the splits: notes.json and left_out.json."""
    root = folder() / "beside"
    root.mkdir(exist_ok=True)
    for name, read in (
        (notes.NOTES, notes.read_notes),
        (left_out.LEFT_OUT, left_out.read_left_out),
    ):
        (root / name).write_bytes(data)
        with contextlib.suppress(ShardError):
            read(root)


@target
def run_manifest(data: bytes) -> None:
    """The manifest of a run; what of it is shown does nothing to a terminal."""
    with contextlib.suppress(ValueError):
        manifest = RunManifest.from_json(data)
        assert RunManifest.from_json(manifest.to_json()) == manifest
        shown = "\n".join(info_cli._lines(Path("run"), manifest, True))
        assert printable(shown, "\n") == shown


@target
def upload_manifest(data: bytes) -> None:
    """A manifest at an upload URL."""
    with contextlib.suppress(ValueError):
        found = Manifest.decode(data, Entry(12, "9f86d081884c7d65"))
        assert all(".." not in facts.name.split("/") for facts in found.all)
        assert Manifest.decode(found.encode(), Entry(12, "9f86d081884c7d65")) == found


@target
def weights_file(data: bytes) -> None:
    """The manifest in a file of weights."""
    file = folder() / "best.pt"
    file.write_bytes(data)
    with contextlib.suppress(ValueError):
        weights.read(file)


@target
def run_records(data: bytes) -> None:
    """Records and settings of a run; the first byte says which of them the others are."""
    if not data:
        return
    root = folder() / "run"
    root.mkdir(exist_ok=True)
    corpus = Path(__file__).parent / "corpus" / "run_records"
    for number, name in enumerate(OF_A_RUN):
        mine = number == data[0] % len(OF_A_RUN)
        (root / name).write_bytes((data if mine else (corpus / name).read_bytes())[1:])
    for read in (TrainSettings.of_run, read_results, measurements, examine_run):
        with contextlib.suppress(ConfigError):
            read(root)


@cache
def _loader() -> tuple[Any, dict[str, Any]]:
    from yolodata import Loader, ReadOptions

    path, _, _ = _small_dataset()
    loader = Loader(path, batch_size=3, device="cpu", reading=ReadOptions(threads=1))
    return loader, loader.state_dict()


@target
def loader_state(data: bytes) -> None:
    """Changes of the place in a stream, as JSON has them."""
    loader, state = _loader()
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
        for given in (content, {**state, **content} if isinstance(content, dict) else content):
            with contextlib.suppress(ConfigError):
                loader.load_state_dict(given)
                assert 0 <= loader.state_dict()["position"] <= 3
