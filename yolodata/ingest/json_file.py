"""JSON files of others, of any size: read whole, or searched without being parsed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolodata.errors import DatasetError
from yolodata.files import open_regular
from yolodata.ingest.limits import JSON_BYTES
from yolodata.machine import available_memory
from yolodata.terminal import size_text

JSON_FILES = "*.[jJ][sS][oO][nN]"
"""The pattern of their names."""

_BLOCK = 4 << 20
_SMALL = 64 << 20  # bytes that fit into any memory
_NULS = b"\0" * 8  # no JSON text has these, in no encoding; what was never written has
_NOT_JSON = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first: gunzip -k '{file}'",
    b"PK\x03\x04": "is a ZIP archive; unpack it first: unzip '{file}'",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; fetch it: git lfs pull",
    b"<": "is a web page or XML, not JSON; download the file itself",
}


def read_json(file: Path) -> Any:
    """Parses a JSON file in UTF-8, UTF-16 or UTF-32.

    Raises:
        DatasetError: it cannot be read, is no JSON, or is larger than a JSON may be.
    """
    raw = bytearray()
    try:
        for block in _blocks(file):
            raw += block
            if _NULS in block:
                break
    except OSError as error:
        raise DatasetError(
            f"{file}: cannot be read: {error.strerror or error}; restore it, or give another file"
        ) from None
    for magic, what in _NOT_JSON.items():
        if raw.startswith(magic):
            raise DatasetError(f"{file}: {what.format(file=file)}")
    if not raw.strip():
        raise DatasetError(f"{file}: is empty; download or export it again")
    ends = raw.rstrip(b"\0 \t\r\n").endswith((b"}", b"]")) and _NULS not in raw[-_BLOCK:]
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass")
        raw.clear()
        return json.loads(text)
    except UnicodeDecodeError as error:
        why = f"{error.reason} at byte {error.start}; convert it to UTF-8, as with iconv"
    except RecursionError:
        why = "lists in lists, too deep to be a dataset; give another file"
    except ValueError as error:
        why = str(error)
        if not ends:
            why += "; the file ends in the middle: download or export it again"
        elif isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            why += "; write one JSON object, as COCO is, not one a line"
        else:
            why += "; correct it, or export it again"
    raise DatasetError(f"{file}: is not readable JSON: {why}")


def found_in(file: Path, *words: bytes) -> dict[bytes, list[int]]:
    """Searches a file for words, without parsing it.

    Returns:
        the first two places of each word, in bytes.

    Raises:
        OSError: it cannot be read, or is larger than a JSON may be.
    """
    found: dict[bytes, list[int]] = {word: [] for word in words}
    begin, rest = 0, b""
    keep = max(map(len, words)) - 1
    for block in _blocks(file):
        window = rest + block
        for word, places in found.items():
            at = window.find(word)
            while at >= 0 and len(places) < 2:
                if not places or begin + at > places[-1]:
                    places.append(begin + at)
                at = window.find(word, at + 1)
        if _NULS in block:
            break
        rest = window[-keep:]
        begin += len(window) - len(rest)
    return found


def read_part(file: Path, begin: int, count: int) -> bytes:
    """Reads at most `count` bytes of a file from byte `begin` on.

    Raises:
        OSError: it cannot be read.
    """
    fd = open_regular(file)
    try:
        return os.pread(fd, count, begin)
    finally:
        os.close(fd)


def _blocks(file: Path) -> Iterator[bytes]:
    """The content of a file, which may be one that another process writes."""
    fd = open_regular(file)
    try:
        size = os.fstat(fd).st_size
        if size > JSON_BYTES:
            raise OSError(
                errno.EFBIG, f"it has {size_text(size)}, at most {size_text(JSON_BYTES)} are read"
            )
        if size > _SMALL and 2 * size > available_memory():
            raise OSError(
                errno.EFBIG,
                f"it has {size_text(size)}, and the free memory is {size_text(available_memory())}",
            )
        while block := os.read(fd, _BLOCK):
            yield block
    finally:
        os.close(fd)
