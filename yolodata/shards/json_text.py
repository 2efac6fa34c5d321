"""JSON of files that anybody may have made: bounded before it is parsed, and when it is quoted.

A parser makes 20 to 60 bytes of memory of each byte of `[[],[],[]]`, and recurses with the nesting.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any, NoReturn

from yolodata.errors import ShardError

MAX_BYTES = 128 << 20
"""Of a file. A list of a million images that were left out takes as much."""

_MAX_VALUES = 1 << 23
_MAX_DEPTH = 32
_BETWEEN = b",", b":", b"[", b"{"  # one before each value
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 100


def parse_json(text: bytes, where: str) -> Any:
    """Reads JSON of at most `MAX_BYTES`.

    Args:
        text: all bytes of a file.
        where: the file, for messages.

    Raises:
        ShardError: it is no JSON, or has too many values, or too deep ones.
    """
    if _values(text) > _MAX_VALUES:
        raise ShardError(f"{where}: has more than {_MAX_VALUES} JSON values; pack again")
    try:
        content = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ShardError(
            f"{where}: not valid JSON at byte {error.pos}: {error.msg}; the file is damaged, "
            "pack again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{where}: not valid JSON: {error}; pack again") from None
    if _is_deep(content):
        raise ShardError(f"{where}: has JSON nested more than {_MAX_DEPTH} deep; pack again")
    return content


def _values(text: bytes) -> int:
    """At most so many values; in texts nothing is counted, if need be: names are full of commas."""
    count = sum(map(text.count, _BETWEEN))
    if count <= _MAX_VALUES or json.detect_encoding(text) != "utf-8":  # else a quote is any byte
        return count
    return sum(map(_TEXT.sub(b"", text).count, _BETWEEN))


def quoted(value: object) -> str:
    """Writes a value for a message: the beginning of a long one."""
    return _short.repr(value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _is_deep(content: Any) -> bool:
    level = [content] if isinstance(content, (list, dict)) else []
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
    return bool(level)
