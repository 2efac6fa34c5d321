"""Text of others: decoded where that can be told, listed or refused elsewhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ingesting import JPEG, ROW, VOC, build

from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.ingest.sample import Refused
from yolodata.ingest.voc_xml import class_names, label_rows, read_annotation

CAT, BODY = "猫", "<annotation><object><name>猫</name></object></annotation>"
BOX = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"


def declared(name: str, encoding: str) -> bytes:
    return f'<?xml version="1.0" encoding="{name}"?>\n{BODY}'.encode(encoding)


READ = {
    "none": BODY.encode(),
    "mark": BODY.encode("utf-8-sig"),
    "UTF-16": BODY.encode("utf-16"),
    "UTF-16, declared": declared("utf-16", "utf-16"),
    "UTF-16 without a mark": BODY.encode("utf-16-be"),
    "UTF-32": BODY.encode("utf-32"),
    "gb2312": declared("gb2312", "gb2312"),
    "GBK": declared("GBK", "gbk"),
    "gbk, which is also UTF-8": declared("gbk", "gbk"),
    "gb2312, more than that in fact": declared("gb2312", "gbk").replace(
        CAT.encode("gbk"), CAT.encode("gbk") + "镕".encode("gbk")
    ),
    "gb18030": declared("gb18030", "gb18030"),
    "big5": f'<?xml version="1.0" encoding="Big5"?>{BODY}'.replace(CAT, "貓").encode("big5"),
    "utf8 without a dash": declared("utf8", "utf-8"),
    "unknown, UTF-8 in fact": declared("utf8mb4", "utf-8"),
    "UTF-16 declared in single bytes": declared("utf-16", "utf-8"),
    "EBCDIC declared in ASCII": declared("cp037", "utf-8"),
    "no encoding at all": declared("rot13", "utf-8"),
    "GBK declared, UTF-8 in fact": declared("gb2312", "utf-8"),
    "blank lines first": b"\n  " + declared("utf-8", "utf-8"),
    "single quotes": declared("gbk", "gbk").replace(b'"', b"'"),
    "a document type": b"<!DOCTYPE annotation>" + BODY.encode(),
}
UNREAD = {
    "unknown": (declared("x-mystery", "gbk").replace("猫".encode("gbk"), b"\xff\xff"), "x-mystery"),
    "UTF-8 declared, GBK in fact": (
        declared("utf-8", "gbk").replace(b"\xa8", b"\xff"),
        "byte 0xc3 at 65 is not UTF-8",
    ),
    "not even text": (bytes(range(256)), "byte 0x80 at 128"),
    "empty": (b"  \n", "empty"),
    "NUL": (b"<annotation>\0</annotation>", "not well-formed"),
    "truncated": (BODY.encode()[:-9], "unclosed|mismatched|no element"),
    "UTF-16, odd bytes": (BODY.encode("utf-16")[:-1], "UTF-16"),
    "laughs": (
        b'<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>',
        "declares entities",
    ),
    "laughs in UTF-16": (
        '<!DOCTYPE a [<!ENTITY a "ha">]><annotation>&a;</annotation>'.encode("utf-16"),
        "declares entities",
    ),
    "another file": (
        b'<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>',
        "declares entities",
    ),
    "another document type": (
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation>&a;</annotation>',
        "undefined entity",
    ),
    "nested": (b"<annotation>" * 100_000, "no element found"),
    "half a letter": (b"<annotation>&#xD800;</annotation>", "invalid character"),
}


@pytest.mark.parametrize("case", READ)
def test_read(tmp_path: Path, case: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(READ[case])
    name = {"big5": "貓", "gb2312, more than that in fact": "猫镕"}.get(case, CAT)
    assert class_names(read_annotation(file)) == {name}


@pytest.mark.parametrize("case", UNREAD)
def test_unread(tmp_path: Path, case: str) -> None:
    file = tmp_path / "a.xml"
    data, reason = UNREAD[case]
    file.write_bytes(data)
    with pytest.raises(Refused, match=rf"a\.xml cannot be used: .*({reason})"):
        read_annotation(file)


def test_one_bad_annotation_never_ends_the_set(tmp_path: Path) -> None:
    bad = {f"{k}": data for k, (data, _) in enumerate(UNREAD.values())}
    good = VOC.replace(b"dog", CAT.encode()) % b"x.jpg"
    files: dict[str, bytes | str] = {"Annotations/good.xml": good}
    files |= {f"Annotations/{name}.xml": data for name, data in bad.items()}
    files["Annotations/folder.xml/in it"] = ""
    files |= {f"JPEGImages/{name}.jpg": JPEG for name in ("good", "folder", "alone", *bad)}
    root = build(tmp_path / "set", files)
    (root / "Annotations" / "link.xml").symlink_to("nowhere")
    (root / "JPEGImages" / "link.jpg").write_bytes(JPEG)
    report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False).splits["train"]
    left = {Path(path).stem: reason for path, reason in report.left_out}
    assert set(left) == {*bad, "folder", "link"}
    assert "is a folder" in left["folder"]
    assert (report.images, report.objects) == (2, 1)
    assert [(Path(path).stem, note[:18]) for path, note in report.notes] == [
        ("alone", "no annotation file")
    ]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("<difficult>yes</difficult>" + BOX, "<difficult> must be 0 or 1, got 'yes'"),
        (BOX.replace("5", "five", 1), "<bndbox/xmin> must be a number, got 'five'"),
        (BOX.replace("<xmin>5</xmin>", ""), "<bndbox/xmin> is missing"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, broken: str, said: str) -> None:
    file = tmp_path / "a.xml"
    size = "<size><width>9</width><height>9</height></size>"
    file.write_text(f"<a>{size}<object><name>dog</name>{broken}</object></a>")
    with pytest.raises(Refused, match=said):
        label_rows(read_annotation(file), file, {"dog": 0})


def test_damaged_files_raise_what_is_documented(tmp_path: Path) -> None:
    """Random damage to XML and YAML: read, or refused by our own errors; nothing else escapes."""
    rng = random.Random(0)
    xml, yaml = tmp_path / "a.xml", tmp_path / "a.yaml"
    tags = (
        b"!!int ",
        b"!!timestamp ",
        b"!!bool ",
        b"&a ",
        b"*a ",
        b"<<: ",
        b"? ",
        b"- ",
        b"\0",
        b"{",
    )
    good = b"train: images\nval: images\nnames:\n  0: cat\n  1: dog\nnc: 2\nkpt_shape: [2, 3]\n"
    refused = 0
    for _ in range(150):
        data = bytearray(rng.choice(list(READ.values())))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        xml.write_bytes(data)
        try:
            label_rows(read_annotation(xml), xml, {CAT: 0})
        except Refused:
            refused += 1
        text = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            text[at:at] = rng.choice(tags)
        yaml.write_bytes(text)
        try:
            open_source(yaml)
        except DatasetError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    "text",
    [
        "a: 2020-13-45",
        "a: !!int ''",
        "a: !!bool maybe",
        "a: !!timestamp soon",
        "a: !!python/object/apply:os.system [ls]",
        "[" * 100_000,
        "- " * 100_000,
        "? [a]\n: 1",
        "a: &x {k: 1}\nb: &y {<<: [" + "*x, " * 9 + "*x]}\nc: *z",
    ],
)
def test_no_error_of_the_yaml_parser_escapes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(text)
    with pytest.raises(DatasetError) as refusal:
        open_source(file)
    assert len(str(refusal.value)) < 2000


def test_yaml_bombs(tmp_path: Path) -> None:
    file = tmp_path / "data.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    for key in ("names", "train", "path", "kpt_shape", "nc", "channels"):
        keys = {"train": "x", "val": "x", "names": "[a]", key: "*a11"}
        file.write_text("\n".join((*lines, *(f"{k}: {v}" for k, v in keys.items()))))
        with pytest.raises(DatasetError) as refusal:
            open_source(file)
        assert len(str(refusal.value)) < 2000


def test_text_files_in_other_encodings(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"images/{k}.jpg": JPEG for k in "abcdefg"}
    labels = {
        "a": ROW,
        "b": b"\xef\xbb\xbf" + ROW,
        "c": ROW.replace(b"\n", b"\r\n"),
        "d": ROW.decode().encode("utf-16"),
        "e": b"0 .5 .5 .2 .2 \xe9",
        "f": ROW + b"\0",
    }
    files |= {f"labels/{k}.txt": text for k, text in labels.items()}
    root = build(tmp_path / "set", {**files, "classes.txt": "ch\xe2t\r\n".encode("utf-16")})
    (root / "labels" / "g.txt").mkdir()
    assert open_source(root).names == {0: "chât"}
    report = pack(root, tmp_path / "out", PackSettings(imgsz=32), progress=False).splits["train"]
    left = {Path(path).stem: reason for path, reason in report.left_out}
    assert (report.images, report.objects, sorted(left)) == (4, 3, ["d", "e", "f"])
    assert all("not UTF-8" in left[k] for k in "de")
    assert [note for _, note in report.notes] == ["the label file is no file, so taken as absent"]
    build(root, {"data.yaml": "train: list.txt\nval: list.txt\nnames: [caf\xe9]".encode("latin-1")})
    build(root, {"list.txt": "./images/a.jpg".encode("utf-16-le")})
    with pytest.raises(DatasetError, match="NUL bytes, as UTF-16"):
        open_source(root)
    build(root, {"list.txt": "\n\n./images/a.jpg\r\n\r\n./images/b.jpg"})
    source = open_source(root)
    assert source.names == {0: "caf"}  # as Ultralytics reads it
    assert any("is not UTF-8 (byte" in note for note in source.notes)
