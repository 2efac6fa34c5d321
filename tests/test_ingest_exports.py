"""What annotation tools export: packed, or a message with the true cause and the next command."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from ingesting import JPEG, ROW, VOC, build, write_yolo

from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.ingest.sample import Source
from yolodata.ingest.source import lacks_yaml


def pairs(pattern: str, labels: str, names: str) -> dict[str, bytes]:
    """Pictures and label files of these names."""
    found = {}
    for name in names.split():
        found |= {pattern.format(name): JPEG, labels.format(name): ROW}
    return found


def beside(folder: str, names: str) -> dict[str, bytes]:
    """Pictures with XML files beside them."""
    found = {}
    for name in names.split():
        image = f"{folder}{name}.jpg"
        found |= {image: JPEG, f"{folder}{name}.xml": VOC % image.encode()}
    return found


def members(source: Source) -> dict[str, list[str]]:
    """Split -> names of its images; every one of them has labels."""
    found = {}
    for name, split in source.splits.items():
        for k, path in enumerate(split.paths):
            assert split.raw_labels(k).text, path
        found[name] = [Path(path).stem for path in split.paths]
    return found


CLASSES = {"classes.txt": "cat\ndog\n\n"}
DARKNET = {
    "obj.names": "cat\ndog",
    "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nbackup = backup/",
    "train.txt": "data/obj_train_data/a.jpg\r\ndata/obj_train_data/b.jpg\r\n",
    "valid.txt": "data/obj_valid_data/c.jpg\n",
    **pairs("obj_train_data/{}.jpg", "obj_train_data/{}.txt", "a b"),
    **pairs("obj_valid_data/{}.jpg", "obj_valid_data/{}.txt", "c"),
}
PACKED: dict[str, tuple[dict[str, bytes | str], dict[str, list[str]]]] = {
    "Label Studio": (
        {
            **CLASSES,
            "notes.json": json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {}}),
            **pairs("images/{}.jpg", "labels/{}.txt", "a b c"),
        },
        {"train": ["a", "b", "c"]},
    ),
    "labelImg": (
        {**CLASSES, **pairs("{}.jpg", "{}.txt", "a b")},
        {"train": ["a", "b"]},
    ),
    "labels/classes.txt": (
        {"labels/classes.txt": "cat", **pairs("images/{}.jpg", "labels/{}.txt", "a b")},
        {"train": ["a", "b"]},
    ),
    "no YAML, folders of splits": (
        {
            **CLASSES,
            **pairs("images/train/{}.jpg", "labels/train/{}.txt", "a b"),
            **pairs("images/valid/{}.jpg", "labels/valid/{}.txt", "a"),
        },
        {"train": ["a", "b"], "val": ["a"]},
    ),
    "no YAML, folders of splits in other letters": (
        {
            **CLASSES,
            **pairs("Train/images/{}.jpg", "Train/labels/{}.txt", "a b"),
            **pairs("val2017/{}.jpg", "val2017/{}.txt", "c"),
        },
        {"train": ["a", "b"], "val": ["c"]},
    ),
    "labelImg, names in each split": (
        {
            **{f"{s}/labels/classes.txt": "cat" for s in ("train", "val")},
            **{f"{s}/classes.txt": "cat" for s in ("test",)},
            **pairs("train/images/{}.jpg", "train/labels/{}.txt", "a"),
            **pairs("val/images/{}.jpg", "val/labels/{}.txt", "b"),
            **pairs("test/{}.jpg", "test/{}.txt", "c"),
        },
        {"train": ["a"], "val": ["b"], "test": ["c"]},
    ),
    "labelImg, names beside the label files of each split": (
        {
            **{f"labels/{s}/classes.txt": "cat" for s in ("train", "val")},
            **pairs("images/train/{}.jpg", "labels/train/{}.txt", "a"),
            **pairs("images/val/{}.jpg", "labels/val/{}.txt", "b"),
        },
        {"train": ["a"], "val": ["b"]},
    ),
    "CVAT, YOLO 1.1, without lists": (
        {name: data for name, data in DARKNET.items() if name not in ("train.txt", "valid.txt")},
        {"train": ["a", "b"], "val": ["c"]},
    ),
    "CVAT, YOLO 1.1": (DARKNET, {"train": ["a", "b"], "val": ["c"]}),
    "CVAT, YOLO 1.1 in data/": (
        {f"data/{name}": content for name, content in DARKNET.items()},
        {"train": ["a", "b"], "val": ["c"]},
    ),
    "Darknet, lists alone": (
        {**DARKNET, "obj.data": "backup = backup/"},
        {"train": ["a", "b"], "val": ["c"]},
    ),
    "Roboflow, Darknet": (
        {
            "train/_darknet.labels": "cat",
            "valid/_darknet.labels": "cat",
            **pairs("train/{}.jpg", "train/{}.txt", "a b"),
            **pairs("valid/{}.jpg", "valid/{}.txt", "c"),
        },
        {"train": ["a", "b"], "val": ["c"]},
    ),
    "Roboflow, YOLO": (
        {
            "data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]",
            "README.roboflow.txt": "",
            **pairs("train/images/{}.jpg", "train/labels/{}.txt", "a b"),
            **pairs("valid/images/{}.jpg", "valid/labels/{}.txt", "c"),
        },
        {"train": ["a", "b"], "val": ["c"]},
    ),
    "Roboflow, VOC": (
        {
            "README.roboflow.txt": "",
            **beside("train/", "a b"),
            **beside("valid/", "a"),
            **beside("test/", "d"),
        },
        {"train": ["a", "b"], "val": ["a"], "test": ["d"]},
    ),
    "labelImg, VOC": (beside("", "a b"), {"train": ["a", "b"]}),
    "VOC in folders of splits": (
        {
            **{f"train/images/{k}.jpg": JPEG for k in "ab"},
            **{f"train/annotations/{k}.xml": VOC % b"x.jpg" for k in "ab"},
            "val/images/a.jpg": JPEG,
            "val/annotations/a.xml": VOC % b"x.jpg",
        },
        {"train": ["a", "b"], "val": ["a"]},
    ),
    "a YAML of something else": (
        {**CLASSES, "compose.yaml": "services: {}", **pairs("images/{}.jpg", "labels/{}.txt", "a")},
        {"train": ["a"]},
    ),
}


@pytest.mark.parametrize("case", PACKED)
def test_packed(tmp_path: Path, case: str) -> None:
    files, expected = PACKED[case]
    source = open_source(build(tmp_path / "set", files))
    assert members(source) == expected


@pytest.mark.parametrize("files", [{**CLASSES, **pairs("{}.jpg", "{}.txt", "a")}, beside("", "a")])
def test_a_folder_that_is_called_like_a_split_is_one(
    tmp_path: Path, files: dict[str, bytes | str]
) -> None:
    """As with COCO; a folder of several such is no dataset itself."""
    for name, split in (("valid", "val"), ("test2017", "test"), ("test set", "train")):
        root = build(tmp_path / name, files)
        assert members(open_source(root)) == {split: ["a"]}


def test_datasets_in_a_folder_are_not_joined(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(tmp_path / name, {**CLASSES, **pairs("images/{}.jpg", "labels/{}.txt", "a")})
    with pytest.raises(DatasetError, match="2 folders look like datasets"):
        open_source(tmp_path)


@pytest.mark.parametrize("case", PACKED)
def test_what_macos_puts_into_archives_does_not_matter(tmp_path: Path, case: str) -> None:
    files, expected = PACKED[case]
    root = build(tmp_path / "set", files)
    for name in files:
        folder, _, last = name.rpartition("/")
        for place in (folder, f"__MACOSX/{folder}"):
            build(root, {f"{place}/._{last}".lstrip("/"): b"\0\5\x16\7\0\2\0\0Mac OS X        "})
    build(root, {".ipynb_checkpoints/data-checkpoint.yaml": "train: a\nval: a\nnames: [a]"})
    assert members(open_source(root)) == expected


def test_what_trainers_are_given_as_shards(tmp_path: Path) -> None:
    kinds = {
        "Label Studio": "a YOLO folder without a YAML",
        "labelImg, VOC": "Pascal VOC",
        "Roboflow, YOLO": None,
    }
    for case, kind in kinds.items():
        root = build(tmp_path / case, PACKED[case][0])
        assert lacks_yaml(root) == kind
        build(root, {"below/data.yaml": "train: a\nval: a\nnames: [a]"})
        assert lacks_yaml(root) is None
    (tmp_path / "a.json").touch()
    assert lacks_yaml(tmp_path / "a.json") == "COCO"
    assert lacks_yaml(tmp_path / "nowhere") is None


def test_a_folder_without_a_yaml_is_packed(tmp_path: Path) -> None:
    files, _ = PACKED["Label Studio"]
    more = {"labels/lost.txt": ROW, "images/anim.gif": b"x"}
    root = build(tmp_path / "set", {**files, **more})
    report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False).splits["train"]
    assert (report.images, report.objects, report.left_out) == (3, 3, [])
    found = {Path(path).name: reason for path, reason in open_source(root).left_out.items()}
    assert found == {
        "lost.txt": "label file without an image",
        "anim.gif": "pictures with the suffix .gif are not read",
    }


REFUSED: dict[str, tuple[dict[str, bytes | str], str, str]] = {
    "Label Studio without images": (
        {**CLASSES, "notes.json": "{}", "labels/a.txt": ROW},
        "",
        r"class names.*no images.*put them into 'images'",
    ),
    "CVAT, YOLO 1.1, without images": (
        {name: data for name, data in DARKNET.items() if not name.endswith(".jpg")},
        "",
        r"none of the 2 images that are listed exists, as 'data/obj_train_data/a\.jpg'",
    ),
    "labels without names": (
        pairs("images/train/{}.jpg", "labels/train/{}.txt", "a"),
        "",
        r"names of the classes are missing.*classes\.txt(.|\n)*train: images/train\n",
    ),
    "VIA": (
        {"train/a.jpg": JPEG, "train/via_region_data.json": "{}"},
        "",
        r"train/via_region_data\.json' is JSON, but not COCO's",
    ),
    "splits without names": (
        {f"images/{k}/a.jpg": JPEG for k in ("test", "train", "val")} | {"labels/val/a.txt": ROW},
        "",
        r"    train: images/train\n    val: images/val\n",
    ),
    "one folder too high": (
        {f"box/in/{name}": data for name, data in PACKED["Label Studio"][0].items()},
        "",
        r"looks like one: yolodata shard [^ ]*/set/box/in OUT",
    ),
    "one folder too deep": (PACKED["Label Studio"][0], "images", r"yolodata shard [^ ]*/set OUT"),
    "images alone": ({"a.jpg": JPEG, "b.jpg": JPEG}, "", "2 images.*no annotations"),
    "labels alone": ({"labels/a.txt": ROW}, "", "1 label files, but no images"),
    "folders of classes": (
        {"train/cat/a.jpg": JPEG, "train/dog/b.jpg": JPEG, "val/cat/a.jpg": JPEG},
        "",
        "classification.*cat, dog.*yolo classify train",
    ),
    "one image": ({"a.jpg": JPEG}, "a.jpg", "one image"),
    "one annotation": (
        {"Annotations/a.xml": VOC},
        "Annotations/a.xml",
        "one annotation.*yolodata shard [^ ]*set OUT",
    ),
    "a list": ({"train.txt": "a.jpg"}, "train.txt", "names images or classes"),
    "an empty folder": ({"empty/x/y.tmp": ""}, "empty/x", "no images"),
    "an absent folder": ({"a": ""}, "no/such", "does not exist"),
    "an absent archive": ({"a": ""}, "no.zip", "does not exist"),
    "something else": ({"a.docx": "a,b"}, "a.docx", "no description of a dataset"),
    "an address": (
        {},
        "https://example.com/coco8.zip",
        "SOURCE must be a path.* got https://…; fetch it",
    ),
    "a table for classification": (
        {"train/cat/a.jpg": JPEG, "train/dog/b.jpg": JPEG, "train.csv": "image,label"},
        "",
        "classification",
    ),
    "VOCdevkit": (
        {
            **{f"VOC2007/JPEGImages/{k}.jpg": JPEG for k in "ab"},
            **{f"VOC2007/Annotations/{k}.xml": VOC for k in "ab"},
        },
        "",
        r"'[^']*/VOC2007' looks like one: yolodata shard [^ ]*/VOC2007 OUT",
    ),
    "VOCdevkit, two years, as in their archive": (
        {
            **beside("VOCdevkit/VOC2007/Annotations/", "a"),
            **{f"VOCdevkit/{year}/JPEGImages/a.jpg": JPEG for year in ("VOC2007", "VOC2012")},
            "VOCdevkit/VOC2012/Annotations/a.xml": VOC,
        },
        "",
        r"looks like one \(2 folders look like datasets\): yolodata shard [^ ]*/VOC2007 OUT",
    ),
    "XML far below": (
        {"images/1/2/3/a.jpg": JPEG, "labels/1/2/3/a.xml": VOC},
        "",
        r"if '[^']*/labels/1/2/3/a\.xml' is one",
    ),
    "a part of an archive": (
        {"x.zip.001": "PK\3\4"},
        "x.zip.001",
        r"7z x [^ ]*x\.zip\.001 -o[^ ]*/x && yolodata shard [^ ]*/x OUT",
    ),
    "an archive of Zstandard": ({"x.tar.zst": ""}, "x.tar.zst", r"tar -xf [^ ]* -C [^ ]*/x &&"),
    "CVAT's XML": (
        {"annotations.xml": "<?xml version='1.0'?>\n<annotations/>", "images/a.jpg": JPEG},
        "",
        "CVAT's own format.*export the task again",
    ),
    "labelme": (
        {"a.jpg": JPEG, "a.json": '{"version": "5", "shapes": [], "imagePath": "a.jpg"}'},
        "",
        "labelme.*convert them",
    ),
    "a YAML of something else": (
        {"compose.yaml": "services: {}"},
        "compose.yaml",
        r"'train' is missing.*\['services'\]",
    ),
    "a YAML with train alone": (
        {"data.yaml": "train: images\nnames: [a]", "images/a.jpg": JPEG},
        "",
        "'val' is missing.*--split train",
    ),
    "CVAT, Ultralytics": (
        {
            "data.yaml": "path: .\ntrain: train.txt\nval: train.txt\nnames: {0: cat}",
            "train.txt": "images/train/a.jpg\n",
            **pairs("images/train/{}.jpg", "labels/train/{}.txt", "a"),
        },
        "",
        r"'path: \.' starts in the working folder.*leave 'path' out",
    ),
    "a list of another folder": (
        {
            "data.yaml": "train: train.txt\nval: train.txt\nnames: {0: cat}",
            "train.txt": "images/train/a.jpg\n",
            **pairs("images/train/{}.jpg", "labels/train/{}.txt", "a"),
        },
        "",
        r"start in the working folder.*sed -i 's\|\^\|\./\|' .*train\.txt",
    ),
    "an archive in a YAML": (
        {"data.yaml": "train: a.zip\nval: a.zip\nnames: [cat]", "a.zip": b"PK\3\4\xff"},
        "",
        r"train: '[^']*a\.zip' is an archive; unpack it \(unzip -q .*\), and name a folder in",
    ),
    "COCO JSON in a YAML": (
        {"data.yaml": "train: a.json\nval: a.json\nnames: [cat]", "a.json": "{}"},
        "data.yaml",
        r"train: '[^']*a\.json' is JSON.*yolodata shard [^ ]*a\.json OUT",
    ),
    "names that differ": (
        {"train/_darknet.labels": "cat\ndog", "valid/_darknet.labels": "dog", "train/a.jpg": JPEG},
        "",
        r"must hold the class names of .*, \['cat', 'dog'\], got \['dog'\]",
    ),
    "Label Studio without names": (
        {"notes.json": "{}", **pairs("images/{}.jpg", "labels/{}.txt", "a")},
        "",
        r"names of the classes are missing",
    ),
    "names with a blank line": (
        {"classes.txt": "cat\n\ndog", "images/a.jpg": JPEG},
        "",
        "line 2 is blank",
    ),
    "names in Latin-1": (
        {"classes.txt": "ch\xe2t".encode("latin-1"), "images/a.jpg": JPEG},
        "",
        "must be UTF-8",
    ),
}


FOREIGN = {
    # file -> its content, and what the message names
    "a.json": ('{"version": "5", "flags": {}, "shapes": [], "imagePath": "a.jpg"}', "labelme"),
    "train/via_region_data.json": ('{"a.jpg1": {"regions": [{"region_attributes": {}}]}}', "VIA"),
    "meta.json": ('{"classes": [{"title": "a", "shape": "rectangle"}]}', "Supervisely"),
    "ds/ann/a.jpg.json": ('{"objects": [{"classTitle": "a"}]}', "Supervisely"),
    "project.json": ('[{"annotations": [{"result": []}]}]', "Label Studio"),
    "annotations/default.json": ('{"info": {}, "categories": {}, "items": []}', "Datumaro"),
    "train/_annotations.createml.json": (
        '[{"annotations": [{"label": "a", "coordinates": {}}]}]',
        "CreateML",
    ),
    "det_train.json": ('[{"name": "a.jpg", "labels": [{"box2d": {}}]}]', "BDD100K"),
    "predictions.json": ('[{"image_id": 1, "bbox": [], "score": 0.5}]', "with scores"),
    "set.ndjson": ("{}", "convert_ndjson_to_yolo"),
    "train.csv": ("image_id,width,height,bbox", "a table"),
    "annotation_train.odgt": ("{}", "CrowdHuman"),
    "train.tfrecord": ("", "TFRecord"),
    "wider_face_train_bbx_gt.txt": ("0--Parade/a.jpg\n1", "WIDER FACE"),
    "labelTxt/a.txt": ("gsd:0.1\n1 1 9 1 9 9 1 9 plane 0", "convert_dota_to_yolo_obb"),
    "label_2/a.txt": ("Car 0.00 0 -1.5 1 1 9 9 1 1 1 1 1 1 1\n", "KITTI"),
    "train/_annotations.txt": ("a.jpg 1,1,9,9,0", "lists of images with boxes"),
    "train/Car/Label/a.txt": ("Licence plate 1.5 1 9 9\n", "OIDv4"),
    "notes/a.txt": ("1,1,9,9,1,4,0,0", "VisDrone"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_formats_that_are_not_read_are_called_by_their_names(tmp_path: Path, name: str) -> None:
    content, said = FOREIGN[name]
    root = build(tmp_path / "set", {name: content, "images/a.jpg": JPEG})
    said = f"(?s){root / name}: is in a format that is not read: .*{said}"
    for source in (root, root / name):
        with pytest.raises(DatasetError, match=said):
            open_source(source)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    files, name, said = REFUSED[case]
    build(tmp_path / "set", files)
    source = name if "://" in name else tmp_path / "set" / name
    with pytest.raises(DatasetError, match=f"(?s){said}"):
        open_source(source)


def test_labels_that_are_called_otherwise_are_named(tmp_path: Path) -> None:
    """Label Studio puts a number before the names of uploaded files."""
    files = {"images/a.jpg": JPEG, "labels/3f2a1b-a.txt": ROW}
    build(tmp_path / "set", {**CLASSES, **files})
    with pytest.raises(DatasetError, match=r"labels/a\.txt.; .* [^ ]*3f2a1b-a\.txt$"):
        pack(tmp_path / "set", tmp_path / "out", progress=False)


@pytest.mark.parametrize("before", ["", "data/", "set/", "/home/me/set/", "./data/"])
def test_the_command_that_mends_a_list(tmp_path: Path, before: str) -> None:
    """What the message says to run is run, and then the dataset is packed."""
    files = pairs("images/train/{}.jpg", "labels/train/{}.txt", "a b")
    build(tmp_path / "set", {**files, "data.yaml": "train: list.txt\nval: list.txt\nnames: [a]"})
    lines = "".join(f"{before}images/train/{name}.jpg\n" for name in "ab")
    build(tmp_path / "set", {"list.txt": lines})
    with pytest.raises(DatasetError, match="mend the list: ") as refusal:
        open_source(tmp_path / "set")
    subprocess.run(str(refusal.value).partition("mend the list: ")[2], shell=True, check=True)
    assert members(open_source(tmp_path / "set"))["train"] == ["a", "b"]


def test_a_list_of_windows(tmp_path: Path) -> None:
    files = pairs("images/train/{}.jpg", "labels/train/{}.txt", "a b")
    files |= {"list.txt": "".join(f".\\images\\train\\{name}.jpg\r\n" for name in "ab")}
    build(tmp_path, {**files, "data.yaml": "train: list.txt\nval: list.txt\nnames: [a]"})
    with pytest.raises(DatasetError, match="between folders") as refusal:
        open_source(tmp_path)
    subprocess.run(str(refusal.value).partition("mend the list: ")[2], shell=True, check=True)
    assert members(open_source(tmp_path))["train"] == ["a", "b"]


def test_what_lies_beside_the_splits_is_listed(tmp_path: Path) -> None:
    files, _ = PACKED["Roboflow, Darknet"]
    data = "train = data/train\nvalid = data/nowhere.txt"
    root = build(tmp_path / "set", {**files, **pairs("more/{}.jpg", "more/{}.txt", "e")})
    assert [Path(path).name for path in open_source(root).left_out] == ["e.jpg"]
    source = open_source(build(root, {"obj.data": data}))
    assert members(source) == {"train": ["a", "b"]}
    assert {Path(path).name for path in source.left_out} == {"c.jpg", "e.jpg"}
    assert any("nowhere.txt', which" in note for note in source.notes)


def test_an_archive_is_refused_with_the_command_that_packs_it(tmp_path: Path) -> None:
    root = build(tmp_path / "my set", PACKED["Label Studio"][0])
    for name, kind in (("a.zip", "zip"), ("b.tar.gz", "gztar"), ("c d.tar", "tar")):
        file = tmp_path / name
        made = shutil.make_archive(str(tmp_path / "made"), kind, root)
        Path(made).rename(file)
        for format in ("auto", "voc"):
            with pytest.raises(DatasetError, match="is an archive") as refusal:
                open_source(file, format=format)
        (tmp_path / "box").mkdir(exist_ok=True)
        (tmp_path / "box" / name).write_bytes(file.read_bytes())
        with pytest.raises(DatasetError, match="is an archive"):
            open_source(tmp_path / "box")
        said = str(refusal.value)
        assert said.endswith(" OUT")
        unpack = "unzip -q" if kind == "zip" else "tar -xf"
        assert unpack in said
        assert " && yolodata shard " in said
    odd = tmp_path / "odd"
    with zipfile.ZipFile(odd, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(DatasetError, match="unzip -q"):
        open_source(odd)
    with tarfile.open(odd, "w") as tar:
        tar.add(__file__)
    with pytest.raises(DatasetError, match="tar -xf"):
        open_source(odd)


def test_shards_are_no_source(tmp_path: Path) -> None:
    root = build(tmp_path / "set", PACKED["labelImg"][0])
    pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False)
    out = tmp_path / "out"
    for shards in (out, out / "train", out / "train" / "dataset.json", out / "data.yaml"):
        with pytest.raises(DatasetError, match=r"packed already.*yolodata info"):
            open_source(shards)
    source = write_yolo(tmp_path / "both", {"train": 2, "val": 1})
    before = source.read_text()
    pack(
        source, tmp_path / "both", PackSettings(imgsz=32), progress=False
    )  # shards beside their own source
    assert source.read_text() == before
    assert open_source(tmp_path / "both").origin == str(source)
