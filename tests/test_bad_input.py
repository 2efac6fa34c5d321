"""Bad and odd input: what is refused, what is accepted, which pixels and labels are stored.

Upstream's own checker and image reader run on a copy of the same files, and have to agree. All
images are packed once, as one dataset, whose list also names files that do not exist.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import yaml
from bad_images import images
from ingesting import Verdict, copy_tree, jpeg, picture, tree_hash, upstream_verdict
from test_ingest_labels import CASES as LABELS

from yolodata import shards
from yolodata.images.decode import decode_image
from yolodata.ingest import PackSettings, pack

IMGSZ = 48
IMAGES = dict(images())
ABSENT = ("missing.jpg", "broken_link.jpg", "folder.jpg")
NOT_IMAGES = ("movie.gif", "notes.txt", "archive.jpg.zip", "no_suffix")
BOX = "1 0.5 0.5 0.25 0.5\n"


class Packed(NamedTuple):
    root: Path  # of the source that upstream may change
    ours: dict[str, int]  # file name -> row
    left_out: dict[str, str]  # file name -> reason
    raw: shards.ShardDataset
    encoded: shards.ShardDataset


def build(root: Path) -> None:
    folder, labels = root / "images", root / "labels"
    folder.mkdir(parents=True)
    labels.mkdir()
    names = []
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)
        (labels / name).with_suffix(".txt").write_text(BOX)
        names.append(name)
    for k, (case, (text, _)) in enumerate(LABELS.items()):
        name = f"label_{k:02}.jpg"
        (folder / name).write_bytes(jpeg(picture(k, 30, 40)))
        if text is not None:
            content = text.encode() if isinstance(text, str) else text
            (labels / name).with_suffix(".txt").write_bytes(content)
        names.append(name)
    (folder / "folder.jpg").mkdir()
    (folder / "broken_link.jpg").symlink_to("nowhere.jpg")
    (folder / "link.jpg").symlink_to("good.jpg")
    names += [*ABSENT, *NOT_IMAGES, "link.jpg"]
    (root / "train.txt").write_text("".join(f"./images/{name}\r\n" for name in names), "utf-8-sig")
    data = {"path": str(root), "train": "train.txt", "val": "train.txt", "names": ["a", "b", "c"]}
    (root / "data.yaml").write_text(yaml.safe_dump(data))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    base = tmp_path_factory.mktemp("bad")
    root = base / "source"
    build(root)
    before = tree_hash(root)
    for codec in ("raw", "jpeg"):
        out = base / codec
        pack(
            root / "data.yaml",
            out,
            PackSettings(codec=codec, imgsz=IMGSZ),
            splits=["train"],
            progress=False,
        )
    assert tree_hash(root) == before
    raw, encoded = shards.open(base / "raw"), shards.open(base / "jpeg")
    assert raw.meta.left_out == encoded.meta.left_out
    ours = {os.path.basename(raw.name(i)): i for i in range(len(raw))}
    left_out = {os.path.basename(name): reason for name, reason in raw.meta.left_out}
    assert len(ours) == len(raw) == len(encoded)
    copy = copy_tree(root, base / "copy")  # upstream rewrites truncated files
    return Packed(copy, ours, left_out, raw, encoded)


def usable(verdict: Verdict) -> bool:
    """Accepted by the checker, and then an 8-bit colour picture for the image reader."""
    pixels = verdict.pixels
    if verdict.refused or pixels is None:
        return False
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def resized(pixels: np.ndarray) -> np.ndarray:
    """Upstream's load_image, written again."""
    height, width = pixels.shape[:2]
    ratio = IMGSZ / max(height, width)
    if ratio != 1:
        size = min(math.ceil(width * ratio), IMGSZ), min(math.ceil(height * ratio), IMGSZ)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    return pixels


def check(packed: Packed, name: str) -> None:
    verdict = upstream_verdict(str(packed.root / "images" / name), classes=3)
    if not usable(verdict):
        assert name not in packed.ours, f"upstream: {verdict.refused or 'cannot be decoded'}"
        assert packed.left_out[name]
        assert "0x" not in packed.left_out[name]
        assert len(packed.left_out[name]) < 400
        return
    assert name in packed.ours, f"accepted upstream, left out here: {packed.left_out[name]}"
    assert verdict.cls is not None
    assert verdict.box is not None
    assert verdict.pixels is not None
    i = packed.ours[name]
    for dataset in (packed.raw, packed.encoded):
        stored = int(dataset.orig_height[i]), int(dataset.orig_width[i])
        assert stored == verdict.pixels.shape[:2]
        assert (int(dataset.label_height[i]), int(dataset.label_width[i])) == verdict.shape
        a, b = (int(x) for x in dataset.object_offset[i : i + 2])
        assert dataset.cls[a:b].tobytes() == np.ascontiguousarray(verdict.cls).tobytes()
        assert dataset.box[a:b].tobytes() == np.ascontiguousarray(verdict.box).tobytes()
        points = [int(x) for x in dataset.polygon_offset[a : b + 1]]
        if verdict.polygons:
            whole = np.concatenate(verdict.polygons)
            assert dataset.polygon[points[0] : points[-1]].tobytes() == whole.tobytes()
            assert np.diff(points).tolist() == [len(p) for p in verdict.polygons]
        else:
            assert points[0] == points[-1]
    np.testing.assert_array_equal(packed.raw.image(i), resized(verdict.pixels)[..., ::-1])
    np.testing.assert_array_equal(packed.encoded.image(i), packed.raw.image(i))
    data = packed.encoded.sample(i)
    np.testing.assert_array_equal(decode_image(data, None, packed.raw.name(i)), verdict.pixels)
    # Upstream's file after its check, rewritten or not; of several scans another file is stored.
    if name in IMAGES and name != "progressive.jpg":
        assert data.tobytes() == (packed.root / "images" / name).read_bytes()


@pytest.mark.parametrize("name", [*IMAGES, *ABSENT, "link.jpg"])
def test_image(packed: Packed, name: str) -> None:
    check(packed, name)


@pytest.mark.parametrize("case", LABELS)
def test_label(packed: Packed, case: str) -> None:
    name = f"label_{list(LABELS).index(case):02}.jpg"
    check(packed, name)
    assert (name in packed.ours) == LABELS[case][1]


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_listed_files_that_are_no_images_are_reported(packed: Packed, name: str) -> None:
    assert name not in packed.ours
    assert "suffix is not that of an image" in packed.left_out[name]


def test_every_file_is_either_stored_or_left_out_with_a_reason(packed: Packed) -> None:
    lines = (packed.root / "train.txt").read_text("utf-8-sig").splitlines()
    names = {os.path.basename(line) for line in lines}
    assert names == set(packed.ours) | set(packed.left_out)
    assert not set(packed.ours) & set(packed.left_out)


def test_both_outcomes_occur() -> None:
    """The table would prove nothing if everything were refused."""
    assert len(IMAGES) >= 60


def test_known_outcomes(packed: Packed) -> None:
    """Some facts, independent of upstream's code: a check of the check."""
    for name in ("cmyk.jpg", "grey.jpg", "rgba.png", "palette.png", "newline_at_end.jpg"):
        assert name in packed.ours
    for name in ("zero_bytes.jpg", "text.jpg", "bomb.png", "nine_pixels_high.jpg", "missing.jpg"):
        assert name in packed.left_out
    i = packed.ours["turned_6.jpg"]
    assert int(packed.raw.orig_height[i]) > int(packed.raw.orig_width[i])
