"""The HTTP server of a rank's metrics: whoever reaches its port takes few threads and descriptors.

prometheus_client's own gives each connection a thread for as long as the other side likes. A
thousand silent ones would take all descriptors of the process, and its next checkpoint with them.
"""

from __future__ import annotations

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

CONNECTIONS = 8
"""That are answered at once; others are closed."""

PATIENCE = 10.0
"""Seconds that a client may be silent for."""


def serve(host: str, port: int, registry: CollectorRegistry) -> MetricsServer:
    """Begins to serve.

    Args:
        host: name or address of an interface.
        port: 0 is a free one; `server_port` says which.
        registry: what is served.

    Raises:
        OSError: the port is in use, or there is no such interface.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return MetricsServer(family, (str(address[0]), port), registry)


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Answers in threads, a few at a time; `serve` makes it."""

    daemon_threads = True

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], registry: CollectorRegistry
    ) -> None:
        self.address_family = family
        self._free = threading.Semaphore(CONNECTIONS)
        super().__init__(address, _Handler)
        self.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(
            target=self.serve_forever, name="yolodata-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Frees the port."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread, or not at all."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # there is no thread to be had
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers, and lets the next one in."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to tell in the log of a training."""


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said of requests."""
