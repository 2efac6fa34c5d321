"""Writing into a folder that somebody may have planted links in, and opening what never ends."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import threading
import time
from pathlib import Path

import pytest
from bounded import bounded

from yolodata.files import open_regular, read_regular
from yolodata.folders import Folder

WRITE = os.O_WRONLY | os.O_CREAT


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file outside, which no one may touch."""
    file = tmp_path / "mine"
    file.write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    return file


def test_a_terminal_that_is_opened_does_not_take_the_process() -> None:
    main, terminal = os.openpty()
    child = os.fork()
    if child == 0:
        os.setsid()  # without a terminal; the next one that is opened would be its own
        try:
            read_regular(os.ttyname(terminal), 9)
        except OSError:
            try:
                os.open("/dev/tty", os.O_RDWR)
            except OSError as error:
                os._exit(0 if error.errno == errno.ENXIO else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(main)
    os.close(terminal)


def test_links_in_a_folder_are_not_followed(mine: Path) -> None:
    path = mine.parent / "folder"
    (path / "link").symlink_to(mine)
    (path / "dangling").symlink_to(mine.parent / "new")
    (path / "away").symlink_to(mine.parent)
    (path / "hard").hardlink_to(mine)
    with Folder.at(path) as folder:
        for name in ("link", "dangling"):
            with pytest.raises(OSError, match=r"is a link, .* not followed: remove it"):
                folder.open(name, WRITE)
        with pytest.raises(OSError, match="is a link, and a folder"):
            folder.folder("away", create=True)
        with pytest.raises(OSError, match="second name"):
            folder.open("hard", WRITE)
        folder.replace("link", b"new")
        folder.remove("dangling")
        assert folder.names() == ["away", "hard", "link"]
        assert folder.read("link", 3) == b"new"
        with pytest.raises(OSError, match="more than 2 bytes"):
            folder.read("link", 2)
    assert mine.read_bytes() == b"mine"
    assert sorted(os.listdir(mine.parent)) == ["folder", "mine"]


def test_a_folder_that_is_exchanged_meanwhile_stays_the_one_that_was_opened(mine: Path) -> None:
    path = mine.parent / "folder"
    with Folder.at(path) as folder:
        path.rename(mine.parent / "aside")
        path.symlink_to(mine.parent)
        folder.remove("mine")
        folder.replace("new", b"")
    assert mine.exists()
    assert (mine.parent / "aside" / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with Folder.at(tmp_path) as folder, pytest.raises(PermissionError, match="user 12345"):
        folder.check_ours()
    assert os.listdir(tmp_path) == []


def test_folders_that_everybody_may_write_to_are_refused(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Folder.at(tmp_path / "made", create=True) as folder:
            folder.check_ours()
            os.chmod(folder.path, 0o777)
            with pytest.raises(PermissionError, match="everybody may write there"):
                folder.check_ours()
            with folder.folder("below", create=True) as below:
                below.check_ours()
    finally:
        os.umask(before)


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, what in ((tmp_path / "fifo", "FIFO"), (Path("/dev/zero"), "device")):
        with pytest.raises(OSError, match=f"must be a file, is a {what}"):
            open_regular(path)
    (tmp_path / "below").mkdir()
    with Folder.at(tmp_path) as folder:
        for name, what in (("fifo", "FIFO"), ("below", "folder")):
            with bounded(seconds=1), pytest.raises(OSError, match=f"must be a file, is a {what}"):
                folder.open(name, os.O_RDONLY)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="at most 1000 are allowed"):
        read_regular(tmp_path / "sparse", 1000)
    (tmp_path / "link").symlink_to(tmp_path / "small")
    (tmp_path / "small").write_bytes(b"read")
    assert read_regular(tmp_path / "link", 4) == b"read"
    assert (
        len(read_regular("/proc/self/smaps", 100)) == 100
    )  # has more than the size that it states


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with Folder.at(tmp_path) as folder, folder.temporary():
            os._exit(0)
    os.waitpid(child, 0)
    for name in ("mine", ".mine.tmp", f".{'0' * 16}.tmp.txt"):
        (tmp_path / name).touch()
    (tmp_path / f".{'0' * 16}.tmp").mkdir()
    assert len(os.listdir(tmp_path)) == 5
    with Folder.at(tmp_path) as folder:
        folder.remove_temporary()
        assert folder.names() == [f".{'0' * 16}.tmp", f".{'0' * 16}.tmp.txt", ".mine.tmp", "mine"]


def test_what_several_processes_replace_is_tidied_up_by_one_at_a_time(tmp_path: Path) -> None:
    """What another one is writing at that moment stays."""
    in_work = tmp_path / ".0123456789abcdef.tmp"
    in_work.write_bytes(b"half")

    def other(locked: threading.Event) -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        locked.set()
        time.sleep(0.2)
        in_work.rename(tmp_path / "theirs")
        os.close(descriptor)

    locked = threading.Event()
    thread = threading.Thread(target=other, args=(locked,))
    thread.start()
    locked.wait()
    (tmp_path / ".fedcba9876543210.tmp").write_bytes(b"of one that was killed")
    with Folder.at(tmp_path) as folder:
        folder.replace_alone("ours", b"whole")
    thread.join()
    assert {file.name for file in tmp_path.iterdir()} == {"ours", "theirs"}


def test_a_folder_inside_one_is_no_link(mine: Path) -> None:
    path = mine.parent / "folder"
    with Folder.inside(path / "new" / "made", create=True) as folder:
        folder.replace("file", b"", durable=False)
    (path / "away").symlink_to(mine.parent)
    with pytest.raises(OSError, match="is a link, and a folder"):
        Folder.inside(path / "away", create=True)
    with Folder.inside(path / "away" / "folder") as folder:  # below a link that is the user's own
        assert folder.names() == ["away", "new"]


def _fill_half(folder: Folder) -> None:
    with folder.writing("final") as file:
        file.write(b"half")
        raise OSError("the disk is full")


def test_a_temporary_file_stays_only_under_its_final_name(tmp_path: Path) -> None:
    with Folder.at(tmp_path) as folder:
        folder.replace("final", b"whole")
        with pytest.raises(OSError, match="full"):
            _fill_half(folder)
        assert folder.names() == ["final"]
        assert folder.read("final", 5) == b"whole"


def test_a_temporary_name_that_is_taken_is_not_written_to(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda count: 2 * count * "0")
    planted = mine.parent / "folder" / f".{16 * '0'}.tmp"
    planted.hardlink_to(mine)
    with Folder.at(planted.parent) as folder, pytest.raises(FileExistsError):
        folder.replace("new", b"theirs")
    assert mine.read_bytes() == b"mine"
    assert os.listdir(planted.parent) == [planted.name]


def test_what_is_durable_is_synced_before_and_after_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def renamed(*names: str, **folders: int) -> None:
        done.append("name")
        replace(*names, **folders)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with Folder.at(tmp_path) as folder:
        folder.replace("a", b"whole")
        folder.replace("b", b"whole", durable=False)
    assert done == ["file", "name", "folder", "name"]


def test_only_names_of_ours_are_removed(mine: Path) -> None:
    path = mine.parent / "folder"
    (path / "tree" / "a" / "b").mkdir(parents=True)
    (path / "tree" / "link").symlink_to(mine.parent)
    for name in ("part-1", "part-1.mine", "kept-1"):
        (path / name).touch()
    with Folder.at(path) as folder:
        folder.remove_all(re.compile("(part|kept)-1"), {"kept-1"})
        assert folder.names() == ["kept-1", "part-1.mine", "tree"]
        with pytest.raises(OSError, match="lies deeper than anything of ours") as refused:
            folder.remove_tree("tree", 2)
        assert refused.value.errno == errno.ENOTEMPTY
        folder.remove_tree("tree", 3)
        assert folder.names() == ["kept-1", "part-1.mine"]
    assert mine.exists()
