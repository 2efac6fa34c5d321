"""Files of a run: its checkpoints, Ultralytics' weights, the table of results."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError, YolodataError
from yolodata.train.checkpoint import file as checkpoints

log = logging.getLogger("yolodata")

FOLDER = "checkpoints"
"""In the run folder; beside Ultralytics' `weights`."""

WRITING = ".writing"


@contextmanager
def weights_whole(trainer: Any) -> Iterator[None]:
    """Upstream writes its weights into a folder beside theirs; they are moved when complete."""
    place, last, best = trainer.wdir, trainer.last, trainer.best
    folder = place / WRITING
    folder.mkdir(parents=True, exist_ok=True)
    trainer.wdir, trainer.last, trainer.best = folder, folder / last.name, folder / best.name
    try:
        yield
        for file in folder.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    finally:
        trainer.wdir, trainer.last, trainer.best = place, last, best
    for file in folder.iterdir():
        file.replace(place / file.name)
    folder.rmdir()


def newest(run: Path, url: str | None) -> Path | None:
    """The whole checkpoint of a run that is furthest, in its folder or where they are uploaded to.

    One at `url` is brought into the folder, if none there is as far.

    Raises:
        YolodataError: the folder has none, and `url` cannot be read.
    """
    folder = run / FOLDER
    found = None
    if folder.is_dir():
        checkpoints.remove_remains(folder)
        found = checkpoints.newest(folder)
    if url is None:
        return found
    from yolodata.train.checkpoint import uploader as upload

    def further(name: str) -> bool:
        return found is None or checkpoints.place(name) > checkpoints.place(found.name)

    folder.mkdir(parents=True, exist_ok=True)
    try:
        return upload.newest(url, folder, wanted=further) or found
    except ConfigError:
        raise
    except YolodataError as error:
        if found is None:
            raise
        log.warning("%s. Without it, the newest here is taken: %s", error, found)
        return found


def keep_epochs(csv: Path, epochs: int) -> None:
    """Drops the rows of results.csv that the run will write again."""
    if not csv.is_file():
        return
    head, *rows = csv.read_text().splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(float(row.split(",")[0])) <= epochs]
    csv.write_text("".join([head, *kept]))
