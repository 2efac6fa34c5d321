"""In what two datasets or runs differ: every kind alone, all together, and none."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from bounded import bounded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolodata.cli import main
from yolodata.diff.classes import compare_classes
from yolodata.diff.dataset_report import DatasetReport
from yolodata.diff.datasets import DatasetDiff, diff_datasets
from yolodata.diff.keys import paired
from yolodata.diff.labels import ADDED, OTHER_CLASS, OTHER_SHAPE, REMOVED
from yolodata.diff.results import read_results
from yolodata.errors import ConfigError, DatasetError, ShardError
from yolodata.images.resize import resized_shape
from yolodata.provenance import weights
from yolodata.provenance.dataset_version import DatasetVersion, differences
from yolodata.provenance.manifest import RunManifest
from yolodata.shards import DatasetMeta, LeftOut, ShardDataset, ShardWriter, StoredSample

META = DatasetMeta("raw", 32, {0: "cat", 1: "dog", 2: "bird"})
CAT, DOG, BIRD = range(3)


@dataclass(frozen=True)
class Thing:
    """An object: its class, what its box and its outline are drawn from, corners of the outline."""

    cls: int
    shape: int
    corners: int = 0
    outline: int = 0


@dataclass(frozen=True)
class Image:
    """An image: where it is, what its pixels are drawn from, its objects."""

    name: str
    pixels: int
    things: tuple[Thing, ...] = ()
    split: str = "train"
    size: tuple[int, int] = (40, 60)


def stored(image: Image, meta: DatasetMeta) -> StoredSample:
    height, width = resized_shape(*image.size, meta.imgsz)
    data = np.random.default_rng(image.pixels).integers(0, 256, (height, width, 3)).astype("u1")
    shapes = [np.random.default_rng(thing.shape) for thing in image.things]
    n, points = len(shapes), meta.keypoints
    box = np.array([s.random(4) for s in shapes], "f4").reshape(n, 4)
    polygons = [
        np.random.default_rng(thing.outline).random((thing.corners, 2)).astype("f4")
        for thing in image.things
    ]
    keypoints = None
    if points is not None:
        keypoints = np.array([s.random((points, 3)) for s in shapes], "f4").reshape(n, points, 3)
    cls = np.array([thing.cls for thing in image.things], "f4")
    return StoredSample(
        data if meta.codec == "raw" else data.tobytes() + b"jpeg",
        height, width, *image.size, *image.size, image.name, cls, box, polygons, keypoints,
    )  # fmt: skip


def pack(
    root: Path, images: Sequence[Image], meta: DatasetMeta = META, left_out: Sequence[str] = ()
) -> Path:
    """Packs images into their splits, without waiting for the disk."""
    for split in dict.fromkeys(image.split for image in images):
        with (
            mock.patch("os.fsync"),
            ShardWriter(root / split, replace(meta, split=split), 1 << 20) as writer,
        ):
            writer.store([stored(i, meta) for i in images if i.split == split])
            if split == "train" and left_out:
                writer.store([LeftOut(name, "corrupt") for name in left_out])
            writer.finish()
    return root


BASE = (
    Image("d/1.jpg", 1, (Thing(CAT, 1), Thing(DOG, 2, 3), Thing(DOG, 3))),
    Image("d/2.jpg", 2, (Thing(BIRD, 4, 5),)),
    Image("d/3.jpg", 3),
    Image("d/4.jpg", 4, (Thing(CAT, 5),), "val"),
    Image("d/5.jpg", 5, (Thing(CAT, 6), Thing(CAT, 6)), "val"),
)


def edited(number: int, **values: Any) -> tuple[Image, ...]:
    """BASE with one image changed."""
    return (*BASE[:number], replace(BASE[number], **values), *BASE[number + 1 :])


def found(diff: DatasetDiff) -> dict[str, list[str]]:
    """The names in every list that is not empty: of an image that was removed the old one."""
    report = DatasetReport(diff, every=True)
    content = json.loads("".join(report.json()))
    assert {k: len(rows) for k, rows in content["images"].items()} == content["counts"]
    return {
        name: sorted(row["name"] for row in rows)
        for name, rows in content["images"].items()
        if rows
    }


def compared(
    tmp_path: Path,
    a: Sequence[Image],
    b: Sequence[Image],
    meta_a: DatasetMeta = META,
    meta_b: DatasetMeta = META,
) -> DatasetDiff:
    return diff_datasets(pack(tmp_path / "a", a, meta_a), pack(tmp_path / "b", b, meta_b))


@pytest.mark.parametrize("moved", [False, True])
def test_the_folder_of_a_split_is_no_part_of_a_name(tmp_path: Path, moved: bool) -> None:
    a = [Image(f"/old/train/{k}.jpg", k) for k in range(5)] + [
        Image("/old/val/9.jpg", 9, (), "val")
    ]
    root = "/new" if moved else "/old"
    b = [replace(i, name=root + i.name[4:].replace("/train/", "/train2017/")) for i in a]
    assert found(compared(tmp_path, a, b)) == {}
    b[2] = replace(b[2], name=f"{root}/train2017/other.jpg")
    assert found(compared(tmp_path / "other", a, b)).keys() == {"renamed"}


def tallied(diff: DatasetDiff) -> dict[tuple[int, str, str], int]:
    names = [*diff.classes.names, ""]
    return {(kind, names[a], names[b]): n for (kind, a, b), n in diff.tally.items()}


ONE = BASE[0].things
ALONE: dict[str, tuple[tuple[Image, ...], dict[str, list[str]], dict[Any, int]]] = {
    "nothing": (BASE, {}, {}),
    "added": ((*BASE, Image("d/6.jpg", 6)), {"added": ["d/6.jpg"]}, {}),
    "removed": (BASE[:2] + BASE[3:], {"removed": ["d/3.jpg"]}, {}),
    "moved": (edited(1, split="val"), {"moved": ["d/2.jpg"]}, {}),
    "renamed": (edited(1, name="d/two.jpg"), {"renamed": ["d/two.jpg"]}, {}),
    "changed": (edited(1, pixels=9), {"changed": ["d/2.jpg"]}, {}),
    "another size": (edited(1, size=(80, 120)), {"changed": ["d/2.jpg"]}, {}),
    "swapped": (
        (replace(BASE[0], name="d/2.jpg"), replace(BASE[1], name="d/1.jpg"), *BASE[2:]),
        {"renamed": ["d/1.jpg", "d/2.jpg"]},
        {},
    ),
    "object added": (
        edited(2, things=(Thing(DOG, 7),)),
        {"relabelled": ["d/3.jpg"]},
        {(ADDED, "", "dog"): 1},
    ),
    "object removed": (
        edited(0, things=ONE[1:]), {"relabelled": ["d/1.jpg"]}, {(REMOVED, "cat", ""): 1},
    ),
    "one of two equal objects removed": (
        edited(4, things=(Thing(CAT, 6),)),
        {"relabelled": ["d/5.jpg"]},
        {(REMOVED, "cat", ""): 1},
    ),
    "another class": (
        edited(0, things=(ONE[0], replace(ONE[1], cls=BIRD), ONE[2])),
        {"relabelled": ["d/1.jpg"]},
        {(OTHER_CLASS, "dog", "bird"): 1},
    ),
    "another box": (
        edited(0, things=(replace(ONE[0], shape=99), *ONE[1:])),
        {"relabelled": ["d/1.jpg"]},
        {(OTHER_SHAPE, "cat", "cat"): 1},
    ),
    "a corner elsewhere": (
        edited(1, things=(replace(BASE[1].things[0], outline=1),)),
        {"relabelled": ["d/2.jpg"]},
        {(OTHER_SHAPE, "bird", "bird"): 1},
    ),
    "another corner": (
        edited(1, things=(replace(BASE[1].things[0], corners=6),)),
        {"relabelled": ["d/2.jpg"]},
        {(OTHER_SHAPE, "bird", "bird"): 1},
    ),
    "objects in another order": (
        edited(0, things=ONE[::-1]), {"objects_reordered": ["d/1.jpg"]}, {},
    ),
    "all at once": (
        (
            Image("d/6.jpg", 6),
            replace(BASE[0], name="d/one.jpg", split="val", things=ONE[:2]),
            replace(BASE[1], pixels=8, things=()),
            *BASE[3:],
        ),
        {
            "added": ["d/6.jpg"], "removed": ["d/3.jpg"], "moved": ["d/one.jpg"],
            "renamed": ["d/one.jpg"], "changed": ["d/2.jpg"],
            "relabelled": ["d/2.jpg", "d/one.jpg"],
        },
        {(REMOVED, "dog", ""): 1, (REMOVED, "bird", ""): 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def test_each_kind_of_difference_is_found_and_no_other(tmp_path: Path, case: str) -> None:
    images, lists, objects = ALONE[case]
    diff = compared(tmp_path, BASE, images)
    assert found(diff) == lists
    assert tallied(diff) == objects
    assert diff.same == (case == "nothing")
    assert not diff.settings
    assert not diff.classes
    assert not diff.order


@dataclass(frozen=True)
class Edit:
    """What becomes of one image, and in which lists it then has to stand."""

    lists: tuple[str, ...]
    rename: bool = False
    move: bool = False
    repaint: bool = False
    things: str = ""


EDITS = [
    Edit(()), Edit(("removed",)), Edit(("renamed",), rename=True), Edit(("moved",), move=True),
    Edit(("changed",), repaint=True), Edit(("removed", "added"), rename=True, repaint=True),
    Edit(("moved", "renamed"), rename=True, move=True), Edit(("moved", "changed"), move=True,
    repaint=True), Edit(("relabelled",), things="add"), Edit(("relabelled",), things="class"),
    Edit(("relabelled",), things="shape"), Edit(("relabelled",), things="remove"),
    Edit(("renamed", "relabelled"), rename=True, things="class"),
    Edit(("moved", "changed", "relabelled"), move=True, repaint=True, things="remove"),
]  # fmt: skip
KIND_OF = {"add": ADDED, "remove": REMOVED, "class": OTHER_CLASS, "shape": OTHER_SHAPE}


def apply(image: Image, edit: Edit) -> Image:
    first, *rest = image.things
    things = {
        "": image.things,
        "add": (*image.things, Thing(BIRD, 5000 + image.pixels)),
        "remove": tuple(rest),
        "class": (replace(first, cls=(first.cls + 1) % 3), *rest),
        "shape": (replace(first, shape=6000 + image.pixels), *rest),
    }[edit.things]
    return replace(
        image,
        name=image.name.replace("/", "/new") if edit.rename else image.name,
        split={"train": "val", "val": "train"}[image.split] if edit.move else image.split,
        pixels=image.pixels + 1000 * edit.repaint,
        things=things,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=st.lists(st.sampled_from(EDITS), min_size=2, max_size=14), data=st.data())
def test_random_edits_are_found_exactly(
    tmp_path_factory: pytest.TempPathFactory, edits: list[Edit], data: st.DataObject
) -> None:
    before = [
        Image(
            f"d/{i}.jpg", i, tuple(Thing(i % 3, 10 * i + k, i % 4) for k in range(1 + i % 3)),
            data.draw(st.sampled_from(["train", "val"])),
        )
        for i in range(len(edits))
    ]  # fmt: skip
    stay = [Image("d/x.jpg", 998, split="train"), Image("d/y.jpg", 999, split="val")]
    kept = [(i, e) for i, e in zip(before, edits, strict=True) if e.lists != ("removed",)]
    after = [apply(image, edit) for image, edit in kept]
    diff = compared(tmp_path_factory.mktemp("diff"), [*before, *stay], [*after, *stay])
    want: dict[str, list[str]] = {}
    objects: Counter[tuple[int, int, int]] = Counter()
    for image, edit in zip(before, edits, strict=True):
        for name in edit.lists:
            old = name == "removed"
            want.setdefault(name, []).append((image if old else apply(image, edit)).name)
        if edit.things:
            was, now = image.things[0].cls, apply(image, edit).things
            pair = {
                "add": (-1, BIRD), "remove": (was, -1), "shape": (was, was),
                "class": (was, now[0].cls if now else -1),
            }[edit.things]  # fmt: skip
            objects[(KIND_OF[edit.things], *pair)] += 1
    assert found(diff) == {name: sorted(names) for name, names in want.items()}
    assert diff.tally == objects
    assert diff.same == (not want)


def test_what_is_packed_otherwise_is_compared_by_name_and_labels(tmp_path: Path) -> None:
    jpeg = replace(META, codec="jpeg", source={"reencode": 90})
    images = edited(0, things=ONE[1:])
    diff = compared(tmp_path, BASE, (*images[:2], replace(images[2], size=(60, 40)), *images[3:]),
                    META, jpeg)  # fmt: skip
    assert found(diff) == {"relabelled": ["d/1.jpg"], "changed": ["d/3.jpg"]}  # of another size
    assert int(diff.pairs.uncompared.sum()) == 4
    assert {row[1:] for row in diff.settings} == {("codec", "raw", "jpeg"), ("reencode", None, 90)}
    text = "\n".join(DatasetReport(diff).text())
    assert "train, val packed otherwise: codec 'raw' → 'jpeg'" in text
    assert "pixels of 4 images were not compared" in text


def test_another_imgsz_changes_raw_pixels_but_no_picture_files(tmp_path: Path) -> None:
    larger = replace(META, imgsz=64)
    diff = compared(tmp_path / "raw", BASE, BASE, META, larger)
    assert found(diff) == {}
    assert int(diff.pairs.uncompared.sum()) == 5
    assert not diff.same
    files = replace(META, codec="jpeg")
    jpeg = replace(files, imgsz=64)
    images = [replace(image, pixels=1) for image in BASE[:1]]
    a, b = (pack(tmp_path / of, images, meta) for of, meta in (("a", files), ("b", jpeg)))
    assert int(diff_datasets(a, b).pairs.uncompared.sum()) == 0


def test_the_same_source_in_another_place_is_the_same(tmp_path: Path) -> None:
    def at(place: str, image: Image) -> Image:
        return replace(image, name=f"{place}/images/{image.split}/{image.name}")

    a = [at("/home/me/data", image) for image in BASE]
    b = [at("/mnt/v2", image) for image in edited(1, split="val", things=())]
    diff = compared(tmp_path, a, b)
    # The folder of the split is no new name.
    assert found(diff) == {"moved": ["images/val/d/2.jpg"], "relabelled": ["images/val/d/2.jpg"]}
    assert (diff.a.root, diff.b.root) == (b"/home/me/data/", b"/mnt/v2/")
    diff = compared(tmp_path / "jpeg", a, b, META, replace(META, codec="jpeg"))
    assert found(diff) == {"moved": ["images/val/d/2.jpg"], "relabelled": ["images/val/d/2.jpg"]}
    # Numbered anew in each split, and other bytes: two images, and no leak.
    numbered = [Image("images/train/1.jpg", 1), Image("images/val/1.jpg", 2, split="val")]
    diff = compared(tmp_path / "n", [numbered[0], BASE[0]], [numbered[1], BASE[0]])
    assert found(diff) == {"removed": ["images/train/1.jpg"], "added": ["images/val/1.jpg"]}


def test_the_folder_of_a_split_stays_part_of_a_name(tmp_path: Path) -> None:
    """Where splits are numbered from 0, train's and val's images of a number are two."""
    both = [
        Image(f"/x/{split}/images/{k}.jpg", 2 * k + j, split=split)
        for j, split in enumerate(("train", "val"))
        for k in range(3)
    ]
    out = pack(tmp_path / "a", both)
    diff = diff_datasets(out / "train", out / "val")
    assert {kind: len(names) for kind, names in found(diff).items()} == {"removed": 3, "added": 3}
    moved = [replace(image, name=image.name.replace("/x/", "/y/")) for image in both[:3]]
    changed = [replace(moved[0], pixels=99), *moved[1:]]
    diff = diff_datasets(pack(tmp_path / "b", changed) / "train", out)
    assert found(diff) == {"changed": ["train/images/0.jpg"]}


def test_classes_are_compared_by_name(tmp_path: Path) -> None:
    swapped = replace(META, names={0: "dog", 1: "cat", 2: "bird"})
    number = {CAT: 1, DOG: 0, BIRD: 2}
    images = [
        replace(i, things=tuple(replace(t, cls=number[t.cls]) for t in i.things)) for i in BASE
    ]
    diff = compared(tmp_path / "renumbered", BASE, images, META, swapped)
    assert found(diff) == {}
    assert not diff.same
    assert diff.classes.renumbered == [("dog", 1, 0), ("cat", 0, 1)]
    # Negative control: the same numbers mean other classes.
    diff = compared(tmp_path / "other", BASE, BASE, META, swapped)
    assert found(diff)["relabelled"] == ["d/1.jpg", "d/4.jpg", "d/5.jpg"]
    assert tallied(diff)[OTHER_CLASS, "dog", "cat"] == 2
    renamed = replace(META, names={0: "cat", 1: "hound", 2: "bird", 3: "fish"})
    diff = compared(tmp_path / "renamed", BASE, BASE, META, renamed)
    assert found(diff) == {}
    assert not diff.same
    assert (diff.classes.renamed, diff.classes.added) == ([(1, "dog", "hound")], ["fish"])


def test_a_class_that_is_gone_moves_those_behind_it() -> None:
    changes = compare_classes({0: "a", 1: "b", 2: "c"}, {0: "a", 1: "c"})
    assert (changes.removed, changes.renumbered, changes.added) == (["b"], [("c", 2, 1)], [])
    assert changes.b.tolist() == [0, 2]
    twice = compare_classes({0: "a", 1: "a"}, {0: "a", 1: "a"})
    assert not twice
    assert twice.b.tolist() == [0, 1]
    grown = compare_classes({0: "a"}, {0: "b", 1: "a"})
    assert (grown.added, grown.renumbered) == (["b"], [("a", 0, 1)])
    assert grown.b.tolist() == [1, 0]


def test_leaks_are_named(tmp_path: Path) -> None:
    b = (*edited(0, split="val"), replace(BASE[1], name="d/copy.jpg", split="val"))
    diff = compared(tmp_path, BASE, b)
    text = "\n".join(DatasetReport(diff).text())
    assert "train → val 1: a leak" in text
    assert "leak in B: 1 image of val stored in an earlier split, too, as d/copy" in text
    assert "leak in A" not in text
    back = "\n".join(DatasetReport(compared(tmp_path / "back", b[:5], BASE)).text())
    assert "val → train 1" in back
    assert ": a leak" not in back


def test_another_order_of_images_is_said(tmp_path: Path) -> None:
    diff = compared(tmp_path, BASE, (BASE[1], BASE[0], *BASE[2:]))
    assert (found(diff), diff.order, diff.same) == ({}, ["train"], False)


def test_keypoints_are_compared(tmp_path: Path) -> None:
    pose = replace(META, kpt_shape=(2, 3), flip_idx=(1, 0))
    a, b = pack(tmp_path / "a", BASE, pose), pack(tmp_path / "b", BASE, pose)
    assert diff_datasets(a, b).same
    with ShardWriter(tmp_path / "c" / "train", pose, 1 << 20) as writer:
        samples = [stored(image, pose) for image in BASE if image.split == "train"]
        assert samples[0].keypoints is not None
        samples[0].keypoints[1, 1, 2] += 0.5
        writer.store(samples)
        writer.finish()
    diff = diff_datasets(a / "train", tmp_path / "c")
    assert (found(diff), tallied(diff)) == (
        {"relabelled": ["d/1.jpg"]}, {(OTHER_SHAPE, "dog", "dog"): 1},
    )  # fmt: skip
    diff = diff_datasets(a, pack(tmp_path / "boxes", BASE))
    assert found(diff) == {}
    assert {row[1] for row in diff.settings} == {"kpt_shape", "flip_idx"}


def test_the_reason_of_an_image_that_was_left_out_is_told(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a", BASE), pack(tmp_path / "b", BASE[1:], left_out=["d/1.jpg"])
    text = "\n".join(DatasetReport(diff_datasets(a, b)).text())
    assert "d/1.jpg, 3 objects; the other dataset left it out: corrupt" in text


def test_many_chunks_of_labels_give_what_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ALONE["all at once"][0]
    whole = compared(tmp_path / "whole", BASE, images)
    monkeypatch.setattr("yolodata.diff.labels._TOGETHER", 2)
    parts = compared(tmp_path / "parts", BASE, images)
    assert (found(parts), parts.tally) == (found(whole), whole.tally)


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_equal_keys_are_paired_once(a: list[int], b: list[int]) -> None:
    i, k = paired(np.array(a, np.uint64), np.array(b, np.uint64))
    assert [a[x] for x in i] == [b[x] for x in k]
    assert len({*i.tolist()}) == len({*k.tolist()}) == len(i) == (Counter(a) & Counter(b)).total()


def test_the_command_ends_with_0_1_or_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(pack(tmp_path / "a", BASE)), str(pack(tmp_path / "b", edited(1, things=())))
    assert main(["diff", a, a]) == 0
    assert "no difference" in capsys.readouterr().out
    assert main(["diff", a, b]) == 1
    out = capsys.readouterr().out
    assert "other labels: 1 image; objects: 1 removed (bird 1)" in out
    assert "train  d/2.jpg: 1 removed (bird 1)" in out
    assert main(["diff", a, b, "split=val"]) == 0
    assert main(["diff", f"{a}/val", b]) == 0  # only this split of both
    capsys.readouterr()
    assert main(["diff", f"{a}/train", f"{b}/train", "json=True"]) == 1
    relabelled = json.loads(capsys.readouterr().out)["images"]["relabelled"]
    assert relabelled[0]["boxes"][0] | {"was_box": None} == {
        "change": "removed", "was_class": "bird", "was_box": None,
    }  # fmt: skip
    for wrong, said in (([a, str(tmp_path)], "yolodata shard"), ([a, b, "split=test"], "no split")):
        assert main(["diff", *wrong]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "b/val/labels.safetensors").write_bytes(b"x")
    assert main(["diff", a, b]) == 2


def test_lists_are_short_unless_all_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = str(pack(tmp_path / "a", BASE))
    more = [Image(f"\x1b[2J{i}.jpg", 100 + i, (Thing(CAT, i),) * 30) for i in range(30)]
    b = str(pack(tmp_path / "b", [*BASE, *more]))
    assert main(["diff", a, b]) == 1
    out = capsys.readouterr().out
    assert out.count("30 objects") == 20
    assert "… and 10 more; --all prints all" in out
    assert "\x1b" not in out
    assert "\\x1b[2J29.jpg" not in out
    assert main(["diff", a, b, "--all"]) == 1
    assert capsys.readouterr().out.count("30 objects") == 30
    for words, count in (([], 20), (["--all"], 30)):
        assert main(["diff", a, b, "--json", *words]) == 1
        content = json.loads(capsys.readouterr().out)
        assert (len(content["images"]["added"]), content["counts"]["added"]) == (count, 30)


def test_splits_that_disagree_on_their_classes_are_refused(tmp_path: Path) -> None:
    a = pack(tmp_path / "a", BASE)
    pack(tmp_path / "a", [replace(BASE[0], split="test")], replace(META, names={0: "x", 1: "y"}))
    with pytest.raises(DatasetError, match="a class is a number in shards"):
        diff_datasets(a, a)


def test_an_unfinished_split_is_no_split_that_is_missing(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a", BASE), pack(tmp_path / "b", BASE[:3])
    for path in (b, tmp_path / "c"):  # one with a finished split, and one without
        (path / "val" / ".packing").mkdir(parents=True)
        with pytest.raises(ShardError, match="not finished"):
            diff_datasets(a, path)


def test_a_split_without_its_dataset_file_is_no_split_that_is_missing(tmp_path: Path) -> None:
    a, b = pack(tmp_path / "a", BASE), pack(tmp_path / "b", BASE)
    (b / "train" / "dataset.json").unlink()
    with pytest.raises(ShardError, match=r"train/dataset\.json: No such file"):
        diff_datasets(a, b)
    assert diff_datasets(a, b, split="val").same


def test_names_that_are_all_alike_cost_no_more(tmp_path: Path) -> None:
    """Every name could be every other's: comparing all with all would take minutes."""
    a, b = (
        [Image(f"{place}/{i:05}/image.jpg", 0, size=(1, 1)) for i in range(1000)]
        for place in ("/old", "/new")
    )
    one, two = pack(tmp_path / "a", a), pack(tmp_path / "b", b)
    with bounded(1 << 30, 5):
        diff = diff_datasets(one, two)
    assert found(diff) == {}
    assert (diff.a.root, diff.b.root) == (b"/old/", b"/new/")


def run_folder(
    path: Path, data: DatasetVersion | str, rows: Sequence[str] = (), **arguments: Any
) -> Path:
    """Makes a run folder with a manifest, and with results.csv if there are rows."""
    path.mkdir()
    RunManifest.of(data, {"lr0": 0.01, "epochs": 3, **arguments}, {}).write(path)
    if rows:
        head = "epoch,time,metrics/mAP50(B),metrics/mAP50-95(B)\n"
        (path / "results.csv").write_text(head + "".join(f"{row}\n" for row in rows))
    return path


def version_of(root: Path) -> DatasetVersion:
    with ShardDataset(root / "train") as train, ShardDataset(root / "val") as val:
        return DatasetVersion.of(str(root), {"train": train, "val": val})


ROWS = ("1,5.0,0.3,0.2", "2,9.0,0.5,0.4", "3,14.0,0.6,0.3")


def test_runs_differ_in_dataset_settings_and_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [pack(tmp_path / "one", BASE), pack(tmp_path / "two", edited(1, things=()))]
    a = run_folder(tmp_path / "a", version_of(data[0]), ROWS)
    b = run_folder(tmp_path / "b", version_of(data[1]), ROWS[:2], lr0=0.02)
    assert main(["diff", str(a), str(b)]) == 1
    out = capsys.readouterr().out
    assert "settings: 1 differs\n  lr0  0.01 → 0.02\n" in out
    assert "  other labels" in out
    assert "d/2.jpg" not in out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "metrics/" in line}
    assert lines["metrics/mAP50-95(B)"] == ["0.4", "0.3", "0.4", "0.4"]  # best, last; best, last
    assert main(["diff", str(a), str(b), "--all"]) == 1
    assert "train  d/2.jpg: 1 removed (bird 1)" in capsys.readouterr().out
    assert main(["diff", str(a), str(b), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["changed"]["settings.lr0"] == [0.01, 0.02]
    assert content["dataset"]["images"]["counts"]["relabelled"] == 1
    assert (content["a"]["best"]["epoch"], content["a"]["last"]["epoch"]) == (2, 3)
    # The dataset of a is not what it was any more.
    shutil.copy(tmp_path / "two/train/dataset.json", tmp_path / "one/train/dataset.json")
    assert main(["diff", str(a), str(b)]) == 1
    out = capsys.readouterr().out
    assert "train: other labels (3 objects, were 4)" in out
    assert "not compared image by image" in out
    assert "is now version" in out


def test_other_names_of_classes_are_no_other_labels(tmp_path: Path) -> None:
    """A label file has numbers; what they mean is in dataset.json."""
    renamed = replace(META, names={**META.names, BIRD: "owl"})
    a, b, c = (
        version_of(pack(tmp_path / name, images, meta))
        for name, images, meta in (
            ("a", BASE, META), ("b", BASE, renamed), ("c", edited(0, things=()), renamed),
        )
    )  # fmt: skip
    assert [line.partition(": ")[2] for line in differences(a, b)] == 2 * [
        "other classes, kpt_shape or flip_idx; the same labels"
    ]
    assert "train: other labels (1 objects, were 4)" in differences(a, c)
    assert differences(a, a) == []
    other_order = version_of(pack(tmp_path / "d", BASE[::-1]))
    assert "train: other images, or in another order (3 as before)" in differences(a, other_order)


def test_runs_that_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = version_of(pack(tmp_path / "data", BASE))
    a = run_folder(tmp_path / "a", data, (*ROWS, "4,1,nan,nan"))
    b = run_folder(tmp_path / "b", data, (*ROWS, "4,2,nan,nan"))  # time is no difference
    assert main(["diff", str(a), str(b)]) == 0
    assert "no difference in dataset, settings, packages or code\n" in capsys.readouterr().out
    c = run_folder(tmp_path / "c", data, (*ROWS, "4,2,0.1,0.4"))
    results = read_results(c)
    assert results is not None
    assert results.best is not None
    assert results.best["epoch"] == 4  # of two that are equal best.pt is the last
    assert main(["diff", str(a), str(c)]) == 1
    assert "training does not repeat itself" in capsys.readouterr().out
    d = run_folder(tmp_path / "d", "Ultralytics' own loader")
    assert main(["diff", str(a), str(d)]) == 1
    out = capsys.readouterr().out
    assert "dataset: B has none: Ultralytics' own loader" in out
    assert "results: none of B" in out
    alone = str(tmp_path / "manifest.json")  # as MLflow has it
    shutil.copy(a / "manifest.json", alone)
    assert main(["info", alone]) == 0
    capsys.readouterr()
    assert main(["diff", alone, str(a)]) == 0  # results that one does not have are no difference
    assert "results: none of A" in capsys.readouterr().out
    assert main(["diff", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["a"]["last"]["metrics/mAP50(B)"] is None


def test_a_dataset_that_was_packed_again_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = replace(META, source={"path": "/elsewhere"})
    data = [pack(tmp_path / "one", BASE), pack(tmp_path / "two", BASE, again)]
    a, b = (
        run_folder(tmp_path / name, version_of(root)) for name, root in zip("ab", data, strict=True)
    )
    assert main(["diff", str(a), str(b)]) == 1  # another version
    out = capsys.readouterr().out
    assert "packed again; images and labels are the same" in out
    assert "no difference in images, labels, classes, order or packing" in out


def test_weights_are_compared_by_their_manifests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = version_of(pack(tmp_path / "data", BASE))
    for name, lr0 in (("a", 0.01), ("b", 0.5)):
        with zipfile.ZipFile(tmp_path / f"{name}.pt", "w") as archive:
            archive.writestr("best/data.pkl", b"")
        weights.add(tmp_path / f"{name}.pt", RunManifest.of(data, {"lr0": lr0}, {}))
    a, b = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    assert main(["diff", a, b]) == 1
    assert "lr0  0.01 → 0.5" in capsys.readouterr().out
    assert main(["diff", a, a]) == 0
    assert main(["diff", a, str(tmp_path / "data")]) == 2
    assert "give two packed datasets, or two runs" in capsys.readouterr().err
    assert main(["diff", a, b, "split=val"]) == 2


@pytest.mark.parametrize(
    "table",
    [b"epoch\n1,2\n", b"epoch,metrics/mAP50-95(B)\n1\n", b"epoch\nx\n", b"\xff\n", b'e\n"1'],
)
def test_results_that_are_no_table_are_refused(
    tmp_path: Path, table: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    a = run_folder(tmp_path / "a", "none", ROWS)
    (a / "results.csv").write_bytes(table)
    assert main(["diff", str(a), str(a)]) == 2
    assert "restore or remove it" in capsys.readouterr().err


def test_shards_come_back_from_an_object_store_as_they_were(tmp_path: Path) -> None:
    """The recipe for lakeFS in docs/reproducibility.md, with moto in the gateway's place."""
    pytest.importorskip("moto", reason="moto is the object store")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs", reason="fsspec needs it for s3://")
    from s3_server import S3Server

    pack(tmp_path / "first" / "coco.shards", BASE)
    data = pack(tmp_path / "second" / "coco.shards", edited(0, things=()))
    checksums = dict.fromkeys(
        ("request_checksum_calculation", "response_checksum_validation"), "when_required"
    )
    server = S3Server()
    try:
        options = server.options
        options["config_kwargs"] = {**options.get("config_kwargs", {}), **checksums}
        lake = fsspec.filesystem("s3", **options)
        for version in (data.parent.with_name("first"), data.parent):
            lake.put(f"{version}/coco.shards/", "runs/main/coco.shards/", recursive=True)
        lake.get("runs/main/coco.shards/", f"{tmp_path}/back/", recursive=True)
    finally:
        server.stop()
    diff = diff_datasets(data, tmp_path / "back")
    assert diff.same
    assert [d.meta for d in diff.a.splits.values()] == [d.meta for d in diff.b.splits.values()]


def test_results_without_end_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "results.csv").open("wb") as file:
        file.write(b"epoch,metrics/mAP50(B)\n1,0.5\n")
        file.truncate(65 << 20)
    with pytest.raises(ConfigError, match="has 68157440 bytes, at most 67108864 are allowed"):
        read_results(tmp_path)
