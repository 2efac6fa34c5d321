"""The folder of a run: nobody else writes into it, and a start that failed leaves it as it was.

Note [copies of what a start writes over]. Ultralytics empties args.yaml before it writes it, and
removes results.csv, when a trainer is made. If the disk is full then, or something is refused
later, the run that was there has lost its arguments and its results. So each of these files is
copied first, and the copy takes its place again where the start fails; of a start that was killed,
when the next one begins. A disk without room for the copies is said before anything is changed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.utils import RANK

from yolodata.arguments import check_text
from yolodata.errors import ConfigError
from yolodata.files import resolved
from yolodata.folders import Folder
from yolodata.provenance import manifest
from yolodata.ultralytics.settings import SETTINGS_FILE

_WRITTEN_INTO = {"weights", "checkpoints", "metrics"}
_WRITTEN_OVER = {
    "args.yaml": 16 << 20, SETTINGS_FILE: 16 << 20, "results.csv": 256 << 20,
    manifest.FILE: manifest.LARGEST,
}  # fmt: skip
"""What a start writes anew, with the bytes that it may have."""
_COPY = ".{}.before"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATIENCE, _PAUSE = 10.0, 0.1  # seconds; children of a killed process hold its lock a little longer
_TRIES = 5  # to make a folder, while other starts remove those above it
_locked: dict[Path, Folder] = {}  # folders that this process trains in


class RunFolder:
    """The folder of a run, made by the process that leads it.

    A name that must be new is taken by the one process that makes the folder, so that runs which
    are started at once get a folder each. Where it may be there already, one process at a time
    trains in it. The kernel frees the lock with the process. Network file systems that lock no
    folders (NFS) exclude nobody.

    Args:
        args: Ultralytics' arguments; `save_dir` of them becomes the folder.
        locked: one process at a time may write there.

    Attributes:
        path: the folder.
        begun: a run has begun in it, so that it stays; see `begin`.

    Raises:
        ConfigError: it cannot be made, written to or read from, has links in it (see
            `refuse_links`), or another process trains there.
    """

    def __init__(self, args: Any, *, locked: bool = True) -> None:
        self.begun = False
        self._copied = False
        self._absent: list[str] = []  # of what a start writes, what was not there before
        self._new: list[Path] = []  # the folder and those above it, as far as this one made them
        new = not (getattr(args, "save_dir", None) or args.exist_ok)
        leads = RANK in {-1, 0}
        while True:
            folder = self.path = get_save_dir(args)
            _refuse_unreadable(folder)
            refuse_links(folder)
            if not leads or (self._made(new) and (not locked or self._lock())):
                break
        args.save_dir = str(folder)
        if locked and leads:
            try:
                self._remove_copies(put_back=True)  # of a start that was killed
            except BaseException as error:
                self.give_up(error)
                raise

    def _made(self, new: bool) -> bool:
        """Makes the folder; False where it has to be new and another process was faster."""
        for left in reversed(range(_TRIES)):
            try:
                self._make()
                break
            except OSError as error:
                # One that a start made which fails is removed again, also between two steps here.
                if not left or not isinstance(error, FileNotFoundError):
                    raise _unusable(self.path, error) from error
        if new and self.path not in self._new:
            return False
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"{self.path}: cannot be written to; give another project= or name=")
        return True

    def _make(self) -> None:
        """Makes what is missing. What others make meanwhile is theirs, and stays if this fails."""
        missing = [path for path in (self.path, *self.path.parents) if not path.is_dir()]
        for path in reversed(missing):
            try:
                path.mkdir()
            except FileExistsError:
                if not path.is_dir():
                    raise
            else:
                if path not in self._new:
                    self._new.insert(0, path)

    def _lock(self) -> bool:
        """Keeps other processes out; False where a start that failed has removed the folder."""
        if self.path in _locked:  # by a run of this process that failed before it began
            return True
        try:
            folder = Folder.at(self.path)
        except FileNotFoundError:
            return False
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise ConfigError(
                        f"{self.path}: another process trains in this folder, and two would "
                        "write over each other; wait for it, end it, or give another name="
                    ) from None
                time.sleep(_PAUSE)
            except OSError:  # this file system locks no folders
                return True
            else:
                break
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(folder.fd), self.path.stat()):
                _locked[self.path] = folder
                return True
        return False

    def copy(self) -> None:
        """Copies what a start writes over; see Note [copies of what a start writes over].

        Raises:
            ConfigError: there is no room for the copies.
        """
        if RANK not in {-1, 0}:
            return
        try:
            with Folder.at(self.path) as folder:
                for name, limit in _WRITTEN_OVER.items():
                    if folder.stat(name) is not None:
                        folder.replace(_COPY.format(name), folder.read(name, limit))
                        self._copied = True
                    elif name not in self._absent:
                        self._absent.append(name)
        except OSError as error:
            raise cannot_be_written(self.path, error) from error

    def _remove_copies(self, *, put_back: bool) -> None:
        with Folder.at(self.path) as folder:
            for name in _WRITTEN_OVER:
                copy = _COPY.format(name)
                if put_back and folder.stat(copy) is not None:
                    folder.rename(copy, name)
                folder.remove(copy)
        self._copied = False

    def begin(self) -> None:
        """A run has begun here: what is there from now on is its own."""
        self.begun = True
        if self._copied:
            self._remove_copies(put_back=False)

    def close(self) -> None:
        """Lets other processes train there."""
        if self._copied:
            self._remove_copies(put_back=False)
        folder = _locked.pop(self.path, None)
        if folder is not None:
            fcntl.flock(folder.fd, fcntl.LOCK_UN)  # forked children have it open, too
            folder.close()

    @contextmanager
    def kept_if_begun(self) -> Iterator[None]:
        """Calls `give_up` where the block fails."""
        try:
            yield
        except BaseException as error:
            self.give_up(error)
            raise

    def give_up(self, error: BaseException) -> None:
        """Removes the folder, and those above it that are new and empty, of a start that failed.

        A folder that was there before is as it was then. One where a run has begun stays.

        Raises:
            ConfigError: it failed because the disk is full.
        """
        if self.begun:
            return
        if self._copied:
            self._remove_copies(put_back=True)
        if self._absent and self.path not in self._new:
            with Folder.at(self.path) as folder:
                for name in self._absent:
                    folder.remove(name)
        self._absent.clear()
        self._remove_new()
        self.close()  # not before: who waits for it would write into what is removed
        if isinstance(error, OSError) and error.errno in _FULL:
            raise cannot_be_written(self.path, error) from error

    def _remove_new(self) -> None:
        for path in self._new:
            if path == self.path:
                shutil.rmtree(path, ignore_errors=True)
                continue
            try:
                path.rmdir()
            except OSError:  # another run is in it
                return


def _refuse_unreadable(folder: Path) -> None:
    """Refuses a name that Ultralytics writes weights under and cannot read them from, at the end.

    Raises:
        ConfigError: there is such a character in it, or it is not UTF-8, as `args.yaml` is.
    """
    check_text("the path of the run folder", str(folder))
    wrong = [character for character in "'?" if character in str(folder)]
    if wrong:
        raise ConfigError(
            f"the run folder {folder} has a {wrong[0]} in its path, and Ultralytics reads no "
            "weights from there; give another project= or name="
        )


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the run folder {folder} cannot be made ({error.filename}: {error.strerror}); give "
        "another project= or name="
    )


def cannot_be_written(folder: Path, error: OSError) -> ConfigError:
    """Says that there is no room for what a run writes into its folder, or why else it cannot."""
    return ConfigError(
        f"the run folder {folder} cannot be written: {error.strerror or error}; make room, or give "
        "another project="
    )


def refuse_links(folder: Path) -> None:
    """Refuses a run folder with links, or with something else that is neither file nor folder.

    Ultralytics writes to names that everybody knows, and follows what is there. Links to folders
    that nobody writes into may stay.

    Raises:
        ConfigError: what there is.
    """
    for place in (folder, folder / "weights"):
        for name in sorted(os.listdir(place)) if place.is_dir() else ():
            path = place / name
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                continue
            if stat.S_ISLNK(mode) and path.is_dir() and name not in _WRITTEN_INTO:
                continue
            what = "a link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
            raise ConfigError(
                f"{path}: is {what}, and the run would write through it into something else; "
                "remove it, or give another name="
            )


def folders_of_resumed(resume: Any, model: Any) -> list[Path]:
    """The folder of the run that Ultralytics' own resume goes on with, as its weights lie there.

    Args:
        resume: the argument; this one or `model` names the weights.
        model: the argument.
    """
    named = (resume, model) if resume else ()
    return [
        resolved(each).parent.parent
        for each in named
        if isinstance(each, (str, Path)) and Path(each).suffix == ".pt"
    ]


def made_in_run_folder(
    trainer: type[Any], cfg: Any, overrides: dict[str, Any], callbacks: dict[str, Any] | None
) -> Any:
    """Ultralytics' own trainer of a class, whose start leaves no folder behind if it fails."""
    args = get_cfg(cfg, overrides)
    if args.resume:  # its folder is there, and the checkpoint knows where
        for there in folders_of_resumed(args.resume, args.model):
            refuse_links(there)
        return trainer(cfg, overrides, callbacks)
    folder = RunFolder(args)
    overrides["save_dir"] = args.save_dir
    with folder.kept_if_begun():
        folder.copy()
        made = trainer(cfg, overrides, callbacks)
    if made.ddp:  # processes that it starts have begun, or not; this one cannot know
        folder.begin()

    def train(run: Any = made.train) -> None:
        if made.ddp:
            folder.close()  # the first of them takes it
        try:
            with folder.kept_if_begun():
                run()
        finally:
            folder.close()

    made.add_callback("on_train_start", lambda _: folder.begin())
    made.train = train
    return made
