"""The manifest of a run in a file of weights that torch wrote.

Such a file is a ZIP archive, of which torch reads the entries that it knows. The manifest is one
more, ARCHIVE/extra/yolodata.json, where torch keeps a user's own files of a TorchScript. So nothing
of the weights is opened to add or to read it, and Ultralytics never sees it. Who loads weights and
saves them anew loses it.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from yolodata.errors import is_out_of_memory
from yolodata.files import open_regular
from yolodata.provenance.manifest import LARGEST, RunManifest

_ENTRY = "/extra/yolodata.json"


def add(path: Path, manifest: RunManifest) -> None:
    """Adds a manifest to weights that have none.

    Args:
        path: of a file that nobody else has: until this returns, it may be broken.
        manifest: of the run.

    Raises:
        OSError: the disk is full, say.
        ValueError: the file is none that torch wrote.
    """
    try:
        with zipfile.ZipFile(path, "a") as archive:
            first = archive.namelist()[0].partition("/")[0]
            archive.writestr(zipfile.ZipInfo(first + _ENTRY), manifest.to_json())
    except (zipfile.BadZipFile, IndexError) as error:
        raise ValueError(f"{path} is no file of weights: {error}") from None


@contextlib.contextmanager
def noting(folder: Path, manifest: RunManifest | None) -> Iterator[None]:
    """Adds a manifest, if there is one, to the weights that are written into a folder meanwhile."""
    before = _stamps(folder)
    yield
    if manifest is not None:
        for path, stamp in _stamps(folder).items():
            if before.get(path) != stamp:
                add(path, manifest)


def _stamps(folder: Path) -> dict[Path, tuple[int, int, int]]:
    stats = {path: path.stat() for path in sorted(folder.glob("*.pt"))}
    return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats.items()}


@contextlib.contextmanager
def keeping(paths: Iterable[Path]) -> Iterator[None]:
    """Has weights that are saved anew meanwhile keep their manifests; they may be gone, too."""
    found = {path: read_if_any(path) for path in paths}
    yield
    for path, manifest in found.items():
        if manifest is not None and path.exists() and read_if_any(path) is None:
            add(path, manifest)


def read_if_any(path: Path) -> RunManifest | None:
    """`read` of weights that may have come from anywhere; None where they do not say."""
    with contextlib.suppress(OSError, ValueError):
        return read(path)
    return None


def read(path: Path) -> RunManifest | None:
    """Reads the manifest of a file of weights; None where it has none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file of weights, or its manifest is none.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                found = [one for one in archive.infolist() if one.filename.endswith(_ENTRY)]
                if not found:
                    return None
                if len(found) > 1 or found[0].compress_type != zipfile.ZIP_STORED:
                    raise ValueError("its manifest is compressed, or there are several")
                with archive.open(found[0]) as entry:
                    text = entry.read(LARGEST + 1)
        except Exception as error:  # whatever a made-up file makes of the reader
            if is_out_of_memory(error):
                raise
            raise ValueError(f"it is no file of weights that torch wrote ({error})") from None
    return RunManifest.from_json(text)
