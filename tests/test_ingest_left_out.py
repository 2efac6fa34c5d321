"""Nothing of a source vanishes: it is packed, or listed as left out with its reason, or refused."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from ingesting import JPEG, ROW, VOC, build

from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.ingest.sample import Source

COCO = (
    '{"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}], "annotations": '
    '[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}], '
    '"categories": [{"id": 1, "name": "a"}]}'
)


def voc(root: Path, names: str, **lists: str) -> Path:
    """A VOC folder with a picture and an annotation for each name, and lists in ImageSets/Main."""
    for name in names.split():
        build(root, {f"JPEGImages/{name}.jpg": JPEG, f"Annotations/{name}.xml": VOC})
    for name, text in lists.items():
        build(root, {f"ImageSets/Main/{name}.txt": text.replace(" ", "\n")})
    return root


def stems(source: Source) -> dict[str, str]:
    return {s: " ".join(Path(p).stem for p in i.paths) for s, i in source.splits.items()}


LISTS: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    # lists -> splits, and what is in no split
    "of years": (
        {"trainval2007": "a", "2012_trainval": "b d", "voc2007_test": "c"},
        {"train": "a b d", "test": "c"},
        "e",
    ),
    "of years, and without one": (
        {"train": "a", "train2007": "b", "val2007": "b c", "val2012": "c d", "dog_val2012": "e"},
        {"train": "a", "val": "b c d"},
        "e",
    ),
    "trainval and test": ({"trainval": "a b", "test": "c"}, {"train": "a b", "test": "c"}, "d e"),
    "train and trainval": (
        {"train": "a", "trainval": "a b c"},
        {"train": "a", "val": "b c"},
        "d e",
    ),
    "val and trainval": ({"val": "a", "trainval": "a b c"}, {"train": "b c", "val": "a"}, "d e"),
    "all four": (
        {"train": "a", "val": "b", "trainval": "a b", "test": "c"},
        {"train": "a", "val": "b", "test": "c"},
        "d e",
    ),
    "trainval has more": (
        {"train": "a", "val": "b", "trainval": "a b c"},
        {"train": "a", "val": "b"},
        "c d e",
    ),
    "trainval alone": ({"trainval": "a b c d e"}, {"train": "a b c d e"}, ""),
    "test alone": ({"test": "c"}, {"test": "c"}, "a b d e"),
    "train is empty": (
        {"train": "", "trainval": "a b", "val": "b"},
        {"train": "a", "val": "b"},
        "c d e",
    ),
    "lists of classes": (
        {"dog_train": "e -1", "dog_trainval": "e 1", "train": "a b", "val": "c"},
        {"train": "a b", "val": "c"},
        "d e",
    ),
    "lists of classes alone": ({"dog_train": "e -1"}, {"train": "a b c d e"}, ""),
    "another spelling": ({"Train": "a b", "VALID": "c"}, {"train": "a b", "val": "c"}, "d e"),
    "flags, suffixes, paths": (
        {"train": "a.jpg JPEGImages/b.jpg ..\\JPEGImages\\c.JPG", "val": "/else/where/d e.xml"},
        {"train": "a b c", "val": "d e"},
        "",
    ),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_of_voc(tmp_path: Path, case: str) -> None:
    lists, splits, rest = LISTS[case]
    source = open_source(voc(tmp_path, "a b c d e", **lists))
    assert stems(source) == splits
    unlisted = {Path(path).stem: why for path, why in source.left_out.items()}
    assert " ".join(sorted(unlisted)) == rest
    assert set(unlisted.values()) <= {"in none of the lists of images"}


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfa\r\n\r\nb\r\n",
        "a\nb\n".encode("utf-16"),
        b"  a  1\n\tb -1\n",
        b"a b c\nb",  # a name with spaces, which is no such image, begins with one that is
        b"a\nb\na\n",
        b"a\rb",
    ],
)
def test_how_lists_are_written(tmp_path: Path, text: bytes) -> None:
    root = voc(tmp_path, "a b c")
    build(root, {"ImageSets/Main/train.txt": text})
    assert stems(open_source(root)) == {"train": "a b"}


def test_names_with_spaces(tmp_path: Path) -> None:
    files = {}
    for name in ("a", "a b", "c (1)"):
        files |= {f"JPEGImages/{name}.jpg": JPEG, f"Annotations/{name}.xml": VOC}
    root = build(tmp_path, {**files, "ImageSets/Main/train.txt": "a b\nc (1).jpg\n"})
    source = open_source(root)
    assert [Path(path).stem for path in source.splits["train"].paths] == ["a b", "c (1)"]
    assert [Path(path).stem for path in source.left_out] == ["a"]


@pytest.mark.parametrize(
    "name", ["ImageSets/Segmentation/val.txt", "ImageSets/Main/dog_val.txt", "val_list.txt"]
)
def test_lists_that_are_not_read_are_said(tmp_path: Path, name: str) -> None:
    """Everything is train then, also what such a list wants to be val."""
    root = build(voc(tmp_path / "set", "a val_1"), {name: "a", "JPEGImages/val_1.txt": ROW})
    (said,) = open_source(root).notes
    assert said.startswith(f"1 lists, as {root / name}, are not read")
    assert not open_source(build(root, {"ImageSets/Main/train.txt": "a"})).notes


def test_objects_in_label_files_beside_xml_are_no_background(tmp_path: Path) -> None:
    """labelImg writes the other format after a click."""
    root = voc(tmp_path, "a b c d e")
    for name in "bcde":
        (root / f"Annotations/{name}.xml").unlink()
    build(root, {"JPEGImages/b.txt": ROW, "labels/c.txt": ROW, "JPEGImages/d.txt": "a dog"})
    report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False).splits["train"]
    assert [Path(path).stem for path, _ in report.notes] == ["d", "e"]
    assert {Path(path).stem: reason[:26] for path, reason in report.left_out} == dict.fromkeys(
        "bc", "no XML, but objects in a l"
    )


def test_pictures_out_of_reach_are_named(tmp_path: Path) -> None:
    hidden = {"images/.hidden/x.jpg": JPEG, "images/.hidden/.deep/y.gif": b""}
    kinds = {
        "coco": {"instances_train.json": COCO, "images/below/z.jpg": JPEG, "test/z.jpg": JPEG},
        "voc": {"Annotations/a.xml": VOC},
        "yolo": {"data.yaml": "train: images\nval: images\nnames: [a]", "labels/a.txt": ROW},
        "folder": {"classes.txt": "a", "labels/a.txt": ROW},
    }
    for kind, files in kinds.items():
        root = build(tmp_path / kind, {"images/a.jpg": JPEG, **hidden, **files})
        (tmp_path / kind / "images" / "odd.pfm").touch()
        report = pack(root, tmp_path / f"{kind}.out", PackSettings(imgsz=32), progress=False)
        pictures = {
            str(path) for path in root.rglob("*.*") if path.suffix in (".jpg", ".pfm", ".gif")
        }
        assert set(report.left_out) == pictures - {str(root / "images/a.jpg")}, kind
        assert report.left_out[str(root / "images/.hidden/x.jpg")].startswith("in a hidden folder")


def test_what_is_named_in_a_hidden_folder_is_packed(tmp_path: Path) -> None:
    yaml = "train: [images, list.txt]\nval: images/.val\nnames: [a]"
    names = ["images/a.jpg", "images/.val/b.jpg", "images/.c/c.jpg", "images/.c/d.jpg"]
    files = {**dict.fromkeys(names, JPEG), "labels/a.txt": ROW, "list.txt": "./images/.c/c.jpg"}
    source = open_source(build(tmp_path / "yolo", {**files, "data.yaml": yaml}))
    assert stems(source) == {"train": "c a", "val": "b"}
    assert [Path(path).name for path in source.left_out] == ["d.jpg"]
    listed = COCO.replace("a.jpg", ".c/a.jpg")
    root = build(tmp_path / "coco", {"train.json": listed, "images/.c/a.jpg": JPEG})
    assert not pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False).left_out


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_pictures_that_links_lead_to_are_packed(tmp_path: Path, kind: str) -> None:
    yaml = "train: images/train\nval: images/train\nnames: [a]"
    files = {"coco": {"instances_train.json": COCO}, "yolo": {"data.yaml": yaml}}[kind]
    files |= {"images/all/a.jpg": JPEG, "images/all/b.jpg": JPEG, "labels/train/a.txt": ROW}
    root = build(tmp_path / "set", files)
    (root / "images" / "train").mkdir()
    (root / "images" / "train" / "a.jpg").symlink_to(root / "images" / "all" / "a.jpg")
    report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False)
    assert list(report.left_out) == [str(root / "images" / "all" / "b.jpg")]


@pytest.mark.parametrize("link", ["file", "folder", "hard"])
def test_a_file_that_two_splits_reach_by_links_is_said(tmp_path: Path, link: str) -> None:
    yaml = "train: images/train\nval: images/val\nnames: [a]\n"
    root = build(
        tmp_path / "set", {"all/a.jpg": JPEG, "data.yaml": yaml, "labels/train/a.txt": ROW}
    )
    images = root / "images"
    (images / "train").mkdir(parents=True)
    if link == "folder":
        (images / "val").symlink_to(root / "all")
    else:
        (images / "val").mkdir()
    for split in ("train",) if link == "folder" else ("train", "val"):
        if link == "hard":
            (images / split / "a.jpg").hardlink_to(root / "all" / "a.jpg")
        else:
            (images / split / "a.jpg").symlink_to(root / "all" / "a.jpg")
    for splits in (["train"], ["val"]) if link == "hard" else (None,):
        report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False, splits=splits)
    ((_, note),) = report.splits["val"].notes
    assert note.startswith("the same file as an image of 'train'")


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_splits_that_are_links_to_one_folder_are_both_packed(tmp_path: Path, kind: str) -> None:
    beside = {"yolo": ("a.txt", ROW), "voc": ("a.xml", VOC % b"a.jpg")}[kind]
    build(tmp_path / "all", {"a.jpg": JPEG, beside[0]: beside[1]})
    root = build(tmp_path / "set", {"classes.txt": "a"} if kind == "yolo" else {"read.me": ""})
    for split in ("train", "val"):
        (root / split).symlink_to(tmp_path / "all")
    (root / "train" / "up").symlink_to(root)  # leads back to itself, and is not followed for ever
    report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False)
    assert {split: of.objects for split, of in report.splits.items()} == {"train": 1, "val": 1}
    ((_, note),) = report.splits["val"].notes
    assert note.startswith("the same file as an image of 'train'")


def test_two_lists_for_one_split_must_agree(tmp_path: Path) -> None:
    root = voc(tmp_path, "a b c", train="a b")
    build(root, {"ImageSets/train.txt": "b\r\na"})
    assert stems(open_source(root)) == {"train": "a b"}
    build(root, {"ImageSets/train.txt": "a\nc"})
    with pytest.raises(DatasetError, match=r"differs.*remove or rename one"):
        open_source(root)
    with pytest.raises(DatasetError, match=r"lists of images are empty"):
        open_source(voc(tmp_path / "empty", "a", train="", val=""))
    build(voc(tmp_path / "latin", "a"), {"ImageSets/Main/train.txt": b"\xe9"})
    with pytest.raises(DatasetError, match=r"must be UTF-8"):
        open_source(tmp_path / "latin")


def test_what_is_absent_is_listed(tmp_path: Path) -> None:
    source = open_source(voc(tmp_path, "a b", train="a x", val="a b", test="y z"))
    assert stems(source) == {"train": "a", "val": "a b"}
    assert source.splits["train"].unlisted == {"x": "listed for 'train', but no such image"}
    assert set(source.left_out) == {"y", "z"}
    assert any("listed for test is there" in note for note in source.notes)
    with pytest.raises(DatasetError, match=r"none of the 2 images of 'test'"):
        open_source(tmp_path, splits=["test"])


def test_the_same_name_in_two_folders_never_shares_an_annotation(tmp_path: Path) -> None:
    files = {f"images/{name}.jpg": JPEG for name in ("train/a", "val/a", "val/b")}
    files |= {f"Annotations/{name}.xml": VOC % f"{name}.jpg".encode() for name in "ab"}
    root = build(tmp_path, files)
    report = pack(
        root, tmp_path / "out", PackSettings(imgsz=32), progress=False, splits=["val"]
    ).splits["val"]
    assert (report.images, report.objects) == (1, 1)
    ((path, reason),) = report.left_out
    assert path.endswith("val/a.jpg")
    assert "may be that of" in reason
    build(root, {"Annotations/val/a.xml": VOC.replace(b"dog", b"cat") % b"a.jpg"})
    source = open_source(root)
    labels = {
        s: [i.raw_labels(k).text for k in range(len(i.paths))] for s, i in source.splits.items()
    }
    assert source.names == {0: "cat", 1: "dog"}
    assert [text[:1] for text in (*labels["train"], *labels["val"]) if text] == [b"1", b"0", b"1"]


def test_images_in_another_folder_than_that_which_is_read(tmp_path: Path) -> None:
    root = build(voc(tmp_path, "a"), {"images/b.jpg": JPEG})
    ((path, reason),) = open_source(root).left_out.items()
    assert path.endswith("images/b.jpg")
    assert "see --images" in reason


def test_the_name_in_an_annotation_decides_between_two_suffixes(tmp_path: Path) -> None:
    root = voc(tmp_path, "a")
    build(root, {"JPEGImages/a.png": JPEG, "Annotations/a.xml": VOC % rb"C:\pictures\a.jpg"})
    split = open_source(root).splits["train"]
    assert split.raw_labels(0).text
    report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False).splits["train"]
    assert report.images == 1
    assert report.left_out[0][0].endswith("a.png")


def test_what_no_split_of_a_yaml_names(tmp_path: Path) -> None:
    """A folder of another split, what is listed twice, and what is listed and absent."""
    files: dict[str, bytes | str] = {}
    for folder in ("train", "valid", "test"):
        files |= {f"{folder}/images/{folder}.jpg": JPEG, f"{folder}/labels/{folder}.txt": ROW}
    data = "train: ../train/images\nval: ../valid/images\nnames: [a]"
    source = open_source(build(tmp_path / "set", {**files, "data.yaml": data}))
    assert [Path(path).name for path in source.left_out] == ["test.jpg"]
    one, two = "./train/images/train.jpg\n./a.gif", "./train/images/train.jpg\n./no.jpg\n"
    lists = {
        "one.txt": one,
        "two.txt": two,
        "data.yaml": "test: absent\nval: test/images\nnames: [a]",
    }
    build(tmp_path / "set", lists)
    with open(tmp_path / "set" / "data.yaml", "a") as file:
        file.write("\ntrain: [one.txt, two.txt]")
    source = open_source(tmp_path / "set")
    assert [Path(path).name for path in source.splits["train"].paths] == [
        "no.jpg",
        *["train.jpg"] * 2,
    ]
    assert "'test: " in source.notes[0]
    assert "1 images are listed more than once in train" in source.notes[1]
    assert [Path(path).name for path in source.left_out] == ["valid.jpg"]
    report = pack(
        tmp_path / "set", tmp_path / "out", PackSettings(imgsz=32), progress=False
    ).splits["train"]
    left = {Path(path).name: reason for path, reason in report.left_out}
    assert report.images == 2
    assert "its suffix is not that of an image" in left["a.gif"]
    assert "No such file" in left["no.jpg"]


def test_label_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    """Those beside images whose labels lie elsewhere, and those with a suffix in capitals."""
    files = {f"images/{split}/{name}.jpg": JPEG for split in ("train", "val") for name in "ab"}
    files |= {"labels/train/a.txt": ROW, "labels/train/b.TXT": ROW, "images/val/a.txt": ROW}
    files |= {"images/val/notes.txt": "seen"}
    files |= {"data.yaml": "train: images/train\nval: images/val\nnames: [a]"}
    root = build(tmp_path.resolve(), files)
    left = {os.path.relpath(path, root): why for path, why in open_source(root).left_out.items()}
    assert left == {
        "images/val/a.txt": f"label file beside its image; such are read from '{root}/labels/val' "
        "alone",
        "labels/train/b.TXT": "the suffix of a label file must be .txt in small letters",
    }


@pytest.mark.parametrize("at", ["images/train", "labels/train"])
def test_annotations_in_other_formats_are_named(tmp_path: Path, at: str) -> None:
    """labelImg writes either, and labelme JSON; images with label files need neither."""
    files = {f"images/train/{name}.jpg": JPEG for name in "abc"} | {"labels/train/a.txt": ROW}
    files |= {f"{at}/a.xml": VOC, f"{at}/b.xml": VOC, f"{at}/c.json": b"{}", f"{at}/d.json": b"{}"}
    files["data.yaml"] = b"train: images/train\nval: images/train\nnames: [a]"
    root = build(tmp_path, files)
    left_out = open_source(root / "data.yaml").left_out
    assert {str(Path(path).relative_to(root)) for path in left_out} == {
        f"{at}/b.xml", f"{at}/c.json",
    }  # fmt: skip
    assert all("without a label file" in reason for reason in left_out.values())


def test_images_that_share_a_label_file_are_said(tmp_path: Path) -> None:
    files = {f"images/{name}": JPEG for name in ("a.jpg", "a.png", "b.jpg")}
    files |= {"labels/a.txt": ROW, "data.yaml": b"train: images\nval: images\nnames: [a]"}
    (note,) = [note for note in open_source(build(tmp_path, files)).notes if "suffixes" in note]
    assert note.startswith("2 images have one name with several suffixes")
    assert "a.png" in note


def test_splits_that_were_not_asked_for_do_not_matter(tmp_path: Path) -> None:
    data = {"data.yaml": "train: images\nval: no/such\nnames: [a]"}
    source = open_source(build(tmp_path, {**data, "images/a.jpg": JPEG}), splits=["train"])
    assert stems(source) == {"train": "a"}
    lists = "train: one.txt\nval: two.txt\ntest: none.txt\nnames: [a]"
    build(tmp_path, {"data.yaml": lists, "none.txt": "./images/no.jpg"})
    build(
        tmp_path, {"one.txt": "./images/a.jpg", "two.txt": "./images/b.jpg", "images/b.jpg": JPEG}
    )
    source = open_source(tmp_path)  # test is optional upstream, too
    assert stems(source) == {"train": "a", "val": "b"}
    assert "no test split: " in source.notes[0]
    assert "none of the 1 images that are listed exists" in source.notes[0]
    with pytest.raises(DatasetError, match="none of the 1 images"):
        open_source(tmp_path, splits=["test"])
    for split in ("train", "val"):
        assert not open_source(tmp_path, splits=[split]).left_out
    with pytest.raises(
        DatasetError, match="to pack the other splits alone, name them with --split"
    ):
        open_source(build(tmp_path / "absent", {**data, "images/a.jpg": JPEG}))


def yolo(root: Path, rng: random.Random) -> Path:
    """A YOLO dataset with folders and lists, with all that goes wrong with them."""
    files: dict[str, bytes | str] = {f"images/{k}/first.jpg": b"x" for k in ("train", "val")}
    for k in range(rng.randint(4, 12)):
        folder = rng.choice(("train", "val", "test", "extra", "train/deep"))
        if rng.random() < 0.9:
            suffix = rng.choice((".jpg", ".JPG", ".gif", ".png"))
            files[f"images/{folder}/{k}{suffix}"] = b"x"
        if rng.random() < 0.8:
            files[f"labels/{folder}/{k}.txt"] = ROW
    images = [name for name in files if name.startswith("images/")]
    listed = [*rng.sample(images, rng.randint(1, len(images)))]
    listed += ["images/no/where.jpg", *rng.sample([f"images/train/no{k}.jpg" for k in range(9)], 5)]
    files["list.txt"] = "\n".join(f"./{name}" for name in listed)
    train = rng.choice(("images/train", ["images/train", "list.txt"], "list.txt"))
    val = rng.choice(("images/val", "list.txt", ["list.txt", "images/val", "images/val"]))
    return build(root, {**files, "data.yaml": f"train: {train}\nval: {val}\nnames: [a, b]"})


def random_voc(root: Path, rng: random.Random) -> Path:
    """A VOC dataset with lists and folders, with all that goes wrong with them."""
    names = [f"{k}" for k in range(rng.randint(4, 9))]
    files: dict[str, bytes | str] = {"JPEGImages/z.jpg": b"x", "Annotations/z.xml": VOC}
    for name in names:
        for _ in range(rng.choice((1, 1, 1, 2))):
            folder, notes = (rng.choice(("", "", "train/", "val/", "more/")) for _ in range(2))
            if rng.random() < 0.9:
                suffix = rng.choice((".jpg", ".jpg", ".png", ".gif"))
                files[f"JPEGImages/{folder}{name}{suffix}"] = b"x"
            if rng.random() < 0.9:
                files[f"Annotations/{notes}{name}.xml"] = VOC
    for name in rng.sample(("train", "val", "trainval", "test", "dog_val"), rng.randint(0, 4)):
        some = rng.sample([*names, "nowhere"], rng.randint(0, len(names)))
        files[f"ImageSets/Main/{name}.txt"] = "\n".join(["z", *some])
    return build(root, files)


@pytest.mark.parametrize("make", [yolo, random_voc])
@pytest.mark.parametrize("seed", range(25))
def test_every_file_is_accounted_for(
    tmp_path: Path, make: Callable[[Path, random.Random], Path], seed: int
) -> None:
    root = make(tmp_path.resolve() / "set", random.Random(seed))
    source = open_source(root)
    splits = source.splits.values()
    packed = {path for split in splits for path in split.paths}
    labels = {file for split in splits for file in split.label_files()}
    unlisted = {name for split in splits for name in split.unlisted}
    assert packed.isdisjoint(source.left_out)
    with_an_image = {Path(path).stem for path in source.left_out if not path.endswith(".gif")}
    for path in map(str, root.rglob("*.*")):
        kind = os.path.splitext(path)[1]
        if kind in (".jpg", ".JPG", ".png", ".gif"):
            assert path in packed or path in source.left_out or path in unlisted
        elif "/labels/" in path or "/Annotations/" in path:
            left = path in source.left_out or Path(path).stem in with_an_image
            assert path in labels or left, path
    for file in root.rglob("ImageSets/Main/*.txt"):
        split = source.splits.get(file.stem)
        if split is not None and file.stem != "dog_val":
            there = {Path(path).stem for path in split.paths} | set(split.unlisted)
            assert set(file.read_text().split()) <= there
    for file in root.glob("list.txt"):
        if "list.txt" in (root / "data.yaml").read_text():
            assert {f"{root}/{line[2:]}" for line in file.read_text().split()} <= packed | unlisted
