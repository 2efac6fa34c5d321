"""Folders that we write into, held by descriptors, so that nothing planted in them is followed.

A folder may have come with an archive from anywhere, and may hold a link under any name that we are
going to use. Whoever follows one writes into, or removes, what somebody else chose. So everything
that this package creates, replaces, locks or removes in a folder goes through `Folder`: names are
looked up in the directory that was opened and checked, never along a path that may have changed.

Links *to* a folder that the user names are the user's own, and are followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import re
import secrets
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from yolodata.files import Buffer, regular, write_all

_TRIES, _PAUSE = 100, 0.05  # seconds; a file is replaced in much less
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TEMPORARY = ".{}.tmp"
TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""Names that `Folder.temporary` gives."""


class Folder:
    """A directory, held open.

    Use `Folder.at` for a path that the user named, and `folder` for everything below it. It closes
    when the block that it is the context of ends, or when nobody has it any more.

    Attributes:
        path: where it was found, for messages and for libraries that need a path.
        fd: its descriptor, for calls that take a `dir_fd`.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    @classmethod
    def at(cls, path: str | os.PathLike[str], *, create: bool = False) -> Folder:
        """Opens the directory that a path leads to, links included.

        Args:
            path: as the user gave it.
            create: make it, and what it lies in, where it is missing.

        Raises:
            OSError: there is none, or it is something else.
        """
        path = Path(os.path.abspath(path))
        if create:
            # Never for everybody to write to, whatever the umask: `check_ours` would refuse it.
            with contextlib.suppress(FileExistsError):  # of a file, opening says that it is none
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir(mode=0o775)
        return cls(os.open(path, _DIRECTORY), path)

    @classmethod
    def inside(cls, path: str | os.PathLike[str], *, create: bool = False) -> Folder:
        """Opens a directory that lies in one which the user named: it must be no link itself.

        Raises:
            OSError: as `at` and `folder`.
        """
        path = Path(os.path.abspath(path))
        with cls.at(path.parent, create=create) as parent:
            return parent.folder(path.name, create=create)

    def folder(self, name: str, *, create: bool = False) -> Folder:
        """Opens a directory in this one.

        Raises:
            OSError: there is none, or it is a link or something else.
        """
        path = self.path / name
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o775, dir_fd=self.fd)
        try:
            return Folder(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd), path)
        except OSError as error:
            raise self._clear(error, name, "folder") from None

    def check_ours(self) -> None:
        """Checks that nobody else can change what is in this directory.

        Its owner must be this user or root, and it must not be open to everybody. Some file systems
        know neither owners nor modes, or call us by another number: what they say about a file that
        we make decides.

        Raises:
            PermissionError: who else can, and what to do.
        """
        found = os.fstat(self.fd)
        owners, open_to_all = {0, os.geteuid()}, bool(found.st_mode & stat.S_IWOTH)
        if found.st_uid in owners and not open_to_all:
            return
        made = self._of_a_file_of_ours()
        if found.st_uid not in {*owners, made.st_uid}:
            raise PermissionError(
                errno.EPERM,
                f"belongs to {_user(found.st_uid)}, and this process runs as "
                f"{_user(made.st_uid)}: its owner could change what is written there; name a "
                "folder that does not exist yet, or one of your own",
                str(self.path),
            )
        if open_to_all and not made.st_mode & stat.S_IWOTH:
            raise PermissionError(
                errno.EPERM,
                "everybody may write there, and could change what is written; name a folder in it "
                f"that does not exist yet, or close it (chmod o-w '{self.path}')",
                str(self.path),
            )

    def _of_a_file_of_ours(self) -> os.stat_result:
        name = _TEMPORARY.format(secrets.token_hex(8))
        fd = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd
        )
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)
            self.remove(name)

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """Opens a file in this directory; with O_CREAT it need not be there.

        Give no O_TRUNC: a file that was not checked must not be emptied. `replace` writes a whole
        file anew.

        Returns:
            its descriptor.

        Raises:
            OSError: it is a link, no regular file, or, to be written to, has a second name (a hard
                link).
        """
        assert not flags & os.O_TRUNC
        careful = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(name, flags | careful, mode, dir_fd=self.fd)
        except OSError as error:
            raise self._clear(error, name, "file") from None
        found = regular(fd, self.path / name)
        if flags & (os.O_WRONLY | os.O_RDWR) and found.st_nlink > 1:
            os.close(fd)
            raise OSError(
                errno.EMLINK,
                "has a second name somewhere, so it is not written to; remove it",
                str(self.path / name),
            )
        return fd

    def read(self, name: str, limit: int) -> bytes:
        """Reads a file of at most `limit` bytes.

        Raises:
            OSError: as `open`; or it is larger (EFBIG).
        """
        with os.fdopen(self.open(name, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise OSError(errno.EFBIG, f"has more than {limit} bytes", str(self.path / name))
            return file.read(size)

    @contextlib.contextmanager
    def temporary(self, mode: int = 0o666) -> Iterator[tuple[str, BinaryIO]]:
        """Makes a file under a name that nobody can guess, and removes that name at the end.

        `rename` takes the file out of its reach.
        """
        name = _TEMPORARY.format(secrets.token_hex(8))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, mode, dir_fd=self.fd)
        try:
            with os.fdopen(fd, "r+b", buffering=0) as file:
                yield name, file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.fd)

    @contextlib.contextmanager
    def writing(
        self, name: str, by: Folder | None = None, *, mode: int = 0o666, durable: bool = True
    ) -> Iterator[BinaryIO]:
        """Writes a file anew: whoever reads it finds the old or the new one whole.

        What has the name is not written to. A link of that name is replaced, not followed. If the
        block raises, all stays as it was.

        Args:
            name: of the file.
            by: a folder of the same file system to write the new file in; this one by default.
            mode: of the new file.
            durable: it is on the disk at the end; False: the system writes it when it likes, and
                after a power cut an older one may be there.
        """
        by = by or self
        with by.temporary(mode) as (temporary, file):
            yield file
            if durable:
                os.fsync(file.fileno())
            by.rename(temporary, name, self, durable=durable)

    def replace(
        self, name: str, data: Buffer, by: Folder | None = None, *, durable: bool = True
    ) -> None:
        """Gives a file new content; see `writing`."""
        with self.writing(name, by, durable=durable) as file:
            write_all(file.fileno(), data)

    def replace_alone(self, name: str, data: Buffer) -> None:
        """`replace`, one process at a time, and without what killed ones left of theirs.

        For folders that several processes write into at once, as those of splits. Who has to wait
        too long for another one, or has no locks there, leaves everything but the file as it is.
        """
        for _ in range(_TRIES):
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this is closed
            except BlockingIOError:
                time.sleep(_PAUSE)
            except OSError:
                break
            else:
                self.remove_temporary()
                break
        self.replace(name, data)

    def rename(
        self, name: str, new: str, to: Folder | None = None, *, durable: bool = True
    ) -> None:
        """Gives a file another name, here or in another folder of the file system."""
        to = to or self
        try:
            os.replace(name, new, src_dir_fd=self.fd, dst_dir_fd=to.fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(to.path / new)) from None
        if durable:
            to.sync()

    def remove_temporary(self) -> None:
        """Removes what processes that were killed left of `temporary`, and nothing else."""
        for name in filter(TEMPORARY.fullmatch, self.names()):
            with contextlib.suppress(OSError):
                self.remove(name)

    def stat(self, name: str) -> os.stat_result | None:
        """What is known of a name, of a link itself; None where nothing has it."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Gives the names in this directory, sorted."""
        return sorted(os.listdir(self.fd))

    def remove(self, name: str) -> None:
        """Removes a file, or a link itself; nothing is done where nothing has the name.

        Raises:
            OSError: it is a directory, or may not be removed.
        """
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path / name)) from None

    def remove_all(self, ours: re.Pattern[str], keep: Collection[str] = ()) -> None:
        """Removes the files, and links, of a pattern of names.

        Args:
            ours: what a whole name must match.
            keep: names that stay all the same.

        Raises:
            OSError: as `remove`.
        """
        for name in self.names():
            if ours.fullmatch(name) and name not in keep:
                self.remove(name)

    def remove_folder(self, name: str) -> None:
        """Removes an empty directory.

        Raises:
            OSError: it is not empty, not a directory, or may not be removed.
        """
        os.rmdir(name, dir_fd=self.fd)

    def remove_tree(self, name: str, depth: int) -> None:
        """Removes a directory with all that is in it, links themselves.

        Args:
            name: of the directory.
            depth: how many directories lie in one another there at most.

        Raises:
            OSError: it is a link or something else, is deeper, or may not be removed.
        """
        with self.folder(name) as inner:
            for entry in inner.names():
                found = inner.stat(entry)
                if found is None or not stat.S_ISDIR(found.st_mode):
                    inner.remove(entry)
                elif depth > 1:
                    inner.remove_tree(entry, depth - 1)
                else:
                    why = "lies deeper than anything of ours; remove it"
                    raise OSError(errno.ENOTEMPTY, why, str(inner.path / entry))
        self.remove_folder(name)

    def sync(self) -> None:
        """Makes renames and removals in this directory durable."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Lets go of the directory."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _clear(self, error: OSError, name: str, wanted: str) -> OSError:
        """Says of a link that it is one; the system's words differ with the flags."""
        path = str(self.path / name)
        found = self.stat(name)
        if found is not None and stat.S_ISLNK(found.st_mode):
            return OSError(
                errno.ELOOP,
                f"is a link, and a {wanted} is written there; links inside a folder that is "
                "written to are not followed: remove it",
                path,
            )
        return OSError(error.errno, error.strerror, path)


def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (user {uid})"
    return f"user {uid}"
