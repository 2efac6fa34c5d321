"""An S3 server (moto's) in this process, and what can go wrong with one."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.request import Request, urlopen

Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes] | None]


class S3Server:
    """A running server with one bucket, "runs".

    Attributes:
        fault: is asked before each request: an answer of its own, or None for the server's.
        options: for fsspec.
    """

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it names every request
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        # moto keeps buckets in this process, those of another test's server too.
        urlopen(Request(f"{self.endpoint}/moto-api/reset", method="POST"), timeout=60).close()
        self.fault: Answer | None = None
        self.requests: list[str] = []
        self._app = self._server._server.app
        self._server._server.app = self._answer
        self.options = {
            "endpoint_url": self.endpoint,
            "key": "k",
            "secret": "s",
            "client_kwargs": {"region_name": "eu-west-1"},
            # Else botocore, too, tries again, and each fault takes a second.
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        answer = self.fault(environ, start) if self.fault else None
        return self._app(environ, start) if answer is None else answer

    @cached_property
    def files(self) -> Any:
        """The bucket, seen by somebody else."""
        import s3fs

        return s3fs.S3FileSystem(**self.options, skip_instance_cache=True, use_listings_cache=False)

    def stop(self) -> None:
        self._server.stop()
        self._server._server.server_close()


def writes_data(environ: dict[str, Any]) -> bool:
    """Whether a request brings a file, not its manifest."""
    return environ["REQUEST_METHOD"] == "PUT" and not environ["PATH_INFO"].endswith(".json")


def refused(start: Callable[..., Any], status: str, code: str) -> list[bytes]:
    """An answer of S3's kind."""
    start(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()]


def damage_body(environ: dict[str, Any]) -> None:
    """Turns a bit of what a request brings, as a broken network card would."""
    body = bytearray(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    body[len(body) // 2] ^= 1
    environ["wsgi.input"] = io.BytesIO(bytes(body))


@contextmanager
def stalled(store: S3Server) -> Iterator[threading.Event]:
    """Files are taken in but not answered; the event says that one is on its way."""
    began, go_on = threading.Event(), threading.Event()

    def fault(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes] | None:
        if writes_data(environ):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)  # the client may be gone when it is stored
            began.set()
            go_on.wait(30)
        return None

    store.fault = fault
    try:
        yield began
    finally:
        store.fault = None
        go_on.set()
