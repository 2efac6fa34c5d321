"""Files at an fsspec URL (`s3://`, `gs://`, a path, …): whole, or not there.

    00000012-9f86d081884c7d65-last.pt    the file, under a name of its own
    00000012-9f86d081884c7d65.json       its manifest (name, size, checksum), written last

A file counts once its manifest is there. So nothing has to be renamed, which object stores cannot
do, and what was cut off half-way is never mistaken for a file. The number orders the files by when
they were put; the checksum (XXH3-64 of the content) keeps writers from overwriting each other.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from yolodata.errors import ConfigError, YolodataError

_MANIFEST = re.compile(r"(\d{8})-([0-9a-f]{16})\.json")
_FILE = re.compile(r"(\d{8})-([0-9a-f]{16})-.+")
_BLOCK = 1 << 20  # bytes read at a time
_PART = 16 << 20  # bytes of a part, where an object is uploaded in parts
# Four parts at a time: s3fs would hold ten parts of 50 MiB in memory.
_PUT: Mapping[str, dict[str, Any]] = {"s3": {"chunksize": _PART, "max_concurrency": 4}}
_NO_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class Damaged(YolodataError):
    """A remote file is not what was put there."""


@dataclass(frozen=True)
class Digest:
    """What manifests say of a file's content.

    Attributes:
        size: bytes.
        xxh3: XXH3-64.
    """

    size: int
    xxh3: str

    @classmethod
    def of(cls, file: BinaryIO) -> Digest:
        """Of a file, from where it is read next."""
        size, xxh3 = 0, xxhash.xxh3_64()
        while block := file.read(_BLOCK):
            size += len(block)
            xxh3.update(block)
        return cls(size, xxh3.hexdigest())


@dataclass(frozen=True, order=True)
class Entry:
    """A remote file, as far as the name of its manifest tells."""

    sequence: int
    xxh3: str

    @property
    def stem(self) -> str:
        """What the names of the file and of its manifest begin with."""
        return f"{self.sequence:08d}-{self.xxh3}"


class Remote:
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
                f"{self.url!r} must be a path or a URL that fsspec knows (s3://BUCKET/FOLDER, "
                f"gs://BUCKET/FOLDER, …): {error}"
            ) from error
        self._root = root.rstrip("/")
        self._on_disk = protocol in ("file", "local")
        self._has_folders = protocol not in _NO_FOLDERS
        self._put_options = _PUT.get(protocol, {})

    # What is there.

    def _names(self) -> list[str]:
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            return [p.rstrip("/").rpartition("/")[2] for p in self._fs.ls(self._root, detail=False)]
        return []

    def entries(self) -> list[Entry]:
        """All files that have a manifest, the newest first."""
        return _entries(self._names())

    def next_sequence(self) -> int:
        """A number above all others."""
        found = [m for n in self._names() if (m := _MANIFEST.fullmatch(n) or _FILE.fullmatch(n))]
        return max((int(m[1]) for m in found), default=0) + 1

    # Writing.

    def put(self, file: BinaryIO, name: str, digest: Digest, sequence: int) -> str:
        """Bring an open file there; returns how its arrival was checked.

        Safe to repeat after any failure.

        Raises:
            Damaged: what arrived is something else.
            Exception: whatever the file system raises.
        """
        if self._has_folders:
            self._fs.makedirs(self._root, exist_ok=True)
        entry = Entry(sequence, digest.xxh3)
        there, manifest = f"{entry.stem}-{name}", f"{entry.stem}.json"
        # By the handle, not by the name: the file may have been removed since.
        self._fs.put_file(f"/proc/self/fd/{file.fileno()}", self._path(there), **self._put_options)
        self._sync(there)
        how = self._check(there, file, digest)
        text = json.dumps(
            {
                "version": 1,
                "name": name,
                "file": there,
                "bytes": digest.size,
                "xxh3_64": digest.xxh3,
                "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        ).encode()
        self._fs.pipe_file(self._path(manifest), text)
        self._sync(manifest)
        if self._fs.cat_file(self._path(manifest)) != text:
            raise Damaged(f"{self._shown(manifest)} is not what was written")
        return how

    def _check(self, name: str, sent: BinaryIO, digest: Digest) -> str:
        info = self._fs.info(self._path(name))
        if info["size"] != digest.size:
            raise Damaged(f"{self._shown(name)} has {info['size']} bytes, not {digest.size}")
        told = told_by_store(info)
        if told is not None and told == stores_checksum(sent, told):
            return "checksum of the store"
        # No checksum, or one of another kind (S3's of encrypted objects, for one).
        with self._fs.open(self._path(name), "rb") as file:
            found = Digest.of(file).xxh3
        if found != digest.xxh3:
            raise Damaged(f"{self._shown(name)} has the checksum {found}, not {digest.xxh3}")
        return "read back"

    def keep_newest(self, keep: int) -> None:
        """Removes all but the newest files, and what interrupted writers left before them."""
        names = self._names()
        entries = _entries(names)
        for entry in entries[keep:]:  # first that it counts, then the file
            self._remove(f"{entry.stem}.json")
        kept = {entry.stem for entry in entries[:keep]}
        for name in names:
            match = _FILE.fullmatch(name)
            if match and name[:25] not in kept and entries and int(match[1]) < entries[0].sequence:
                self._remove(name)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    # Reading.

    def name(self, entry: Entry) -> str:
        """The name that a file was put with.

        Raises:
            Damaged: its manifest is incomplete.
        """
        return str(self._manifest(entry)["name"])

    def get(self, entry: Entry, folder: Path) -> Path:
        """Bring a file here, under the name that it was put with.

        Raises:
            Damaged: it, or its manifest, is incomplete or not what was put there.
            Exception: whatever the file systems raise.
        """
        manifest = self._manifest(entry)
        path: Path = folder / manifest["name"]
        if path.is_file():
            with path.open("rb") as file:
                if Digest.of(file).xxh3 == entry.xxh3:
                    return path
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
        try:
            os.close(handle)
            try:
                self._fs.get_file(self._path(manifest["file"]), temporary)
            except FileNotFoundError as error:
                raise Damaged(f"{self._shown(manifest['file'])} is not there") from error
            with open(temporary, "rb") as file:
                digest = Digest.of(file)
                os.fsync(file.fileno())
            if (digest.size, digest.xxh3) != (manifest["bytes"], entry.xxh3):
                raise Damaged(
                    f"{self._shown(manifest['file'])} has {digest.size} bytes with the checksum "
                    f"{digest.xxh3}, not {manifest['bytes']} with {entry.xxh3}"
                )
            os.chmod(temporary, 0o644)
            os.rename(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        return path

    def _manifest(self, entry: Entry) -> dict[str, Any]:
        name = f"{entry.stem}.json"
        try:
            found = json.loads(self._fs.cat_file(self._path(name)))
            if found["version"] != 1 or found["xxh3_64"] != entry.xxh3:
                raise ValueError(f"version {found['version']}, checksum {found['xxh3_64']}")
            # Names come from elsewhere, and must not lead out of the folder.
            if found["file"] != f"{entry.stem}-{found['name']}" or "/" in found["name"]:
                raise ValueError(f"file {found['file']!r}")
            return {"name": str(found["name"]), "file": found["file"], "bytes": found["bytes"]}
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise Damaged(f"{self._shown(name)} is no whole manifest ({error})") from error

    # Names.

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _shown(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}"

    def _sync(self, name: str) -> None:
        """On a disk of this machine, what was written is not there before it was synced."""
        for path in (self._path(name), self._root) if self._on_disk else ():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _entries(names: list[str]) -> list[Entry]:
    found = [m for name in names if (m := _MANIFEST.fullmatch(name))]
    return sorted((Entry(int(m[1]), m[2]) for m in found), reverse=True)


def told_by_store(info: Mapping[str, Any]) -> str | None:
    """The checksum that a store gives in its description of an object: S3's, or Google's."""
    if info.get("ETag"):
        return str(info["ETag"]).strip('"')
    if info.get("md5Hash"):
        return base64.b64decode(info["md5Hash"]).hex()
    return None


def stores_checksum(file: BinaryIO, like: str) -> str:
    """MD5 of a file; or S3's, of parts (MD5 of their MD5s, and how many) if the example is one."""
    file.seek(0)
    whole, part, parts = _md5(), _md5(), []
    while block := file.read(_BLOCK):
        if "-" not in like:
            whole.update(block)
            continue
        part.update(block)
        if file.tell() % _PART == 0:
            parts.append(part.digest())
            part = _md5()
    if "-" not in like:
        return str(whole.hexdigest())
    if file.tell() % _PART:
        parts.append(part.digest())
    whole.update(b"".join(parts))
    return f"{whole.hexdigest()}-{len(parts)}"


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
