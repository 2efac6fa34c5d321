"""Files at an fsspec URL (`s3://`, `gs://`, a path, …): whole, or not there.

    00000012-9f86d081884c7d65-last.ckpt  the file, under a name of its own
    00000011-60303ae22b998861-best.pt    a file beside it, which came with an earlier one already
    00000012-9f86d081884c7d65.json       its manifest (names, sizes, checksums), written last

A file counts once its manifest is there. The manifest is written once the file and those beside it
were read back and compared. So nothing has to be renamed, which object stores cannot do, and what
was cut off half-way is never mistaken for a file. The number orders the files by when they were
put; the checksum (XXH3-64 of the content) keeps writers from overwriting each other.

Others may have written there, too. What is not whole counts for nothing: it is no newest file, and
has nothing of ours removed or left unsent (see `manifest` for what is believed).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from yolodata.errors import ConfigError, YolodataError
from yolodata.files import write_all
from yolodata.redaction import redacted, secrets_of
from yolodata.terminal import size_text
from yolodata.train.checkpoint.manifest import (
    LAST,
    LONGEST,
    MANIFEST,
    OBJECT,
    Entry,
    Facts,
    Manifest,
)
from yolodata.train.checkpoint.places import PART, LocalPlace, Place, RemotePlace

_NEAR = 1000  # numbers that writers were given and left, at most
_BLOCK = 4 << 20  # bytes that are compared at a time
# Four parts at a time: s3fs would hold ten parts of 50 MiB in memory.
_PUT: Mapping[str, dict[str, Any]] = {"s3": {"chunksize": PART, "max_concurrency": 4}}
_NO_FOLDERS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class DamagedObject(YolodataError):
    """An object is not what was put there."""


class RefusedObject(DamagedObject):
    """An object may be what was put there, but cannot be read by us."""


class ObjectStore:
    """A place for files; one writer at a time.

    Args:
        url: where; a folder of its own, with nothing else in it.
        options: for fsspec's file system, beside those of fsspec's own configuration
            (`FSSPEC_S3_ENDPOINT_URL=…`, say).

    Attributes:
        shown: the URL for messages, without the secrets in it.

    Raises:
        ConfigError: no file system is known or installed for this URL.
    """

    def __init__(self, url: str | Path, options: Mapping[str, Any] | None = None) -> None:
        from fsspec.core import url_to_fs

        url = str(url)
        self._secrets = secrets_of(url, options)
        self.shown = self.redacted(url).rstrip("/")
        protocol = url.partition("://")[0] if "://" in url else "file"
        # A listing is asked for to see what is new; a file system of our own ends with us.
        ours = {"use_listings_cache": False, "skip_instance_cache": True}
        try:
            fs, root = url_to_fs(url, **{**ours, **(options or {})})
        except ImportError as error:
            extra = _EXTRAS.get(protocol)
            install = f"pip install 'yolodata[{extra}]'" if extra else "install what it needs"
            raise ConfigError(
                f"{self.shown}: cannot be opened: {self.redacted(error)}; {install}"
            ) from None
        except ValueError as error:
            raise ConfigError(
                "the URL must be a path or one that fsspec knows (s3://BUCKET/FOLDER, "
                f"gs://BUCKET/FOLDER, …), got {self.shown!r}: {self.redacted(error)}"
            ) from None
        except Exception as error:  # some connect at once
            raise ConfigError(
                f"{self.shown}: cannot be opened: {self.said(error)}; see to access and network"
            ) from None
        root = root.rstrip("/")
        self._place: Place
        if protocol in ("file", "local"):
            self._place = LocalPlace(Path(root or "/"))
        else:
            has_folders, put_options = protocol not in _NO_FOLDERS, _PUT.get(protocol, {})
            self._place = RemotePlace(
                fs, root, has_folders=has_folders, put_options=put_options
            )  # fmt: skip
        self._last_sequence = 0
        self._sizes: dict[str, int] = {}  # of the last listing
        self._read_back: set[str] = set()  # objects that this process has compared
        self._own: list[Entry] = []  # what this process has put
        # Manifests that were read: their size, and what they say if they are whole.
        self._known: dict[Entry, tuple[int, Manifest | None]] = {}

    def redacted(self, text: object) -> str:
        """A text, an error of the file system say, without the secrets of URL and options."""
        return redacted(text, self._secrets)

    def said(self, error: BaseException | None) -> str:
        """What kind an error is and what it says, without secrets, in printable characters."""
        text = self.redacted(f"{type(error).__name__}: {error}")
        return "".join(sign if sign.isprintable() else " " for sign in text)[:1000]

    # What is there.

    def entries(self) -> list[Entry]:
        """Lists all files that have a manifest, whole or not, the newest first."""
        self._sizes = self._place.sizes()
        return sorted(filter(None, map(Entry.of, self._sizes)), reverse=True)

    def manifest(self, entry: Entry) -> Manifest:
        """Reads the manifest of a file.

        Raises:
            DamagedObject: there is no whole one.
            Exception: whatever the file system raises.
        """
        try:
            size = self._sizes.get(entry.manifest, 0)
            if not 0 < size <= LONGEST:  # not asked for: stores refuse to give a part of nothing
                raise ValueError(f"it has {size} bytes, must have 1 to {LONGEST}")
            with self._reading(entry.manifest):
                data = self._place.head(entry.manifest, LONGEST)
            return Manifest.decode(data, entry)
        except ValueError as error:
            name = self._shown(entry.manifest)
            raise DamagedObject(f"{name} is no whole manifest ({error})") from None

    def _whole(self) -> Iterator[tuple[Entry, Manifest]]:
        """Whole manifests whose file is there, of the right size; the newest first."""
        for entry in self.entries():
            size = self._sizes[entry.manifest]
            if self._known.get(entry, (None, None))[0] != size:
                self._known[entry] = size, None
                with contextlib.suppress(DamagedObject):
                    self._known[entry] = size, self.manifest(entry)
            found = self._known[entry][1]
            if found is not None and self._has(found.main):
                yield entry, found

    def _has(self, facts: Facts) -> bool:
        return self._sizes.get(facts.file) == facts.bytes

    def next_sequence(self) -> int:
        """Returns a number above those that are there, and above those given before.

        A name far above the newest whole file's counts for nothing: the numbers would end.

        Raises:
            ConfigError: there is none left.
        """
        newest = next((entry.sequence for entry, _ in self._whole()), 0)
        found = [
            m for name in self._sizes if (m := MANIFEST.fullmatch(name) or OBJECT.fullmatch(name))
        ]
        near = [number for m in found if (number := int(m[1])) <= newest + _NEAR]
        number = max([self._last_sequence, newest, *near]) + 1
        if number > LAST:
            raise ConfigError(
                f"{self.shown}: has a file with the last number, {LAST}, so that none can follow; "
                "give another upload URL, or remove that file and its manifest"
            )
        self._last_sequence = number
        return number

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
            name: what it is called where it is brought to.
            sequence: of `next_sequence`.
            beside: open files that belong to it, by relative path. One that a newest manifest
                names already is not sent again, once it was read back from there.

        Returns:
            The bytes that were sent.

        Raises:
            ConfigError: a file cannot have this name, or is too large.
            DamagedObject: what arrived is something else.
            Exception: whatever the file system raises.
        """
        there = self._named() if beside else {}
        sent, others = 0, []
        for path, other in (beside or {}).items():
            facts = self._facts(path, other, sequence)
            known = there.get(_key(facts))
            if known is not None and self._is_there(replace(facts, file=known)):
                facts = replace(facts, file=known)
            else:
                self._send(other, facts)
                sent += facts.bytes
            others.append(facts)
        facts = self._facts(name, file, sequence)
        self._send(file, facts)
        text = Manifest(facts, tuple(others)).encode()
        entry = Entry(sequence, facts.xxh3_64)
        if len(text) > LONGEST:
            raise ConfigError(
                f"{name}: its manifest must have at most {LONGEST} bytes, got {len(text)}; put "
                f"fewer files beside it than {len(others)}"
            )
        self._known.pop(entry, None)
        self._place.put_bytes(entry.manifest, text)
        if self._place.head(entry.manifest, LONGEST) != text:
            raise DamagedObject(f"{self._shown(entry.manifest)} is not what was written")
        self._own.append(entry)
        return sent + facts.bytes

    def _facts(self, name: str, file: BinaryIO, sequence: int) -> Facts:
        try:
            return Facts.of(name, file, sequence)
        except ValueError as error:
            raise ConfigError(f"a file cannot be uploaded: its {error}") from None

    def _send(self, file: BinaryIO, facts: Facts) -> None:
        """Brings a file there and reads it back."""
        self._place.put(facts.file, file)
        self.check(facts)
        self._read_back.add(facts.file)

    def _is_there(self, facts: Facts) -> bool:
        """Whether an object is what its manifest says; it is read once by each process."""
        if facts.file not in self._read_back:
            try:
                self.check(facts)
            except DamagedObject:
                return False
            self._read_back.add(facts.file)
        return True

    def _named(self) -> dict[tuple[str, int, str], str]:
        """Objects of whole manifests by checksum, bytes and last name."""
        manifests = [found for _, found in self._whole()]
        return {
            _key(facts): facts.file
            for found in manifests
            for facts in found.all
            if self._has(facts)
        }

    def keep_newest(self, keep: int) -> None:
        """Removes all but the newest whole files, and what interrupted writers left before them.

        Names of another pattern stay, and so does all that is newer than the oldest that is kept.
        """
        whole = list(self._whole())
        if not whole:
            return
        kept = {entry for entry, _ in whole[:keep]} | set(self._own[-keep:])
        oldest = min(kept)
        for entry in filter(None, map(Entry.of, self._sizes)):  # first that it counts, then it
            if entry < oldest:
                self._place.remove(entry.manifest)
        named = {facts.file for entry, found in whole if entry in kept for facts in found.all}
        for name in self._sizes:
            match = OBJECT.fullmatch(name)
            if match and name not in named and int(match[1]) < oldest.sequence:
                self._place.remove(name)

    # Reading.

    def fetch(self, facts: Facts, file: BinaryIO) -> None:
        """Brings an object into a file that is open for writing, in the place of what it has.

        Raises:
            DamagedObject: it is not what its manifest says.
            YolodataError: the disk has no room for it.
            Exception: whatever the file systems raise.
        """
        free = os.fstatvfs(file.fileno())
        room = free.f_bavail * free.f_frsize
        if facts.bytes > room:
            self.check(facts)  # a lie is no reason to give up
            raise YolodataError(
                f"{self._shown(facts.file)} needs {size_text(facts.bytes)}, and {size_text(room)} "
                "are free; make room, or give another project="
            )
        file.seek(0)
        file.truncate()
        self._compare(facts, file)

    def check(self, facts: Facts) -> None:
        """Reads an object and compares it.

        Raises:
            DamagedObject: it is not what its manifest says.
            Exception: whatever the file system raises.
        """
        self._compare(facts, None)

    def _compare(self, facts: Facts, target: BinaryIO | None) -> None:
        digest, left = xxhash.xxh3_64(), facts.bytes
        with self._reading(facts.file), self._place.open(facts.file) as file:
            # An object may have no end. Of one that is too long, one byte too many is read.
            while block := file.read(min(_BLOCK, left + 1)):
                digest.update(block)
                left -= len(block)
                if target is not None:
                    write_all(target.fileno(), block)
        found = digest.hexdigest()
        if left or found != facts.xxh3_64:
            size = "more" if left < 0 else str(facts.bytes - left)
            raise DamagedObject(
                f"{self._shown(facts.file)} must have {facts.bytes} bytes with the checksum "
                f"{facts.xxh3_64}, got {size} with {found}"
            )

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Says of an object that cannot be read, and never will, that it is damaged."""
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise DamagedObject(f"{self._shown(name)} is not there") from None
        except PermissionError as error:
            raise RefusedObject(f"{self._shown(name)} ({self.said(error)})") from None

    def _shown(self, name: str) -> str:
        return f"{self.shown}/{name}"


def _key(facts: Facts) -> tuple[str, int, str]:
    return facts.xxh3_64, facts.bytes, facts.name.rpartition("/")[2]
