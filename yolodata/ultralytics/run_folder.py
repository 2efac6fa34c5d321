"""The folder of a run: a start that failed leaves none behind."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultralytics.cfg import get_cfg, get_save_dir

from yolodata.errors import ConfigError

_WRITTEN_INTO = {"weights", "checkpoints", "metrics"}


class RunFolder:
    """What a run adds to the disk before it has begun.

    Args:
        cfg, overrides: as Ultralytics' trainers and validators take them; keys that it has renamed
            get their new names, so that it says so once.

    Raises:
        SyntaxError, TypeError, ValueError: an argument is wrong, in Ultralytics' words.
        ConfigError: the folder is there, with links in it (see `refuse_links`).
    """

    def __init__(self, cfg: Any, overrides: dict[str, Any]) -> None:
        folder = get_save_dir(get_cfg(cfg, overrides))
        refuse_links(folder)
        self.path: Path = folder
        self._new = [path for path in (folder, *folder.parents) if not path.exists()]
        self.begun = False

    @contextmanager
    def kept_if_begun(self) -> Iterator[None]:
        """Removes the folder, and those above it that are new and empty, where a start fails.

        A folder that was there before stays as it is, and so does one where a run has begun.
        """
        try:
            yield
        except BaseException:
            if self._new and not self.begun:
                self._remove()
            raise

    def _remove(self) -> None:
        folder, *above = self._new
        shutil.rmtree(folder, ignore_errors=True)
        for path in above:
            try:
                path.rmdir()
            except OSError:  # another run is in it
                return


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
                f"{path} is {what}, and the run would write through it into something else; "
                "remove it, or give another name="
            )


def made_in_run_folder(
    trainer: type[Any], cfg: Any, overrides: dict[str, Any], callbacks: dict[str, Any] | None
) -> Any:
    """Ultralytics' own trainer of a class, whose start leaves no folder behind if it fails."""
    folder = RunFolder(cfg, overrides)
    with folder.kept_if_begun():
        made = trainer(cfg, overrides, callbacks)
    folder.begun = made.ddp  # processes that it starts have begun, or not; this one cannot know

    def begin(_: Any) -> None:
        folder.begun = True

    def train(run: Any = made.train) -> None:
        with folder.kept_if_begun():
            run()

    made.add_callback("on_train_start", begin)
    made.train = train
    return made
