"""What lies at an upload URL is not trusted: it is passed over, and the next whole one taken."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from yolodata.errors import YolodataError
from yolodata.files import file_checksum
from yolodata.folders import Folder
from yolodata.train.checkpoint.arrivals import belongs_beside
from yolodata.train.checkpoint.manifest import Entry, Manifest
from yolodata.train.checkpoint.object_store import DamagedObject, ObjectStore
from yolodata.train.checkpoint.places import LocalPlace
from yolodata.train.checkpoint.run_folder import FOLDER, files_beside, find_newest
from yolodata.train.checkpoint.uploader import Backoff, Uploader, download_newest


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """An upload folder with one whole checkpoint, of epoch 2."""
    folder = tmp_path / "far"
    with Uploader(folder) as up:
        up.put(checkpoints.write(tmp_path / "other", 2))
    return folder


def xxh3(data: bytes) -> str:
    import xxhash

    return xxhash.xxh3_64(data).hexdigest()


def plant(far: Path, called: str, content: bytes | None, number: int = 50, **changes: Any) -> Path:
    """Puts a file there by hand; returns its manifest, which is right but for `changes`."""
    content_ = content or b""
    stem = f"{number:08d}-{xxh3(content_)}"
    facts: dict[str, Any] = {
        "name": called,
        "file": f"{stem}-{called}",
        "bytes": len(content_),
        "xxh3_64": stem[9:],
    }
    text = {"version": 1, **facts, "written": "", "beside": [], **changes}
    if content is not None:
        (far / facts["file"]).write_bytes(content)
    manifest = far / f"{stem}.json"
    manifest.write_text(json.dumps(text))
    return manifest


def content_of(folder: Path, epoch: int, step: int = 0, **changes: Any) -> tuple[str, bytes]:
    """Name and content of a checkpoint."""
    path = checkpoints.write(folder / "made", epoch, step, **changes)
    return path.name, path.read_bytes()


def newest(run: Path, far: Path | str, epoch: int) -> Path:
    """What is found for a run, which is of this epoch."""
    found = find_newest(run, str(far))
    assert found is not None
    assert found.name.startswith(f"{epoch:05d}-00000000")
    return found


def inside(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def said_once(caplog: pytest.LogCaptureFixture) -> None:
    [line] = [line for line in caplog.messages if "looking for an older one" in line]
    assert line.isprintable()
    assert len(line) < 1000


NAMES = [
    "..", ".", "", "../x", "a/b", "x\0y", "x\ny", "x\x1b[2J", "\ud800.ckpt", "x" * 5000,
    "99999-99999999-0123456789abcdef.ckpt", "99999-….ckpt", "steps.csv",
    7, None, True, ["x"], {"x": 1},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_strange_names_are_passed_over(
    name: Any, far: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant(far, "x", b"data", name=name, file=f"00000050-{xxh3(b'data')}-{name}")
    run = tmp_path / "place" / "run"
    found = newest(run, far, 2)
    assert inside(tmp_path / "place") == {
        "run", f"run/{FOLDER}", f"run/{FOLDER}/{found.name}",
    }  # fmt: skip
    said_once(caplog)


def changed(**changes: Any) -> Callable[[Path], None]:
    def change(manifest: Path) -> None:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))

    return change


def written(text: bytes) -> Callable[[Path], None]:
    return lambda manifest: [manifest.write_bytes(text), None][1]


def giant(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2 << 30)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def of_object(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def changes(manifest: Path) -> None:
        [path] = manifest.parent.glob(f"{manifest.stem}-*")
        change(path)

    return changes


MANIFESTS: dict[str, Callable[[Path], None]] = {
    "deep": written(b"[" * 100_000),
    "deep values": written(b'{"version": 1, "name":' + b'{"a":' * 100_000),
    "empty": written(b""),
    "null": written(b"null"),
    "a number": written(b"1"),
    "a list": written(b"[]"),
    "bytes": written(bytes(range(256))),
    "giant": giant,
    "a folder": instead(Path.mkdir),
    "a FIFO": instead(os.mkfifo),
    "a link": instead(lambda path: path.symlink_to("/dev/zero")),
    "version": changed(version=[1]),
    "another version": changed(version=2),
    "bytes are text": changed(bytes="12"),
    "bytes are no number": changed(bytes=float("nan")),
    "bytes are less": changed(bytes=100),
    "bytes are none": changed(bytes=0),
    "bytes are below 0": changed(bytes=-1),
    "bytes are True": changed(bytes=True),
    "bytes are many": changed(bytes=1 << 62),
    "bytes have 400 digits": changed(bytes=10**400),
    "checksum of something else": changed(xxh3_64="0" * 16),
    "checksum is a list": changed(xxh3_64=["0" * 16]),
    "file of another": changed(file="00000050-0123456789abcdef-x.ckpt"),
    "file away": changed(file="../00000050-0123456789abcdef-x.ckpt"),
    "files beside are a number": changed(beside=3),
    "files beside are text": changed(beside="abc"),
    "files beside are numbers": changed(beside=[1, 2]),
    "no object": of_object(Path.unlink),
    "object is a folder": of_object(instead(Path.mkdir)),
    "object is a FIFO": of_object(instead(os.mkfifo)),
    "object is endless": of_object(instead(lambda path: path.symlink_to("/dev/zero"))),
    "object is longer": of_object(giant),
    "object is shorter": of_object(lambda path: os.truncate(path, 100)),
    "object is another": of_object(lambda path: written(b"x" * path.stat().st_size)(path)),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_manifests_that_lie_are_passed_over(
    what: str, far: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MANIFESTS[what](plant(far, *content_of(tmp_path, 3)))
    found = newest(tmp_path / "run", far, 2)
    assert inside(tmp_path / "run") == {FOLDER, f"{FOLDER}/{found.name}"}
    assert len([line for line in caplog.messages if "older one" in line]) <= 1
    assert all(line.isprintable() for line in caplog.messages)


def test_whatever_a_manifest_says_is_read_or_refused_in_a_line() -> None:
    entry = Entry(5, "0" * 16)
    facts = {"file": f"{entry.stem}-a", "bytes": 3, "xxh3_64": "0" * 16}
    whole = json.dumps({"version": 1, "name": "a", **facts, "beside": [{"name": "b/a", **facts}]})
    assert len(Manifest.decode(whole.encode(), entry).all) == 2
    draw, refused = random.Random(20), 0
    signs = (
        b"\\u0000",
        b"\\ud800",
        b"..",
        b"/",
        b"9" * 30,
        b"1e999",
        b"null",
        b"[",
        b"{",
        b'"',
        b"\n",
    )
    for _ in range(3000):
        text = bytearray(whole.encode())
        for _ in range(draw.randint(1, 5)):
            begin = draw.randrange(len(text) + 1)
            cut = begin + draw.choice((0, 0, 1, 9))
            text[begin:cut] = draw.choice((*signs, draw.randbytes(3), b""))
        said = ""
        try:
            found = Manifest.decode(bytes(text), entry)
        except ValueError as error:
            said = str(error)
            refused += 1
        else:
            assert all(each.name.isprintable() for each in found.all)
            assert not any({"", ".", ".."} & {*each.name.split("/")} for each in found.all)
        assert said.isprintable()
        assert len(said) < 300
    assert refused > 2500


LIES: list[tuple[dict[str, Any], str]] = [
    ({"name": "b/../a"}, "name is 'b/../a'"),
    ({"name": "x" * 201 + "/a"}, "name is 'xxx"),
    ({"name": "b"}, "file is '00000005-0000000000000000-a'"),
    ({"bytes": True}, "bytes is True"),
    ({"bytes": -1}, "bytes is -1"),
    ({"bytes": (16 << 30) + 1}, "bytes is 17179869185"),
    ({"bytes": 3.0}, "bytes is 3.0"),
    ({"bytes": float("nan")}, "'NaN' is no number"),
    ({"bytes": 10**30}, f"'{10**30}' is no number"),
    ({"xxh3_64": "1" * 16}, "file is '00000005-0000000000000000-a'"),
    ({"file": f"00000006-{'0' * 16}-a"}, "file is '00000006-0000000000000000-a'"),
]


@pytest.mark.parametrize(("lie", "said"), LIES, ids=range(len(LIES)))
def test_names_sizes_and_checksums_agree(lie: dict[str, Any], said: str) -> None:
    entry = Entry(5, "0" * 16)
    facts = {"name": "a", "file": f"{entry.stem}-a", "bytes": 3, "xxh3_64": "0" * 16}
    with pytest.raises(ValueError, match=re.escape(said)):
        Manifest.decode(json.dumps({"version": 1, **facts, **lie}).encode(), entry)


def test_an_object_without_end_is_not_read_to_it(
    far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            Endless.reads += 1
            assert Endless.reads < 5
            return bytes(size or 0)

    store = ObjectStore(far)
    facts = store.manifest(store.entries()[0]).main
    with pytest.raises(DamagedObject, match=f"must have {facts.bytes + 1} bytes"):
        store.check(dataclasses.replace(facts, bytes=facts.bytes + 1))
    monkeypatch.setattr(LocalPlace, "open", lambda *_: Endless())
    with pytest.raises(DamagedObject, match="got more with"):
        store.check(facts)


def test_what_is_whole_is_taken(far: Path, tmp_path: Path) -> None:
    """The control of the tests above: the same hands, and no lie."""
    name, content = content_of(tmp_path, 3)
    plant(far, name, content)
    found = newest(tmp_path / "run", far, 3)
    assert (found.name, found.read_bytes()) == (name, content)


def test_checkpoints_of_other_content_are_passed_over(
    far: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names and checksums are right: code, rubbish, another epoch, a state that lacks parts."""
    run, ran = tmp_path / "run", tmp_path / "ran"
    rubbish = [b"", b"PK\3\4" + b"x" * 100, pickle.dumps(checkpoints.Code(ran))]
    torch.save(checkpoints.Code(ran), tmp_path / "code")
    torch.save(checkpoints.state(3), tmp_path / "legacy", _use_new_zipfile_serialization=False)
    rubbish += [(tmp_path / name).read_bytes() for name in ("code", "legacy")]
    for wrong in (
        {"epoch": 4},
        {"model": [1]},
        {"given": None},
        {"generators": []},
        {"epochs": "9"},
        {"loss_names": "abc"},
    ):
        torch.save({**checkpoints.state(3), **wrong}, tmp_path / "wrong")
        rubbish.append((tmp_path / "wrong").read_bytes())
    for number, content in enumerate(rubbish):
        plant(far, f"00003-00000000-{xxh3(content)}.ckpt", content, number=50 + number)
    found = newest(run, far, 2)
    assert os.listdir(found.parent) == [found.name]
    assert not ran.exists()
    said = [line for line in caplog.messages if "looking for an older one" in line]
    assert 1 <= len(said) <= len(rubbish)


def test_compressed_checkpoints_are_not_unpacked(far: Path, tmp_path: Path) -> None:
    """A small file may hold a gigabyte of zeros."""
    import zipfile

    _, content = content_of(tmp_path, 3)
    (tmp_path / "plain").write_bytes(content)
    with (
        zipfile.ZipFile(tmp_path / "plain") as plain,
        zipfile.ZipFile(tmp_path / "small", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in plain.namelist():
            small.writestr(entry, plain.read(entry))
    content = (tmp_path / "small").read_bytes()
    assert torch.load(tmp_path / "small", weights_only=True)["epoch"] == 3  # torch would
    plant(far, f"00003-00000000-{xxh3(content)}.ckpt", content)
    newest(tmp_path / "run", far, 2)


def test_thousands_of_objects_are_passed_over(
    far: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(500):
        (far / f"{number + 10:08d}-{number:016x}.json").write_bytes(b"[" * 50)
        (far / f"{number:04d}").touch()
    begun = time.monotonic()
    newest(tmp_path / "run", far, 2)
    assert time.monotonic() - begun < 10
    assert 1 <= len(caplog.messages) < 10
    assert any("495 more" in line for line in caplog.messages)


def test_hostile_manifests_do_not_have_whole_ones_removed(far: Path, tmp_path: Path) -> None:
    """Nor do they take the last number, nor are files removed that are not of our pattern."""
    for number in range(99999990, 100000000):
        (far / f"{number:08d}-{number:016x}.json").write_bytes(b"{}")
    (far / "00000000-0000000000000000").write_bytes(b"of somebody else")
    (far / "notes.txt").write_bytes(b"of somebody else")
    for content in (None, b"cut"):
        plant(far, "x", content, number=500, bytes=4)
        store = ObjectStore(far)
        store.entries()
        store.keep_newest(1)
        assert list(far.glob("*-00002-*.ckpt"))
    with Uploader(far, keep=2) as up:
        up.put(checkpoints.write(tmp_path / "other", 3))
        assert up.flush(30)
        up.put(checkpoints.write(tmp_path / "other", 4))
        assert up.flush(30)
    assert up.status().errors == 0
    for epoch in (4, 3):
        newest(tmp_path / f"run{epoch}", far, epoch)
        next(far.glob(f"*-0000{epoch}-*.ckpt")).unlink()
    assert not list(far.glob("*-00002-*.ckpt"))  # `keep` is 2
    assert (far / "notes.txt").exists()
    assert (far / "00000000-0000000000000000").exists()


def test_what_this_process_put_stays_whatever_else_is_there(far: Path, tmp_path: Path) -> None:
    """Whole files of somebody else's with the largest numbers but one."""
    for number in range(99999990, 99999995):
        plant(far, "x", str(number).encode(), number=number)
    with Uploader(far, keep=2) as up:
        for epoch in (3, 4):
            up.put(checkpoints.write(tmp_path / "other", epoch))
            assert up.flush(30)
        plant(far, "x", b"last", number=99999999)
        up.put(checkpoints.write(tmp_path / "other", 5))
        assert not up.flush(30)
    assert "none can follow" in str(up.status().last_error)
    assert len(list(far.glob("*-0000[34]-*.ckpt"))) == 2
    newest(tmp_path / "run", far, 4)


def test_a_file_beside_is_not_taken_for_there_because_a_manifest_says_so(
    far: Path, tmp_path: Path
) -> None:
    best = tmp_path / "results.csv"
    best.write_bytes(b"a" * 100)
    lie = f"00000040-{xxh3(b'a' * 100)}-results.csv"
    (far / lie).write_bytes(b"b" * 100)
    fact = {"name": "results.csv", "file": lie, "bytes": 100, "xxh3_64": lie[9:25]}
    plant(far, *content_of(tmp_path, 3), number=40, beside=[fact])
    with Uploader(far) as up:
        up.put(checkpoints.write(tmp_path / "other", 4), {"results.csv": best})
    newest(tmp_path / "run", far, 4)
    assert (tmp_path / "run" / "results.csv").read_bytes() == b"a" * 100


def beside(far: Path, files: dict[str, bytes], number: int = 60) -> list[dict[str, Any]]:
    facts = []
    for name, content in files.items():
        there = f"{number:08d}-{xxh3(content)}-{name.rpartition('/')[2]}"
        (far / there).write_bytes(content)
        facts.append({"name": name, "file": there, "bytes": len(content), "xxh3_64": there[9:25]})
    return facts


def test_only_files_of_a_run_come_beside_and_no_code(
    far: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran = tmp_path / "ran"
    torch.save({"model": checkpoints.Code(ran)}, tmp_path / "code.pt")
    files = {
        "results.csv": b"epoch\n",
        "args.yaml": b"task: detect\n",
        "steps.csv": b"x",
        "steps.rank1.csv": b"x",
        "steps.1.csv": b"x",
        "journal.jsonl": b"x",
        "callbacks.py": b"x",
        ".hidden.yaml": b"x",
        f"{FOLDER}/00099-00000000-0123456789abcdef.ckpt": b"x",
        "weights/other.pt": b"x",
        "weights/best.pt": (tmp_path / "code.pt").read_bytes(),
        "deep/er/results.csv": b"x",
    }
    plant(far, *content_of(tmp_path, 3), beside=beside(far, files))
    found = newest(tmp_path / "run", far, 3)
    assert inside(tmp_path / "run") == {
        FOLDER, f"{FOLDER}/{found.name}", "results.csv", "args.yaml", "weights",
    }  # fmt: skip
    assert not ran.exists()
    left_out = [line for line in caplog.messages if "left out" in line]
    assert len(left_out) == 10
    assert "no part of a network" in next(line for line in left_out if "best.pt" in line)


def test_weights_of_a_run_come_beside(far: Path, tmp_path: Path) -> None:
    from training import network
    from ultralytics import YOLO

    model = YOLO(network("detect"))
    model.save(tmp_path / "best.pt")
    content = (tmp_path / "best.pt").read_bytes()
    plant(far, *content_of(tmp_path, 3), beside=beside(far, {"weights/best.pt": content}))
    find_newest(tmp_path / "run", str(far))
    assert (tmp_path / "run" / "weights" / "best.pt").read_bytes() == content
    elsewhere, linked = tmp_path / "elsewhere", tmp_path / "linked"
    elsewhere.mkdir()
    linked.mkdir()
    (linked / "weights").symlink_to(elsewhere)
    assert find_newest(linked, str(far)) is not None
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize(
    ("contents", "whole", "epoch"),
    [([b"theirs"], True, 3), ([b"theirs"], False, 2), ([b"one", b"two"], True, 2)],
    ids=["of the same size", "of a checkpoint that is not whole", "twice the same name"],
)
def test_files_beside_come_with_what_is_found_alone(
    contents: list[bytes], whole: bool, epoch: int, far: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.csv").write_bytes(b"mine..")
    files = [fact for content in contents for fact in beside(far, {"results.csv": content})]
    manifest = plant(far, *content_of(tmp_path, 3), beside=files)
    if not whole:
        of_object(lambda path: os.truncate(path, 100))(manifest)
    newest(run, far, epoch)
    assert (run / "results.csv").read_bytes() == (b"theirs" if epoch == 3 else b"mine..")


def test_one_that_is_not_further_ends_the_search_only_if_it_is_whole(
    far: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    here = checkpoints.write(run / FOLDER, 1)
    name, content = content_of(tmp_path, 0)
    plant(far, name, None, number=60)
    plant(far, f"00000-00000000-{xxh3(content)}.ckpt", content, number=61)
    of_object(lambda path: path.write_bytes(b"x" * len(content)))(sorted(far.glob("*61-*.json"))[0])
    found = newest(run, far, 2)
    found.unlink()
    plant(far, name, content, number=62)  # this one is: the run went back to here
    assert find_newest(run, str(far)) == here


def test_one_object_that_may_not_be_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"memory://refused/{tmp_path.name}"
    with Uploader(url) as up:
        for epoch in (1, 2):
            up.put(checkpoints.write(tmp_path / "other", epoch))
            assert up.flush(30)
    refused = "-00002-"
    opened, read = MemoryFileSystem._open, MemoryFileSystem.cat_file

    def may(function: Any) -> Any:
        def call(self: Any, path: str, *args: Any, **given: Any) -> Any:
            if refused in path:
                raise PermissionError(f"Access denied: \x1b[2J{path}{'.' * 9000}")
            return function(self, path, *args, **given)

        return call

    monkeypatch.setattr(MemoryFileSystem, "_open", may(opened))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", may(read))
    monkeypatch.setattr(MemoryFileSystem, "get_file", may(MemoryFileSystem.get_file))
    newest(tmp_path / "run", url, 1)
    said = [line for line in caplog.messages if "Access denied" in line]
    assert said
    assert all(line.isprintable() and len(line) < 2000 for line in said)
    refused = "000"  # all of them: that is no empty place
    with pytest.raises(YolodataError, match=r"no checkpoint that can be read.*Access denied"):
        find_newest(tmp_path / "other run", url)


def test_a_place_has_files_alone_and_writes_over_none(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = LocalPlace(far).sizes()
    assert len(LocalPlace(far).head(min(known), 3)) == 3
    os.mkfifo(far / "pipe.json")
    (far / "folder.json").mkdir()
    (far / "link.json").symlink_to(far / min(known))
    assert LocalPlace(far).sizes() == known
    monkeypatch.setattr(Folder, "remove", lambda *_: None)  # as if it came back meanwhile
    with pytest.raises(FileExistsError):
        LocalPlace(far).put_bytes(min(known), b"mine")
    assert LocalPlace(far).sizes() == known


def test_names_that_act_on_a_terminal_are_not_of_a_run() -> None:
    assert belongs_beside("results.png", 1)
    assert not belongs_beside("a\x1b[2J.png", 1)
    assert not belongs_beside("x" * 1000 + ".png", 1)


def test_downloaded_files_keep_the_umask(far: Path, tmp_path: Path) -> None:
    plant(far, *content_of(tmp_path, 3), beside=beside(far, {"results.csv": b"x"}))
    before = os.umask(0o027)
    try:
        found = newest(tmp_path / "run", far, 3)
    finally:
        os.umask(before)
    for path in (found, tmp_path / "run" / "results.csv"):
        assert path.stat().st_mode & 0o777 == 0o640


def test_a_manifest_that_is_misread_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of those that are kept, once, on the way."""
    far = tmp_path / "far"
    with Uploader(far, keep=3) as up:
        for epoch in (1, 2, 3):
            up.put(checkpoints.write(tmp_path / "other", epoch))
            assert up.flush(30)
    read = LocalPlace.head

    def misread(self: LocalPlace, name: str, limit: int) -> bytes:
        return b"?" if name.startswith("00000003") else read(self, name, limit)

    monkeypatch.setattr(LocalPlace, "head", misread)
    with Uploader(far, keep=3) as up:
        up.put(checkpoints.write(tmp_path / "other", 4))
    monkeypatch.undo()
    assert {path.name[26:31] for path in far.glob("*.ckpt")} >= {"00002", "00003", "00004"}
    assert len(list(far.glob("*.json"))) == len(list(far.glob("*.ckpt"))) == 4


def test_strange_manifests_are_read_once(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(99999000, 99999100):
        (far / f"{number}-{number:016x}.json").write_bytes(b"[")
    read, asked = LocalPlace.head, []

    def counted(self: LocalPlace, name: str, limit: int) -> bytes:
        asked.append(name)
        return read(self, name, limit)

    monkeypatch.setattr(LocalPlace, "head", counted)
    with Uploader(far) as up:
        for epoch in (3, 4, 5):
            up.put(checkpoints.write(tmp_path / "other", epoch))
            assert up.flush(30)
    assert sum(name.startswith("99999") for name in asked) == 100


def test_large_files_do_not_come_beside(far: Path, tmp_path: Path) -> None:
    run = tmp_path / "here"
    run.mkdir()
    for name in ("results.csv", "labels.jpg"):
        (run / name).write_bytes(b"x")
    os.truncate(run / "labels.jpg", 300 << 20)
    assert set(files_beside(run)) == {"results.csv"}
    [fact] = beside(far, {"args.yaml": b"x"})
    plant(far, *content_of(tmp_path, 3), beside=[{**fact, "bytes": 300 << 20}])
    os.truncate(far / fact["file"], 300 << 20)
    found = newest(tmp_path / "run", far, 3)
    assert inside(tmp_path / "run") == {FOLDER, f"{FOLDER}/{found.name}"}


def test_what_a_killed_download_left_is_removed(far: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for place in (run, run / "weights", run / FOLDER):
        place.mkdir(parents=True)
        (place / f".{'0' * 16}.tmp").touch()
        (place / ".mine.tmp").touch()
    find_newest(run, str(far))
    assert sorted(path.name for path in run.rglob("*.tmp")) == [".mine.tmp"] * 3


def test_links_in_the_run_folder_are_not_followed(far: Path, tmp_path: Path) -> None:
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.mkdir()
    (mine / "file").write_bytes(b"mine")
    run.mkdir()
    (run / "weights").symlink_to(mine)
    (run / "results.csv").symlink_to(mine / "file")
    name, content = content_of(tmp_path, 3)
    files = {"results.csv": b"new", "weights/last.pt": b"new"}
    plant(far, name, content, beside=beside(far, files))
    find_newest(run, str(far))
    assert (mine / "file").read_bytes() == b"mine"
    assert os.listdir(mine) == ["file"]
    assert (run / "results.csv").read_bytes() == b"new"
    assert not (run / "results.csv").is_symlink()


def test_links_at_the_place_of_uploads_are_not_followed(far: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    path = checkpoints.write(tmp_path / "other", 4)
    with path.open("rb") as file:
        stem = f"00000002-{file_checksum(file)}"
    for name in (f"{stem}-{path.name}", f"{stem}.json"):
        (far / name).symlink_to(mine)
    with Uploader(far) as up:
        up.put(path)
    assert mine.read_bytes() == b"mine"
    assert newest(tmp_path / "run", far, 4).name == path.name


def test_a_disk_that_is_full_is_an_error_and_no_damage(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 10**6, 0, 0, 10**6, 10**6, 10**6, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: full)
    with pytest.raises(YolodataError, match=r"needs .*, and .* free"):
        find_newest(tmp_path / "run", str(far))
    shutil.rmtree(tmp_path / "run")
    manifest = plant(far, *content_of(tmp_path, 3))
    changed(bytes=1 << 50)(manifest)  # which does not fit either, and is a lie
    monkeypatch.undo()
    newest(tmp_path / "run", far, 2)


def test_names_of_a_script_are_checked_when_they_are_put(tmp_path: Path) -> None:
    (tmp_path / "a\nb").write_bytes(b"x")
    with Uploader(tmp_path / "far", backoff=Backoff(0.01, 0.01)) as up:
        up.put(tmp_path / "a\nb")
    assert up.status().failed == 1
    assert ObjectStore(tmp_path / "far").entries() == []
    assert download_newest(tmp_path / "far", tmp_path / "back") is None


def test_a_checkpoint_of_another_version_is_no_reason_to_begin_anew(
    far: Path, tmp_path: Path
) -> None:
    """A run of an older yolodata would remove it at last; an older whole one is taken, though."""
    plant(far, *content_of(tmp_path, 3, version=99))
    newest(tmp_path / "run", far, 2)
    for path in far.glob("00000001-*"):
        path.unlink()
    with pytest.raises(YolodataError, match=r"no checkpoint that can be read.*version 99"):
        find_newest(tmp_path / "other", str(far))
