"""Output that every terminal can show, and that does nothing to it.

A terminal need not know `×` (`PYTHONIOENCODING=ascii`), and no terminal knows the bytes of a file
name that is not UTF-8. Python then raises in the middle of a line, after hours of packing maybe.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator

_SIGNS = {
    "×": "x", "…": "...", "·": "*", "–": "-", "—": "-", "─": "-", "█": "#", "µ": "u", "±": "+-",
    "°": "deg",
}  # fmt: skip
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # signs that move or turn
_HANDLER = "yolodata.spell_out"


def open_closed() -> None:
    """Opens those of stdin, stdout and stderr that are closed (`2>&-`), to nothing.

    Else the next file that is opened takes their number, a shard maybe, and what decoders say on
    stderr is written into it. For programs, as `spell_out`.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def spell_out() -> None:
    """Has stdout and stderr spell out what they cannot encode, in place of raising an error.

    Signs of ours become ASCII (`x` for `×`), all others escapes, as `\\u732b`. For programs, which
    own their streams; a library leaves them alone.
    """
    codecs.register_error(_HANDLER, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # and not what a test or a notebook put there
            with contextlib.suppress(OSError, ValueError):  # closed, or its reader is gone
                stream.reconfigure(errors=_HANDLER)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(
        _SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode("ascii")
        for sign in error.object[error.start : error.end]
    )
    return text, error.end


def printable(text: object, keep: str = "") -> str:
    """Spells out control characters: a file's name may hold what clears or colours a terminal.

    Args:
        text: for people, of names that others chose.
        keep: signs that stay as they are, such as the end of a line.
    """
    return _ACTS.sub(
        lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], str(text)
    )


def shortened(text: object, most: int = 200) -> str:
    """Returns the beginning of a text, `printable`, of so many signs at most."""
    found = printable(text)
    return found if len(found) <= most else f"{found[: most - 1]}…"


def cut(text: str, lines: int = 40, signs: int = 8_000) -> str:
    """Cuts a message off that quotes what has no end, as the path in a made-up YAML."""
    kept = "\n".join(text.split("\n")[:lines])[:signs]
    return text if kept == text else f"{kept} …"


def encodable(text: str) -> str:
    r"""Makes UTF-8 of any text: half a character, as of a path of other bytes, becomes `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def of_any_number(text: str) -> str:
    """Puts # for each number: texts that differ in nothing else become one, and can be counted."""
    return _NUMBER.sub("#", text)


@contextlib.contextmanager
def quiet(least: int = logging.ERROR, logger: str = "ultralytics") -> Iterator[None]:
    """A logger lets only what is that serious through inside."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(least)
    try:
        yield
    finally:
        found.setLevel(level)


def size_text(nbytes: float) -> str:
    """Says a number of bytes with its unit, a power of 1024: "1.5 GiB"."""
    value, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
