"""What a manifest at an upload URL says, and what of it is believed.

Anybody may have written it. So every value has one type and a range, names agree with each other
and with the checksums, and what is not so is an error with one short line, whatever was written.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NoReturn

from yolodata.files import CHECKSUM, file_checksum

MANIFEST = re.compile(r"([0-9]{8})-([0-9a-f]{16})\.json")
OBJECT = re.compile(r"([0-9]{8})-([0-9a-f]{16})-(.+)", re.DOTALL)
LAST = 99_999_999
"""The largest number that a name has room for."""

LONGEST = 1 << 20
"""Bytes of the longest manifest that is read; ours have 200 a file."""

LARGEST = 16 << 30
"""Bytes of the largest file that is brought."""

_NAME_BYTES = 200  # of the last part; the object's name has 26 more, and file systems take 255


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

    @property
    def manifest(self) -> str:
        """The name of its manifest."""
        return f"{self.stem}.json"

    @classmethod
    def of(cls, name: str) -> Entry | None:
        """The file whose manifest has this name; None where the name is something else's."""
        found = MANIFEST.fullmatch(name)
        return cls(int(found[1]), found[2]) if found else None


@dataclass(frozen=True)
class Facts:
    """A file.

    Attributes:
        name: what it is called; of a file beside another one a relative path.
        file: the object that it is.
        bytes: its size.
        xxh3_64: checksum of its content, 16 hexadecimal digits.
    """

    name: str
    file: str
    bytes: int
    xxh3_64: str

    @classmethod
    def of(cls, name: str, file: BinaryIO, sequence: int) -> Facts:
        """Reads an open file.

        Raises:
            ValueError: no manifest may have this name, or the file is too large.
        """
        file.seek(0)
        checksum, size = file_checksum(file), file.tell()
        there = f"{Entry(sequence, checksum).stem}-{name.rpartition('/')[2]}"
        return cls.read(asdict(cls(name, there, size, checksum)))

    @classmethod
    def read(cls, found: Any) -> Facts:
        """Checks a part of a manifest.

        Raises:
            ValueError: it is not one.
        """
        if not isinstance(found, dict):
            _refuse("a file", found)
        name, file = found.get("name"), found.get("file")
        size, checksum = found.get("bytes"), found.get("xxh3_64")
        if not isinstance(name, str) or not is_name(name):
            _refuse("name", name)
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= LARGEST:
            _refuse("bytes", size)
        if not isinstance(checksum, str) or not CHECKSUM.fullmatch(checksum):
            _refuse("xxh3_64", checksum)
        match = OBJECT.fullmatch(file) if isinstance(file, str) else None
        if match is None or match[2] != checksum or match[3] != name.rpartition("/")[2]:
            _refuse("file", file)
        return cls(name, match[0], size, checksum)


@dataclass(frozen=True)
class Manifest:
    """What belongs together.

    Attributes:
        main: the file.
        beside: files that belong to it.
    """

    main: Facts
    beside: tuple[Facts, ...] = ()

    @property
    def all(self) -> tuple[Facts, ...]:
        """All files."""
        return (self.main, *self.beside)

    def encode(self) -> bytes:
        """Returns what is written."""
        return json.dumps(
            {
                "version": 1,
                **asdict(self.main),
                "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "beside": [asdict(each) for each in self.beside],
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes, entry: Entry) -> Manifest:
        """Reads what was written.

        Args:
            data: at most `LONGEST` bytes.
            entry: by the manifest's name.

        Raises:
            ValueError: it is no whole manifest of this entry.
        """
        try:
            found = json.loads(data, parse_int=_whole, parse_constant=_whole)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        if not isinstance(found, dict) or found.get("version") != 1:
            _refuse("version", found.get("version") if isinstance(found, dict) else None)
        main, others = Facts.read(found), found.get("beside", [])
        if main.file != f"{entry.stem}-{main.name}":  # so the checksum is the entry's, too
            _refuse("file", main.file)
        if not isinstance(others, list):
            _refuse("beside", others)
        beside = tuple(Facts.read(each) for each in others)
        if len({each.name for each in beside}) < len(beside):
            raise ValueError("two files beside it have one name")
        return cls(main, beside)


def is_name(name: str) -> bool:
    """Whether a name stays in its folder, can be a file's, and can be shown."""
    parts = name.split("/")
    fits = name.isprintable() and len(name) <= 1000  # then UTF-8 can have it, too
    return fits and all(
        part not in ("", ".", "..") and len(part.encode()) <= _NAME_BYTES for part in parts
    )


def _whole(text: str) -> int:
    """A whole number as JSON has it; hundreds of digits, NaN and Infinity are none."""
    if len(text) > 20 or text[-1] not in "0123456789":
        raise ValueError(f"{shown(text)} is no number")
    return int(text)


def _refuse(what: str, found: object) -> NoReturn:
    raise ValueError(f"{what} is {shown(found)}")


def shown(found: object) -> str:
    """Something that anybody may have written, as a few printable characters."""
    if not isinstance(found, (str, int, float, bool)) and found is not None:
        return f"a {type(found).__name__}"
    text = ascii(found)
    return text if len(text) <= 60 else f"{text[:60]}…"
