"""The folder of a run: a start that failed leaves none behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultralytics.cfg import get_cfg, get_save_dir


class RunFolder:
    """What a run adds to the disk before it has begun.

    Args:
        cfg, overrides: as Ultralytics' trainers and validators take them; keys that it has renamed
            get their new names, so that it says so once.

    Raises:
        SyntaxError, TypeError, ValueError: an argument is wrong, in Ultralytics' words.
    """

    def __init__(self, cfg: Any, overrides: dict[str, Any]) -> None:
        folder = get_save_dir(get_cfg(cfg, overrides))
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
