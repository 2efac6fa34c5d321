"""Text files of others to str: byte-order marks, and the encodings that XML declares.

Note [which encoding an XML file is in]. A byte-order mark decides, then the declaration, then
UTF-8. GB2312 and GBK are read as GB18030, which contains both, because files say the first and hold
the others. A declaration that is not written in the encoding that it names is wrong: .NET writes
UTF-16 into files of single bytes. Where the encoding is wrong, unknown, or contradicted by the
bytes, they are read as UTF-8 if they are valid UTF-8: other text of more than a few letters hardly
ever is. The declared one comes first, because a single letter of GBK can be.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from yolodata.errors import DatasetError
from yolodata.files import read_regular
from yolodata.ingest.limits import LIST_BYTES, LIST_LINES, TEXT_BYTES

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like the mark of UTF-16, so it is looked for first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNMARKED = (
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_CHINESE = {"gb2312", "gbk", "gb18030"}
_NO_CHARSETS = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"}


def decode_text(data: bytes) -> str:
    """Decodes by the byte-order mark; without one as UTF-8.

    Raises:
        ValueError: the bytes are no such text.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    return _decoded(data, encoding)


def read_text(file: Path, what: str) -> str:
    """Reads a text file; `what` it is, for the message.

    Raises:
        DatasetError: it cannot be read, is not UTF-8 (or UTF-16 with a byte-order mark), or is
            larger than `TEXT_BYTES`.
    """
    return _read(file, what, TEXT_BYTES)


def read_list(file: Path) -> list[str]:
    """Reads the lines of a list of images.

    Raises:
        DatasetError: as `read_text`; it is larger than `LIST_BYTES`, or has more than `LIST_LINES`.
    """
    text = _read(file, "list of images", LIST_BYTES)
    lines = text.count("\n") + text.count("\r")
    if lines > LIST_LINES:
        raise DatasetError(
            f"{file}: a list of images must have at most {LIST_LINES} lines, got {lines}"
        )
    return text.splitlines()


def _read(file: Path, what: str, limit: int) -> str:
    try:
        return decode_text(read_regular(file, limit))
    except OSError as error:
        raise DatasetError(
            f"{file}: the {what} cannot be read: {error.strerror or error}; correct it"
        ) from None
    except ValueError as error:
        raise DatasetError(
            f"{file}: the {what} must be UTF-8 text, got another: {error}; save it as UTF-8"
        ) from None


def decode_xml(data: bytes) -> str:
    """Decodes an XML file; see Note [which encoding an XML file is in].

    Raises:
        ValueError: why it cannot be decoded.
    """
    marked = any(data.startswith(mark) for mark, _ in _MARKS)
    unmarked = next((name for head, name in _UNMARKED if data.startswith(head)), None)
    declared = _DECLARED.match(data[:1000])
    if marked:
        return decode_text(data)
    if unmarked:
        return _decoded(data, unmarked)
    return (
        _as_declared(data, declared[0], declared[1].decode())
        if declared
        else _decoded(data, "utf-8")
    )


def _as_declared(data: bytes, declaration: bytes, declared: str) -> str:
    encoding = _charset(declared, declaration)
    if encoding is None:
        reason = f"it declares the encoding '{declared}', which it cannot be in, and is not UTF-8"
    else:
        try:
            return _decoded(data, encoding)
        except ValueError as error:
            reason = f"it declares the encoding '{declared}', but {error}"
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(reason) from None


def _charset(declared: str, declaration: bytes) -> str | None:
    """Python's name of a declared encoding; None if there is none, or the declaration is not."""
    try:
        name = codecs.lookup(declared).name.replace("_", "-")
        same = name not in _NO_CHARSETS and declaration.decode(name) == declaration.decode("ascii")
    except (LookupError, ValueError):  # LookupError: unknown, or no encoding of text
        return None
    if not same:
        return None
    return "gb18030" if name in _CHINESE else name


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        wrong = data[error.start : error.start + 1].hex()
        raise ValueError(
            f"byte 0x{wrong} at {error.start} is not {encoding.upper()} ({error.reason})"
        ) from None
