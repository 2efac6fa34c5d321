"""Texts without the secrets of the URLs in them: for logs, errors, and everything that is kept.

    s3://KEY:SECRET@bucket/runs?token=abcdefgh  ->  s3://***@bucket/runs?token=***

Whoever prints or stores a text that may hold a URL, his own or one that a library has put into its
error, passes it through `redacted` first. What can be a secret is hidden: who is before the `@`,
values behind the `?` but for short and harmless ones, and values that are named like a secret
outside of URLs, too.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote

from yolodata.errors import ConfigError
from yolodata.terminal import printable

HIDDEN = "***"

# Up to what cannot be in a URL, or the next one of a chain (`filecache::s3://…`). Repetitions
# within repetitions have limits, so that a long text takes no longer than it is long.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]{0,30}:/{1,2}"
_URL = re.compile(rf"({_SCHEME})((?:(?!::{_SCHEME})[^\s'\"<>\\])+)")
# A secret that was not encoded may have any sign in it. But digits behind a colon may be a port.
_LOGIN = re.compile(r"([^/?#@:\[]*:(?:(?!\d{1,5}[/?#]).*|[^?#]*))@")
_QUERY = re.compile(r"([?&])([\w.%-]{1,60}=[^\s'\"<>&\\]+)")  # of a URL without its beginning
_CONTAINER = ("abfs", "abfss", "wasb", "wasbs")  # CONTAINER@ACCOUNT is a place
_HARMLESS = {
    "alt", "dl", "download", "export", "format", "id", "raw", "ref", "region", "v", "version",
    "versionid",
}  # fmt: skip
_SECRET = (
    "password|passwd|secret|token|signature|credential|api[_-]?key|access[_-]?key|account[_-]?key|"
    r"private[_-]?key|authorization|\bsas(?![a-z])|\bsig(?![a-z])|\bx-amz-"
)
_NAMED = re.compile(
    rf"(?i)((?:{_SECRET})[\w.-]{{0,40}}['\"]?\s{{0,3}}[=:]\s{{0,3}}['\"]?)"
    r"((?:(?:basic|bearer|token) )?[^\s'\"&,;<>)]+)"
)
_SECRET_NAME = re.compile(rf"(?i){_SECRET}|\bkey\b|\busername\b|\buser\b")
_SHORTEST = 5  # characters; shorter texts are everywhere


def redacted(text: object, secrets: Iterable[str] = ()) -> str:
    """Returns a text without secrets.

    Args:
        text: anything, as `str` shows it.
        secrets: texts that are hidden wherever they are (see `secrets_of`).
    """
    shown = _URL.sub(_without_secrets, str(text))
    shown = _QUERY.sub(lambda match: match[1] + _parameter(match[2]), shown)
    shown = _NAMED.sub(_named, shown)
    for secret in sorted(secrets, key=len, reverse=True):
        shown = shown.replace(secret, HIDDEN)
    return shown


def stored(value: Any) -> Any:
    """Returns a value that is kept, without the secrets of URLs in it.

    Other texts stay as they are: they are used again. Of lists and mappings, all parts are cleaned.
    """
    if isinstance(value, str):
        return _URL.sub(_without_secrets, value)
    if isinstance(value, Mapping):
        return {stored(name): stored(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [stored(each) for each in value]
    return value


def refuse_secrets(arguments: Mapping[str, Any]) -> None:
    """Refuses arguments of Ultralytics that are URLs with secrets in them.

    It writes its arguments into args.yaml, the log, weights, and what loggers send elsewhere.

    Raises:
        ConfigError: there is one.
    """
    for name, value in arguments.items():
        if isinstance(value, str) and stored(value) != value:
            raise ConfigError(
                f"{name} is a URL with a secret in it ({stored(value)}), which Ultralytics would "
                f"write into args.yaml, logs and weights; download it, and give {name}=PATH"
            )


def hide_secrets() -> None:
    """Has secrets shown nowhere where others show or keep them.

    That is tracebacks, what libraries log without a handler, what Ultralytics logs (the address of
    an MLflow server, say), and the command line, which W&B and other trackers take with them.

    For programs, which own their streams and arguments; a library leaves them alone. The arguments
    must have been read before.
    """
    sys.argv[1:] = map(redacted, sys.argv[1:])
    sys.excepthook = _show
    threading.excepthook = _show_of_thread
    _filter(logging.getLogger("ultralytics"), _Redacting())
    if logging.lastResort is not None:
        _filter(logging.lastResort, _Printable())


def _filter(place: logging.Filterer, filtered: _Redacting) -> None:
    if not any(isinstance(each, _Redacting) for each in place.filters):
        place.addFilter(filtered)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(
        redacted("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr
    )


def _show_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_type is not SystemExit and found.exc_value is not None:
        name = found.thread.name if found.thread else "?"
        print(f"Exception in thread {name}:", file=sys.stderr)
        _show(found.exc_type, found.exc_value, found.exc_traceback)


class _Redacting(logging.Filter):
    """Changes records, and takes all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Takes secrets out of a record."""
        record.msg, record.args = redacted(record.getMessage()), ()
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = redacted(
                "".join(traceback.format_exception(*record.exc_info))
            ).strip()
        return True


class _Printable(_Redacting):
    """Spells out control characters, too: a log names files, and what a made-up file says."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Takes secrets and what acts on a terminal out of a record."""
        super().filter(record)
        record.msg = printable(record.msg, keep="\n\t")
        return True


def secrets_of(url: str, options: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Returns what is secret in a URL and in options of fsspec, each as it is and decoded.

    An error of a library may show them alone, without the URL.
    """
    found: set[str] = set()
    for match in _URL.finditer(url):
        login, rest = _parts(match[1], match[2])
        found.update(part for part in login.split(":", 1)[-1:] if part)
        for part in re.split("[?#]", rest)[1:]:
            for name, value in parse_qsl(part, keep_blank_values=True):
                if not _is_harmless(name, value):
                    found.add(value)
    found.update(_secret_options(options or {}))
    found |= {unquote(secret) for secret in found}
    return frozenset(secret for secret in found if len(secret) >= _SHORTEST)


def _secret_options(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secret_options(value)
        elif isinstance(value, str) and _SECRET_NAME.search(str(name)):
            yield value


def _parts(scheme: str, rest: str) -> tuple[str, str]:
    """Login, and what is behind it."""
    named = _LOGIN.match(rest)
    if named:
        return named[1], rest[named.end() :]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    login, at, _ = host.rpartition("@")
    if not at or scheme.partition(":")[0].lower() in _CONTAINER:
        return "", rest
    return login, rest[len(login) + 1 :]


def _without_secrets(match: re.Match[str]) -> str:
    scheme = match[1]
    login, rest = _parts(scheme, match[2])
    rest, mark, fragment = rest.partition("#")
    place, asked, query = rest.partition("?")
    shown = scheme + (f"{HIDDEN}@" if login else "") + place + asked + _parameters(query)
    return shown + mark + (_parameters(fragment) if "=" in fragment else fragment)


def _parameters(query: str) -> str:
    return re.sub(r"[^&;]+", lambda match: _parameter(match[0]), query)


def _parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    if not equals:  # `?SECRET`, maybe
        return name if _is_harmless("", name) else HIDDEN
    return f"{name}={value if _is_harmless(name, value) else HIDDEN}"


def _is_harmless(name: str, value: str) -> bool:
    return name.lower() in _HARMLESS or len(value) < _SHORTEST


def _named(match: re.Match[str]) -> str:
    name, value = match.groups()
    return match[0] if len(value) < _SHORTEST else f"{name}{HIDDEN}"
