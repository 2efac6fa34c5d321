"""Files of a run: its checkpoints, Ultralytics' weights, the table of results."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from yolodata.errors import ConfigError, YolodataError
from yolodata.files import publish, remove_temporary, sync_file, temporary_file, write_durably
from yolodata.train.checkpoint import arrivals, file
from yolodata.train.checkpoint.uploader import download_newest

log = logging.getLogger("yolodata")

FOLDER = arrivals.FOLDER
_WRITING = ".writing"


class HasWeights(Protocol):
    """A trainer, as far as its weights are concerned: their folder, and the two files in it."""

    wdir: Path
    last: Path
    best: Path


@contextmanager
def weights_whole(trainer: HasWeights) -> Iterator[None]:
    """Has upstream write its weights into a folder beside theirs; moves them when complete."""
    place, last, best = trainer.wdir, trainer.last, trainer.best
    folder = place / _WRITING
    folder.mkdir(parents=True, exist_ok=True)
    trainer.wdir, trainer.last, trainer.best = folder, folder / last.name, folder / best.name
    try:
        yield
    finally:
        trainer.wdir, trainer.last, trainer.best = place, last, best
    written = list(folder.iterdir())
    for path in written:
        sync_file(path)
    for path in written:
        publish(path, place / path.name)
    folder.rmdir()


def strip_weights(trainer: HasWeights) -> None:
    """Takes out of the weights what only training needs, each file whole or as it was before."""
    from ultralytics.utils.torch_utils import strip_optimizer

    with weights_whole(trainer):
        results = None
        for name in (trainer.last.name, trainer.best.name):
            source = trainer.wdir.parent / name
            if source.exists():
                updates = None if results is None else {"train_results": results}
                stripped = strip_optimizer(source, trainer.wdir / name, updates)
                results = stripped.get("train_results")


def remove_unfinished_weights(folder: Path) -> None:
    """Removes what a process that was killed within `weights_whole` left."""
    shutil.rmtree(folder / _WRITING, ignore_errors=True)


def find_newest(run: Path, url: str | None) -> Path | None:
    """Returns the whole checkpoint that is furthest, of a run folder and its upload URL.

    One at `url` is brought into the folder, if none there is as far, and the files that were
    uploaded with it are brought into the run folder.

    Raises:
        ConfigError: there is no file system for `url`.
        YolodataError: the folder has none, and `url` cannot be read.
    """
    folder = run / FOLDER
    found = None
    if folder.is_dir():
        remove_temporary(folder)
        found = file.newest_whole(folder)
    if url is None:
        return found

    def further(name: str) -> bool:
        return found is None or file.progress(name) > file.progress(found.name)

    folder.mkdir(parents=True, exist_ok=True)
    try:
        expected = arrivals.OfARun()
        return download_newest(url, folder, wanted=further, beside=run, expected=expected) or found
    except ConfigError:
        raise
    except YolodataError as error:
        if found is None:
            raise
        log.warning("%s. Without it, the newest here is taken: %s", error, found)
        return found


def files_beside(run: Path) -> dict[str, Path]:
    """Returns what is uploaded with a checkpoint, by its place in the run folder.

    Weights, the table of results, settings, plots, and whether all is done. No links: they may lead
    to what nobody means to upload.
    """
    patterns = ("weights/*.pt", "*", f"{FOLDER}/*")
    found = [path for pattern in patterns for path in sorted(run.glob(pattern))]
    found = [path for path in found if path.is_file() and not path.is_symlink()]
    names = {str(path.relative_to(run)): path for path in found}
    return {name: path for name, path in names.items() if arrivals.belongs_beside(name)}


def write_missing(run: Path, state: dict[str, Any]) -> None:
    """Writes the last weights and the table of results of a run's state, where they are missing."""
    from yolodata.train.checkpoint.export import write_weights

    if not (run / "results.csv").is_file():
        write_results(run / "results.csv", state["results"])
    last = run / "weights" / "last.pt"
    if not last.is_file():
        last.parent.mkdir(exist_ok=True)
        write_weights(state, last)


def keep_epochs(csv: Path, epochs: int) -> None:
    """Drops the rows of results.csv that the run will write again: those after `epochs`."""
    if not csv.is_file():
        return
    head, *rows = csv.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(float(row.split(",")[0])) <= epochs]
    write_results(csv, "".join([head, *kept]))


def write_results(csv: Path, table: str) -> None:
    """Writes results.csv, whole or not; nothing where there is no table yet."""
    if table:
        _write(csv, table.encode())


def _write(path: Path, data: bytes) -> None:
    with temporary_file(path.parent) as temporary:
        write_durably(temporary, data)
        publish(temporary, path)


def mark_evaluated(checkpoint: Path) -> None:
    """Notes beside a checkpoint that all is done after it."""
    _write(checkpoint.parent / arrivals.EVALUATED, checkpoint.name.encode())


def is_evaluated(checkpoint: Path) -> bool:
    """Whether all was done after this checkpoint."""
    mark = checkpoint.parent / arrivals.EVALUATED
    return mark.is_file() and mark.read_text(encoding="utf-8") == checkpoint.name
