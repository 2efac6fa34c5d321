"""Files of a run: its checkpoints, Ultralytics' weights, the table of results."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from yolodata.errors import ConfigError, YolodataError
from yolodata.files import read_regular, sync_file
from yolodata.folders import Folder
from yolodata.provenance import weights as weights_manifest
from yolodata.terminal import quiet
from yolodata.train.checkpoint import arrivals, file
from yolodata.train.checkpoint.contents import RunState
from yolodata.train.checkpoint.uploader import download_newest
from yolodata.train.checkpoint.weights import more_than_weights

log = logging.getLogger("yolodata")

FOLDER = arrivals.FOLDER
_WRITING = re.compile(r"\.[0-9a-f]{16}\.writing")
_WEIGHTS = re.compile(r"(last|best|epoch[0-9]+)\.pt")
_TABLE = 256 << 20  # bytes of results.csv that are read: it has a line an epoch


class HasWeights(Protocol):
    """A trainer, as far as its weights are concerned: their folder, and the two files in it."""

    wdir: Path
    last: Path
    best: Path


@contextmanager
def weights_whole(trainer: HasWeights) -> Iterator[None]:
    """Has upstream write its weights into a new folder beside theirs; moves them when complete."""
    place, last, best = trainer.wdir, trainer.last, trainer.best
    with Folder.inside(place, create=True) as weights:
        made = f".{secrets.token_hex(8)}.writing"
        os.mkdir(made, 0o700, dir_fd=weights.fd)
        with weights.folder(made) as folder:
            path = place / made
            trainer.wdir, trainer.last, trainer.best = path, path / last.name, path / best.name
            try:
                yield
                for name in folder.names():
                    sync_file(path / name)
                for name in folder.names():
                    folder.rename(name, name, to=weights)
            finally:
                trainer.wdir, trainer.last, trainer.best = place, last, best
                _remove_unfinished(weights, made)


def strip_weights(trainer: HasWeights) -> None:
    """Takes out of the weights what only training needs, each file whole or as it was before."""
    from ultralytics.utils import LOGGER
    from ultralytics.utils.torch_utils import strip_optimizer

    set_aside_foreign_weights(trainer.wdir)
    with weights_whole(trainer):
        results = None
        for name in (trainer.last.name, trainer.best.name):
            source = trainer.wdir.parent / name
            if source.exists():
                updates = None if results is None else {"train_results": results}
                with quiet(logging.WARNING):  # it names a place that is gone at once
                    stripped = strip_optimizer(source, trainer.wdir / name, updates)
                size = (trainer.wdir / name).stat().st_size / 1e6
                LOGGER.info(f"{source}: without the optimizer's state, {size:.1f} MB")
                results = stripped.get("train_results")
                manifest = weights_manifest.read_if_any(source)
                if manifest is not None:  # the best weights may be older than the run's own
                    weights_manifest.add(trainer.wdir / name, manifest)


def remove_unfinished_weights(folder: Path) -> None:
    """Removes what a process that was killed within `weights_whole` left.

    Raises:
        OSError: the folder is a link.
    """
    with Folder.inside(folder, create=True) as weights:
        for name in weights.names():
            if _WRITING.fullmatch(name):
                _remove_unfinished(weights, name)


def _remove_unfinished(weights: Folder, made: str) -> None:
    """Removes a folder of `weights_whole`; what else is in it stays."""
    with contextlib.suppress(OSError):
        with weights.folder(made) as folder:
            for name in folder.names():
                if _WEIGHTS.fullmatch(name):
                    folder.remove(name)
        weights.remove_folder(made)


def set_aside_foreign_weights(folder: Path) -> None:
    """Renames weights that would run code of somebody else when Ultralytics opens them.

    The folder may have come from elsewhere, and so may weights at an upload URL.

    Args:
        folder: of the weights.

    Raises:
        OSError: the folder is a link.
    """
    if not os.path.lexists(folder):
        return
    with Folder.inside(folder) as weights:
        for name in ("last.pt", "best.pt"):
            wrong = more_than_weights(folder / name) if weights.stat(name) else None
            if wrong is not None:
                aside = f"{name}.refused"
                weights.rename(name, aside)
                log.warning(
                    "%s is not used, %s: opening it would run what its author wrote. It is kept "
                    "as %s", folder / name, wrong, folder / aside,
                )  # fmt: skip


def find_newest(run: Path, url: str | None) -> Path | None:
    """Returns the whole checkpoint that is furthest, of a run folder and its upload URL.

    One at `url` is brought into the folder, if none there is as far, and the files that were
    uploaded with it are brought into the run folder.

    Raises:
        ConfigError: there is no file system for `url`.
        YolodataError: the folder has none, and `url` cannot be read.
        OSError: the folder of checkpoints is a link.
    """
    folder = run / FOLDER
    found = None
    if os.path.lexists(folder):
        with Folder.inside(folder) as checkpoints:
            checkpoints.remove_temporary()
        found = file.newest_whole(folder)
    if url is None:
        return found

    def further(name: str) -> bool:
        return found is None or file.progress(name) > file.progress(found.name)

    Folder.inside(folder, create=True).close()
    _remove_left(run)
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


def refuse_to_write_over(run: Path) -> None:
    """Refuses a folder with weights of several epochs and no checkpoint, before a run begins anew.

    Ultralytics' own loop left them there, or the checkpoints were removed. A run of ours that was
    killed early has two epochs at most: the third ends after the first checkpoint is on disk.

    Raises:
        ConfigError: there are such weights.
    """
    weights = run / "weights" / "last.pt"
    with contextlib.suppress(OSError):
        epochs = read_regular(run / "results.csv", _TABLE).count(b"\n") - 1
        if epochs > 2 and weights.is_file():
            raise ConfigError(
                f"{run}: has weights of {epochs} epochs and no checkpoint that is whole, so that "
                "the run would begin anew and write over them; give "
                f"resume={weights} if Ultralytics' own loop was interrupted there, or another name="
            )


def _remove_left(run: Path) -> None:
    """Removes what a download that was killed left beside the checkpoints."""
    with contextlib.suppress(OSError), Folder.at(run) as folder:
        folder.remove_temporary()
        with folder.folder("weights") as weights:
            weights.remove_temporary()


def files_beside(run: Path) -> dict[str, Path]:
    """Returns what is uploaded with a checkpoint, by its place in the run folder.

    Weights, the table of results, settings, plots, and whether all is done. Links stay at home:
    they may lead to anything.
    """
    patterns = ("weights/*.pt", "*", f"{FOLDER}/*")
    found = [path for pattern in patterns for path in sorted(run.glob(pattern))]
    names = {str(path.relative_to(run)): path for path in found}
    return {name: path for name, path in names.items() if _is_uploaded(name, path)}


def _is_uploaded(name: str, path: Path) -> bool:
    try:
        known = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(known.st_mode) and arrivals.belongs_beside(name, known.st_size)


def write_missing(run: Path, state: RunState) -> None:
    """Writes the last weights and the table of results of a run's state, where they are missing."""
    from yolodata.train.checkpoint.export import write_weights

    if not (run / "results.csv").is_file():
        write_results(run / "results.csv", state["results"])
    last = run / "weights" / "last.pt"
    if not last.is_file():
        Folder.inside(last.parent, create=True).close()
        write_weights(state, last)


def keep_epochs(csv: Path, epochs: int) -> None:
    """Drops the rows of results.csv that the run will write again: those after `epochs`."""
    if not csv.is_file():
        return
    table = read_regular(csv, _TABLE).decode("utf-8", errors="replace")
    head, *rows = table.splitlines(keepends=True) or [""]
    write_results(csv, "".join([head, *(row for row in rows if _within(row, epochs))]))


def _within(row: str, epochs: int) -> bool:
    """Whether a row is whole, and of one of the first epochs."""
    try:
        return row.endswith("\n") and float(row.split(",")[0]) < epochs + 1
    except ValueError:
        return False


def write_results(csv: Path, table: str) -> None:
    """Writes results.csv, whole or not; nothing where there is no table yet."""
    if table:
        _write(csv, table.encode())


def _write(path: Path, data: bytes) -> None:
    with Folder.at(path.parent) as folder:
        folder.replace(path.name, data)


def note_evaluated(checkpoint: Path) -> None:
    """Notes beside a checkpoint that all is done after it."""
    with Folder.inside(checkpoint.parent) as folder:
        folder.replace(arrivals.EVALUATED, checkpoint.name.encode())


def is_evaluated(checkpoint: Path) -> bool:
    """Whether all was done after this checkpoint."""
    try:
        return read_regular(checkpoint.parent / arrivals.EVALUATED, 100) == checkpoint.name.encode()
    except OSError:
        return False
