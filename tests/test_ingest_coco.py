"""COCO JSON: the same labels as upstream's converter followed by upstream's checker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingesting import jpeg, picture, tree_hash, upstream_verdict

from yolodata import shards
from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.ingest.labels import check_labels
from yolodata.ingest.outlines import join_parts
from yolodata.ingest.rle import decode_rle, unpack_counts
from yolodata.ingest.sample import Refused

W, H = 64, 48


def box(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def circle(x: float, y: float, r: float, n: int) -> list[float]:
    angles = np.arange(n) * 2 * np.pi / n
    return np.stack([x + r * np.cos(angles), y + r * np.sin(angles)], 1).round(2).ravel().tolist()


def annotations() -> dict[str, list[dict[str, Any]]]:
    """File name -> annotations, each case in a picture of its own."""
    triangle = [1, 1, 20, 1, 10, 15]
    keypoints = {"keypoints": [10, 10, 2, 20, 20, 1, 0, 0, 0], "num_keypoints": 2}
    return {
        "plain.jpg": [{"bbox": [5, 6, 20, 30], "category_id": 2, "segmentation": [triangle]}],
        "two.jpg": [
            {
                "bbox": [5.25, 6.5, 20.1, 30.3],
                "category_id": 1,
                "segmentation": [circle(20, 20, 9, 7)],
            },
            {"bbox": [1, 2, 3, 4], "category_id": 3, "segmentation": [circle(30, 30, 5.5, 12)]},
        ],
        "crowd.jpg": [
            {"bbox": [5, 6, 20, 30], "category_id": 2, "segmentation": [triangle]},
            {"bbox": [1, 1, 9, 9], "category_id": 1, "iscrowd": 1, "segmentation": {"counts": []}},
        ],
        "only_crowd.jpg": [{"bbox": [1, 1, 9, 9], "category_id": 1, "iscrowd": 1}],
        "no_area.jpg": [
            {"bbox": [5, 6, 0, 30], "category_id": 2, "segmentation": [triangle]},
            {"bbox": [5, 6, 10, -1], "category_id": 2, "segmentation": [triangle]},
            {"bbox": [5, 6, 10, 10], "category_id": 2, "segmentation": [triangle]},
        ],
        "twice.jpg": [
            {"bbox": [5, 6, 20, 30], "category_id": 2, "segmentation": [triangle]},
            {"bbox": [9, 9, 20, 30], "category_id": 1, "segmentation": [circle(9, 9, 5, 6)]},
            {"bbox": [5, 6, 20, 30], "category_id": 2, "segmentation": [triangle]},
        ],
        "twice_when_rounded.jpg": [
            {"bbox": [5, 6, 20, 30], "category_id": 2, "segmentation": [triangle]},
            {"bbox": [5, 6, 20.000001, 30], "category_id": 2, "segmentation": [triangle]},
        ],
        "parts.jpg": [
            {
                "bbox": [5, 6, 20, 30],
                "category_id": 2,
                "segmentation": [circle(10, 10, 5, 6), circle(40, 12, 6, 9)],
            },
            {
                "bbox": [5, 6, 20, 30],
                "category_id": 1,
                "segmentation": [circle(10 + 12 * k, 10 + 9 * (k % 2), 4, 5 + k) for k in range(4)],
            },
        ],
        "no_outline.jpg": [
            {"bbox": [5, 6, 20, 30], "category_id": 2, "segmentation": []},
            {"bbox": [7, 6, 20, 30], "category_id": 2},
            {"bbox": [8, 6, 20, 30], "category_id": 2, "segmentation": [[1, 2, 3, 4]]},
            {"bbox": [9, 6, 20, 30], "category_id": 2, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
            {"bbox": [9, 9, 20, 30], "category_id": 2, "segmentation": [["a"] * 6]},
            {"bbox": [9, 7, 20, 30], "category_id": 2, "segmentation": [triangle, [1, 2]]},
        ],
        "outside.jpg": [
            {"bbox": [-5, 6, 20, 30], "category_id": 2, "segmentation": [box(-5, 6, 20, 30)]}
        ],
        "far_outside.jpg": [
            {"bbox": [50, 6, 40, 30], "category_id": 2, "segmentation": [box(50, 6, 40, 30)]}
        ],
        "keypoints.jpg": [
            {"bbox": [5, 6, 20, 30], "category_id": 1, "segmentation": [triangle], **keypoints},
            {"bbox": [6, 6, 20, 30], "category_id": 1, "segmentation": [circle(9, 9, 5, 6)]},
            {
                "bbox": [7, 6, 20, 30],
                "category_id": 1,
                "segmentation": [circle(29, 9, 5, 6)],
                "keypoints": [0] * 9,
            },
        ],
        "background.jpg": [],
    }


def write_coco(root: Path, prefix: str = "instances_", keypoints: bool = False) -> Path:
    """root/images/train and root/annotations/PREFIXtrain.json with the cases above."""
    folder = root / "images" / "train"
    folder.mkdir(parents=True, exist_ok=True)
    images, notes = [], []
    for k, (name, cases) in enumerate(annotations().items()):
        (folder / name).write_bytes(jpeg(picture(k, H, W)))
        images.append({"id": 100 - k, "file_name": name, "width": W, "height": H})
        for case in cases:
            notes.append({"id": len(notes), "image_id": 100 - k, **case})
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}, {"id": 3, "name": "three"}]
    if keypoints:
        categories[0]["keypoints"] = ["nose", "left", "right"]
    file = root / "annotations" / f"{prefix}train.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return file


def compare_with_converter(root: Path, file: Path, work: Path, task: str) -> int:
    """Compare every image with convert_coco + verify_image_label; gives the number of objects."""
    from ultralytics.data.converter import convert_coco

    source = open_source(file, task=task)
    split = source.splits["train"]
    pose, keypoints = task == "pose", bool(source.kpt_shape)
    segments = not pose and any(
        note.get("segmentation") for note in json.loads(file.read_text())["annotations"]
    )
    convert_coco(str(file.parent), str(work), segments, pose, cls91to80=False)
    labels = work / "labels" / file.stem.replace("instances_", "")
    (work / "images").rmdir()
    (work / "images").symlink_to(root / "images")
    if labels.name != "train":
        labels.rename(work / "labels" / "train")
    objects = 0
    for i, path in enumerate(split.paths):
        theirs = upstream_verdict(
            str(work / "images" / "train" / Path(path).name),
            classes=3,
            kpt_shape=source.kpt_shape if keypoints and pose else (0, 0),
            pose=pose,
            read=False,
        )
        try:
            ours = check_labels(split.raw_labels(i), source.rules(task, False))
        except Refused as refusal:
            reason = str(refusal)
            assert theirs.refused, f"{path}: {reason}"
            continue
        assert not theirs.refused, path
        assert ours.cls.tobytes() == np.ascontiguousarray(theirs.cls).tobytes(), path
        assert ours.box.tobytes() == np.ascontiguousarray(theirs.box).tobytes(), path
        assert [p.tolist() for p in ours.polygons or []] == [p.tolist() for p in theirs.polygons]
        if pose:
            assert ours.keypoints.tobytes() == np.ascontiguousarray(theirs.keypoints).tobytes()
        objects += len(ours.cls)
    return objects


def test_polygons_equal_upstream(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "coco")
    assert compare_with_converter(tmp_path / "coco", file, tmp_path / "work", "detect") > 15


def test_boxes_equal_upstream(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "coco")
    data = json.loads(file.read_text())
    for note in data["annotations"]:
        note.pop("segmentation", None)
    file.write_text(json.dumps(data))
    assert compare_with_converter(tmp_path / "coco", file, tmp_path / "work", "detect") > 15


def test_keypoints_equal_upstream(tmp_path: Path) -> None:
    file = write_coco(tmp_path / "coco", "person_keypoints_", keypoints=True)
    assert compare_with_converter(tmp_path / "coco", file, tmp_path / "work", "pose") == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_files_equal_upstream(real_data: Path, tmp_path: Path, split: str) -> None:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    data = json.loads((real_data / f"coco-mini/annotations/instances_{split}.json").read_text())
    order = {c["id"]: k + 1 for k, c in enumerate(data["categories"])}
    for note in data["annotations"]:
        note["category_id"] = order[note["category_id"]]
    for category in data["categories"]:
        category["id"] = order[category["id"]]
    file = root / "annotations" / "instances_train.json"
    file.write_text(json.dumps(data))
    (root / "images" / "train").symlink_to(real_data / "coco-mini" / "images" / split)
    source = open_source(file)
    from ultralytics.data.converter import convert_coco

    convert_coco(str(file.parent), str(tmp_path / "work"), True, False, cls91to80=False)
    objects = 0
    from ultralytics.data.utils import verify_image_label

    for i, path in enumerate(source.splits["train"].paths):
        label = tmp_path / "work" / "labels" / "train" / f"{Path(path).stem}.txt"
        theirs = verify_image_label((path, str(label), "", False, 80, 0, 0, False))
        ours = check_labels(source.splits["train"].raw_labels(i), source.rules("detect", False))
        assert ours.box.tobytes() == np.ascontiguousarray(theirs[1][:, 1:]).tobytes()
        assert ours.cls.tobytes() == np.ascontiguousarray(theirs[1][:, 0]).tobytes()
        assert [p.tolist() for p in ours.polygons or []] == [p.tolist() for p in theirs[3]]
        objects += len(ours.cls)
    assert objects > 500


def test_packed(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    write_coco(root)
    write_coco(root, "person_keypoints_", keypoints=True)
    (root / "images" / "train" / "two.jpg").unlink()
    before = tree_hash(root)
    report = pack(root, tmp_path / "out", PackSettings(imgsz=64), progress=False).splits["train"]
    assert tree_hash(root) == before
    reasons = {Path(path).name: reason for path, reason in report.left_out}
    assert set(reasons) == {"two.jpg", "far_outside.jpg"}
    assert "No such file" in reasons["two.jpg"]
    notes = {Path(path).name: note for path, note in report.notes}
    assert notes["crowd.jpg"] == "1 crowd annotations dropped"
    with shards.open(tmp_path / "out") as dataset:
        assert dataset.meta.names == {0: "one", 1: "two", 2: "three"}
        assert dataset.meta.source["kind"] == "coco"
        names = [Path(dataset.name(i)).name for i in range(len(dataset))]
        assert names == sorted(set(annotations()) - set(reasons))
        i = names.index("background.jpg")
        assert dataset.object_offset[i] == dataset.object_offset[i + 1]
    report = pack(
        root, tmp_path / "pose", PackSettings(imgsz=64, task="pose"), progress=False
    ).splits["train"]
    with shards.open(tmp_path / "pose") as dataset:
        assert dataset.meta.kpt_shape == (3, 3)
        assert dataset.keypoints is not None
        expected = np.array([[10 / W, 10 / H, 2], [20 / W, 20 / H, 1], [0, 0, 0]])
        np.testing.assert_allclose(dataset.keypoints, expected[None], atol=1e-6)


def test_category_ids_become_0_1_2_in_their_order(tmp_path: Path) -> None:
    """As upstream's converter, which subtracts 1; the order of the file means nothing."""
    file = write_coco(tmp_path)
    data = json.loads(file.read_text())
    renamed = {1: 7, 2: 13, 3: 90}
    for entry, key in [*((n, "category_id") for n in data["annotations"])]:
        entry[key] = renamed[entry[key]]
    for category in data["categories"]:
        category["id"] = renamed[category["id"]]
    data["categories"].reverse()
    plain = open_source(file)
    file.write_text(json.dumps(data))
    other = open_source(file)
    assert other.names == plain.names == {0: "one", 1: "two", 2: "three"}
    for i in range(len(plain.splits["train"].paths)):
        ours, same = (s.splits["train"].raw_labels(i) for s in (other, plain))
        assert ours == same


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("images"), "'images' is no list"),
        (lambda d: d["categories"][1].pop("id"), "a category must have id and name"),
        (lambda d: d["categories"][1].pop("name"), "a category must have id and name"),
        (lambda d: d["categories"][1].update(id=True), "a category must have id and name"),
        (lambda d: d["categories"].append(7), "a category must have .* 7"),
        (lambda d: d["categories"][1].update(keypoints=5), "a category must have .*'keypoints': 5"),
        (lambda d: d["categories"].append(d["categories"][0]), "two categories"),
        (lambda d: d["categories"].clear(), "at least one class, got none"),
        (lambda d: [i.update(file_name=i["file_name"] + "x") for i in d["images"]], "--images"),
    ],
)
def test_unusable_files_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    file = write_coco(tmp_path)
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=said):
        open_source(file)


@pytest.mark.parametrize("keypoints", [5, "abcdefghi", ["a", 1, 2] * 3, {"x": 1}])
def test_odd_keypoints_take_their_image_out(tmp_path: Path, keypoints: Any) -> None:
    file = write_coco(tmp_path, keypoints=True)
    data = json.loads(file.read_text())
    data["annotations"][0]["keypoints"] = keypoints
    file.write_text(json.dumps(data))
    split = open_source(file).splits["train"]
    i = [Path(p).name for p in split.paths].index("plain.jpg")
    with pytest.raises(Refused, match="annotation 0: keypoints are no list of numbers"):
        split.raw_labels(i)


@pytest.mark.parametrize("task", ["detect", "pose"])
def test_another_number_of_keypoints_is_said(tmp_path: Path, task: str) -> None:
    file = write_coco(tmp_path, keypoints=True)
    data = json.loads(file.read_text())
    data["annotations"][0]["keypoints"] = [10, 10, 2]
    file.write_text(json.dumps(data))
    split = open_source(file, task=task).splits["train"]
    i = [Path(p).name for p in split.paths].index("plain.jpg")
    assert "1 annotations without 3 keypoints: those they have dropped" in split.raw_labels(i).notes


def test_annotations_of_an_image_that_is_left_out_are_no_strays(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    data = json.loads(file.read_text())
    data["images"][0]["width"] = 0
    file.write_text(json.dumps(data))
    assert not open_source(file).left_out
    data["annotations"][0]["image_id"] = 7
    file.write_text(json.dumps(data))
    assert list(open_source(file).left_out.values()) == ["no image has their image_id: 7"]


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    source = open_source(file.rename(file.with_name("INSTANCES_TRAIN.JSON")).parent.parent)
    assert list(source.splits) == ["train"]


def test_broken_json_and_ambiguity(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    text = file.read_text()
    file.write_text(text[:-10])
    with pytest.raises(DatasetError, match="not readable JSON"):
        open_source(file)
    file.write_text(text)
    (tmp_path / "annotations" / "instances_train_2.json").write_text(text)
    with pytest.raises(DatasetError, match="2 annotation files for 'train'"):
        open_source(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [a]")
    with pytest.raises(DatasetError, match=r"looks like yolo and coco.*--format"):
        open_source(tmp_path)
    assert open_source(file, images=tmp_path / "images" / "train").kind == "coco"
    with pytest.raises(DatasetError, match="does not exist"):
        open_source(tmp_path / "absent.json")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(3, 9), min_size=2, max_size=6), st.integers(0, 1 << 30), st.booleans())
def test_joined_parts_equal_upstream(sizes: list[int], seed: int, whole: bool) -> None:
    from ultralytics.data.converter import merge_multi_segment

    rng = np.random.default_rng(seed)
    parts = [rng.random((n, 2)) * 100 for n in sizes]
    parts = [p.round() if whole else p for p in parts]
    theirs = merge_multi_segment([p.ravel().tolist() for p in parts])
    ours = join_parts(parts)
    assert np.concatenate(ours).tobytes() == np.concatenate(theirs).tobytes()


def runs_of(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def packed_runs(runs: list[int]) -> str:
    """COCO's string, written from its description: the inverse of what is tested."""
    text = ""
    for k, run in enumerate(runs):
        value = run - runs[k - 2] if k > 2 else run
        while True:
            group = value & 31
            value >>= 5
            more = value != -1 if group & 16 else value != 0
            text += chr(48 + group + 32 * more)
            if not more:
                break
    return text


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1 << 30))
def test_run_length_masks(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    runs = runs_of(mask)
    np.testing.assert_array_equal(decode_rle(runs, height, width), mask)
    assert unpack_counts(packed_runs(runs)) == runs
    np.testing.assert_array_equal(decode_rle(packed_runs(runs), height, width), mask)


def test_run_length_string_by_hand() -> None:
    """A 9 x 9 mask with a block of 4 x 5 at (2, 3), spelled out from COCO's description."""
    mask = np.zeros((9, 9), np.uint8)
    mask[2:6, 3:8] = 1
    assert runs_of(mask) == [29, 4, 5, 4, 5, 4, 5, 4, 5, 4, 12]
    assert unpack_counts("m04500000007") == runs_of(mask)
    for wrong in ("m0", "m04500000", "~"):
        with pytest.raises(ValueError, match=r"run lengths|packed"):
            decode_rle(wrong, 9, 9)


def test_run_length_outlines(tmp_path: Path) -> None:
    """A mask becomes the polygon of its outer contours."""
    file = write_coco(tmp_path)
    data = json.loads(file.read_text())
    mask = np.zeros((H, W), np.uint8)
    cv2.circle(mask, (20, 20), 10, 1, -1)
    note = data["annotations"][0]
    results = []
    for counts in (runs_of(mask), packed_runs(runs_of(mask))):
        note["segmentation"] = {"counts": counts, "size": [H, W]}
        file.write_text(json.dumps(data))
        source = open_source(file)
        i = [Path(p).name for p in source.splits["train"].paths].index("plain.jpg")
        results.append(
            check_labels(source.splits["train"].raw_labels(i), source.rules("detect", False))
        )
    contour = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0][:, 0]
    for labels in results:
        assert labels.polygons is not None
        np.testing.assert_allclose(labels.polygons[0], contour / [W, H], atol=1e-6)
    note["segmentation"] = {"counts": [5, 5], "size": [H, W]}
    file.write_text(json.dumps(data))
    source = open_source(file)
    with pytest.raises(Refused, match="annotation 0: not a run-length mask"):
        source.splits["train"].raw_labels(i)
    for size in ([H, W + 1], 5):  # of another picture: use the box
        note["segmentation"] = {"counts": [5, 5], "size": size}
        file.write_text(json.dumps(data))
        raw = open_source(file).splits["train"].raw_labels(i)
        assert raw.text.decode().split()[1:] == [
            "%g" % (v / s) for v, s in zip(box(5, 6, 20, 30), [W, H] * 4)
        ]
