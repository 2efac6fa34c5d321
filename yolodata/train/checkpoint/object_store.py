"""Files at an fsspec URL (`s3://`, `gs://`, a path, …): whole, or not there.

    00000012-9f86d081884c7d65-last.ckpt  the file, under a name of its own
    00000011-60303ae22b998861-best.pt    a file beside it, which came with an earlier one already
    00000012-9f86d081884c7d65.json       its manifest (names, sizes, checksums), written last

A file counts once its manifest is there. The manifest is written once the file and those beside it
were read back and compared. So nothing has to be renamed, which object stores cannot do, and what
was cut off half-way is never mistaken for a file. The number orders the files by when they were
put; the checksum (XXH3-64 of the content) keeps writers from overwriting each other.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from yolodata.errors import ConfigError, YolodataError
from yolodata.files import file_checksum, publish, sync_file, sync_folder, temporary_file

_MANIFEST = re.compile(r"(\d{8})-([0-9a-f]{16})\.json")
_FILE = re.compile(r"(\d{8})-([0-9a-f]{16})-.+")
_PART = 16 << 20  # bytes that are sent, or asked for, in one request
# Four parts at a time: s3fs would hold ten parts of 50 MiB in memory.
_PUT: Mapping[str, dict[str, Any]] = {"s3": {"chunksize": _PART, "max_concurrency": 4}}
_NO_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class DamagedObject(YolodataError):
    """An object is not what was put there."""


@dataclass(frozen=True, order=True)
class Entry:
    """A file, as far as the name of its manifest tells.

    Attributes:
        sequence: later files have larger ones.
        checksum: XXH3-64 of the content, 16 hexadecimal digits.
    """

    sequence: int
    checksum: str

    @property
    def stem(self) -> str:
        """What the names of the file and of its manifest begin with."""
        return f"{self.sequence:08d}-{self.checksum}"


class ObjectStore:
    """A place for files; one writer at a time.

    Args:
        url: where; a folder of its own, with nothing else in it.
        options: for fsspec's file system, beside those of fsspec's own configuration
            (`FSSPEC_S3_ENDPOINT_URL=…`, say).

    Raises:
        ConfigError: no file system is known or installed for this URL.
    """

    def __init__(self, url: str | Path, options: Mapping[str, Any] | None = None) -> None:
        from fsspec.core import url_to_fs

        self.url = str(url)
        protocol = self.url.partition("://")[0] if "://" in self.url else "file"
        # A listing is asked for to see what is new; a file system of our own ends with us.
        ours = {"use_listings_cache": False, "skip_instance_cache": True}
        try:
            self._fs, root = url_to_fs(self.url, **{**ours, **(options or {})})
        except ImportError as error:
            extra = _EXTRAS.get(protocol)
            install = f"; pip install 'yolodata[{extra}]'" if extra else ""
            raise ConfigError(f"{self.url} cannot be opened: {error}{install}") from error
        except ValueError as error:
            raise ConfigError(
                "the URL must be a path or one that fsspec knows (s3://BUCKET/FOLDER, "
                f"gs://BUCKET/FOLDER, …), got {self.url!r}: {error}"
            ) from error
        self._root = root.rstrip("/")
        self._on_disk = protocol in ("file", "local")
        self._has_folders = protocol not in _NO_FOLDERS
        self._put_options = _PUT.get(protocol, {})
        self._last_sequence = 0

    # What is there.

    def entries(self) -> list[Entry]:
        """Lists all files that have a manifest, the newest first."""
        return _entries(self._names())

    def next_sequence(self) -> int:
        """Returns a number above all that are there, and above those given before."""
        found = [m for n in self._names() if (m := _MANIFEST.fullmatch(n) or _FILE.fullmatch(n))]
        self._last_sequence = max([self._last_sequence, *(int(m[1]) for m in found)]) + 1
        return self._last_sequence

    def _names(self) -> list[str]:
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            return [p.rstrip("/").rpartition("/")[2] for p in self._fs.ls(self._root, detail=False)]
        return []

    # Writing.

    def put(
        self,
        file: BinaryIO,
        name: str,
        sequence: int,
        beside: Mapping[str, BinaryIO] | None = None,
    ) -> int:
        """Brings an open file there, reads it back, and writes its manifest.

        Safe to repeat after any failure, with the same number.

        Args:
            file: open for reading; its name may be gone from the disk.
            name: what `get` calls it.
            sequence: of `next_sequence`.
            beside: open files that belong to it, by relative path. One that a newest manifest
                names already is not sent again.

        Returns:
            The bytes that were sent.

        Raises:
            DamagedObject: what arrived is something else.
            Exception: whatever the file system raises.
        """
        if self._has_folders:
            self._fs.makedirs(self._root, exist_ok=True)
        there = self._named() if beside else {}
        sent, others = 0, []
        for path, other in (beside or {}).items():
            facts = _Facts.of(path, other, sequence)
            known = there.get((facts.xxh3_64, facts.bytes, path.rpartition("/")[2]))
            if known is None:
                self._send(other, facts)
                sent += facts.bytes
            others.append(facts if known is None else replace(facts, file=known))
        facts = _Facts.of(name, file, sequence)
        self._send(file, facts)
        manifest = f"{Entry(sequence, facts.xxh3_64).stem}.json"
        text = json.dumps(
            {
                "version": 1,
                **asdict(facts),
                "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "beside": [asdict(each) for each in others],
            }
        ).encode()
        self._fs.pipe_file(self._path(manifest), text)
        self._sync(manifest)
        if self._fs.cat_file(self._path(manifest)) != text:
            raise DamagedObject(f"{self._shown(manifest)} is not what was written")
        return sent + facts.bytes

    def _send(self, file: BinaryIO, facts: _Facts) -> None:
        """Brings a file there and reads it back."""
        # By the handle, not by the name: the file may have been removed since.
        source = f"/proc/self/fd/{file.fileno()}"
        self._fs.put_file(source, self._path(facts.file), **self._put_options)
        self._sync(facts.file)
        with self._fs.open(self._path(facts.file), "rb", block_size=_PART) as arrived:
            self._compare(facts, arrived)

    def _named(self) -> dict[tuple[str, int, str], str]:
        """Files of whole manifests, which were read back, by checksum, bytes and last name."""
        found = {}
        for entry in self.entries():
            with contextlib.suppress(DamagedObject):
                for facts in self._manifest(entry).all:
                    key = (facts.xxh3_64, facts.bytes, facts.name.rpartition("/")[2])
                    found[key] = facts.file
        return found

    def keep_newest(self, keep: int) -> None:
        """Removes all but the newest files, and what interrupted writers left before them."""
        names = self._names()
        entries = _entries(names)
        for entry in entries[keep:]:  # first that it counts, then the file
            self._remove(f"{entry.stem}.json")
        kept = {entry.stem for entry in entries[:keep]}
        named = set(self._named().values())
        for name in names:
            match = _FILE.fullmatch(name)
            if not match or name[:25] in kept or name in named:
                continue
            if entries and int(match[1]) < entries[0].sequence:
                self._remove(name)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _sync(self, name: str) -> None:
        """On a disk of this machine, what was written is not there before it was synced."""
        if self._on_disk:
            sync_file(Path(self._path(name)))
            sync_folder(Path(self._root))

    # Reading.

    def name(self, entry: Entry) -> str:
        """Returns the name that a file was put with.

        Raises:
            DamagedObject: its manifest is incomplete.
        """
        return self._manifest(entry).main.name

    def names_beside(self, entry: Entry) -> list[str]:
        """Lists the relative paths of the files beside a file.

        Raises:
            DamagedObject: its manifest is incomplete.
        """
        return [facts.name for facts in self._manifest(entry).beside]

    def get(self, entry: Entry, folder: Path) -> Path:
        """Brings a file into a folder, under the name that it was put with.

        Raises:
            DamagedObject: it, or its manifest, is incomplete or not what was put there.
            Exception: whatever the file systems raise.
        """
        return self._bring(self._manifest(entry).main, folder)

    def get_beside(self, entry: Entry, name: str, folder: Path) -> Path:
        """Brings a file beside a file (see `names_beside`) to its place in a folder.

        Raises:
            DamagedObject, Exception: as `get`.
        """
        [facts] = [facts for facts in self._manifest(entry).beside if facts.name == name]
        return self._bring(facts, folder)

    def _bring(self, facts: _Facts, folder: Path) -> Path:
        path = folder / facts.name
        if path.is_file():
            with path.open("rb") as file:
                if file_checksum(file) == facts.xxh3_64:
                    return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path.parent) as temporary:
            try:
                self._fs.get_file(self._path(facts.file), str(temporary))
            except FileNotFoundError as error:
                raise DamagedObject(f"{self._shown(facts.file)} is not there") from error
            with temporary.open("rb") as file:
                self._compare(facts, file)
            sync_file(temporary)
            publish(temporary, path)
        return path

    def _manifest(self, entry: Entry) -> _Manifest:
        name = f"{entry.stem}.json"
        try:
            found = json.loads(self._fs.cat_file(self._path(name)))
            main = _Facts.read(found)
            if found["version"] != 1 or main.xxh3_64 != entry.checksum:
                raise ValueError(f"version {found['version']}, checksum {main.xxh3_64}")
            if "/" in main.name or main.file != f"{entry.stem}-{main.name}":
                raise ValueError(f"file {main.file!r}")
            beside = [_Facts.read(each) for each in found.get("beside", [])]
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise DamagedObject(f"{self._shown(name)} is no whole manifest ({error})") from error
        return _Manifest(main, beside)

    def _compare(self, facts: _Facts, file: BinaryIO) -> None:
        found = file_checksum(file)
        if (file.tell(), found) != (facts.bytes, facts.xxh3_64):
            raise DamagedObject(
                f"{self._shown(facts.file)} must have {facts.bytes} bytes with the checksum "
                f"{facts.xxh3_64}, got {file.tell()} with {found}"
            )

    # Names.

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _shown(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"


@dataclass(frozen=True)
class _Facts:
    """A file: what it is called, which object it is, what is in it."""

    name: str
    file: str
    bytes: int
    xxh3_64: str

    @classmethod
    def of(cls, name: str, file: BinaryIO, sequence: int) -> _Facts:
        """Reads an open file."""
        file.seek(0)
        checksum, size = file_checksum(file), file.tell()
        there = f"{Entry(sequence, checksum).stem}-{name.rpartition('/')[2]}"
        return cls(name, there, size, checksum)

    @classmethod
    def read(cls, found: dict[str, Any]) -> _Facts:
        """Checks a part of a manifest; ValueError where it is not one."""
        facts = cls(
            str(found["name"]), str(found["file"]), int(found["bytes"]), str(found["xxh3_64"])
        )
        # Names come from elsewhere, and must not lead out of the folder.
        parts = facts.name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(f"name {facts.name!r}")
        match = _FILE.fullmatch(facts.file)
        if match is None or match[2] != facts.xxh3_64 or "/" in facts.file:
            raise ValueError(f"file {facts.file!r}")
        return facts


@dataclass(frozen=True)
class _Manifest:
    main: _Facts
    beside: list[_Facts]

    @property
    def all(self) -> list[_Facts]:
        return [self.main, *self.beside]


def _entries(names: list[str]) -> list[Entry]:
    found = [m for name in names if (m := _MANIFEST.fullmatch(name))]
    return sorted((Entry(int(m[1]), m[2]) for m in found), reverse=True)
