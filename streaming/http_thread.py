"""A small HTTP server that answers from a thread of its own, beside what the process is there for."""

from __future__ import annotations

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self


class HttpThread:
    """Serves from its creation until it is closed. A context manager.

    Args:
      name: of the thread.
      host: the address to listen on, of IPv4 or IPv6; empty for all of the machine.
      port: 0 for a free one.
      handler: answers requests.
    Raises:
      OSError, OverflowError: the address cannot be listened on.
    """

    def __init__(self, name: str, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self._server = (_Server6 if ":" in host else _Server)((host, port), handler)
        self.port = int(self._server.server_address[1])
        self._thread = Thread(target=self._server.serve_forever, daemon=True, name=name)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6
