"""The page over HTTP: its files, and the state as JSON.

    /            the page; its script asks for the state every two seconds
    /api/state   the state (`Board.document`); ?key= &target= &lead= say of which series
    /healthz     200 while this answers

There is no login, nothing can be changed, and it listens on loopback unless it is told otherwise. A page of another
site cannot read this one: it is not told that it may (CORS), and a name of its own that it points to this machine (DNS
rebinding) is refused by the Host header: what is answered to are addresses, localhost, and names that were given.
"""

from __future__ import annotations

import gzip
import hashlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from schemas.errors import InputError
from streaming.http_thread import HttpThread

_PAGE = Path(__file__).parent / "page"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_LEAST_ZIPPED = 1_000
_MAP_STYLES = "sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o="
"""Of the one style sheet that plotly.js 4.1 writes into a page as it is loaded, that of maps; a test looks."""
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' '{_MAP_STYLES}'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the page, compressed."""

    kind: str
    zipped: bytes
    tag: str

    @classmethod
    def of(cls, kind: str, body: bytes) -> _File:
        return cls(
            f"{kind}; charset=utf-8", gzip.compress(body, 6, mtime=0), f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        )


def page_files() -> dict[str, _File]:
    """All files of the page by path; the plotting library's is its package's own.

    Raises:
      ModuleNotFoundError: plotly is not installed.
    """
    found = {
        "/" if path.name == "index.html" else f"/{path.name}": _File.of(_KINDS[path.suffix], path.read_bytes())
        for path in sorted(_PAGE.iterdir())
    }
    plotly = find_spec("plotly")  # it is not imported: a page needs none of its Python
    if plotly is None or plotly.origin is None:
        raise ModuleNotFoundError("expected the package plotly", name="plotly")
    script = Path(plotly.origin).parent / "package_data" / "plotly.min.js"
    return found | {"/plotly.js": _File.of(_KINDS[".js"], script.read_bytes())}


class DashboardServer(HttpThread):
    """Serves the page until it is closed. A context manager.

    Args:
      document: gives the state; its arguments are `Board.document`'s.
      host: the address to listen on.
      port: 0 for a free one.
      names: what browsers may call it, beside localhost and addresses.
    Raises:
      InputError: the address cannot be listened on.
      ModuleNotFoundError: plotly is not installed.
    """

    def __init__(
        self, document: Callable[..., dict[str, Any]], *, host: str, port: int, names: Sequence[str] = ()
    ) -> None:
        given = [name.lower() for name in names]

        class Handler(_Handler):
            files = page_files()
            state = staticmethod(document)
            names = frozenset(("localhost", host, *given))

        try:
            super().__init__("page", host, port, Handler)
        except (OSError, OverflowError) as exc:
            raise InputError(f"--host, --port: expected a free address, got {host}:{port}: {exc}") from exc


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, _File]
    state: Callable[..., dict[str, Any]]
    names: frozenset[str]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tidegauge", ""
    timeout = 30

    def do_GET(self) -> None:
        """Answers a request for a file or the state."""
        parts = urlsplit(self.path)
        if not self._is_for_us():
            self._answer(421, "text/plain", b"expected a Host that is an address, localhost or a --name\n")
        elif parts.path == "/api/state":
            options = orjson.OPT_SERIALIZE_NUMPY
            self._answer(200, "application/json", orjson.dumps(self.state(**_arguments(parts.query)), option=options))
        elif parts.path == "/healthz":
            self._answer(200, "text/plain; charset=utf-8", b"the page is served\n")
        elif (file := self.files.get(parts.path)) is None:
            self._answer(404, "text/plain; charset=utf-8", b"expected /, /api/state or /healthz\n")
        elif self.headers.get("If-None-Match") == file.tag:
            self._head(304, file.kind, 0, {"ETag": file.tag})
        else:
            self._file(file)

    def do_HEAD(self) -> None:
        """Answers the same without a body."""
        self.do_GET()

    def _is_for_us(self) -> bool:
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name)

    def _file(self, file: _File) -> None:
        headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if self._takes_gzip():
            self._send(200, file.kind, file.zipped, headers | {"Content-Encoding": "gzip"})
        else:
            self._send(200, file.kind, gzip.decompress(file.zipped), headers)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        headers = {"Cache-Control": "no-store"}
        if len(body) >= _LEAST_ZIPPED and self._takes_gzip():
            body, headers = gzip.compress(body, 1), headers | {"Content-Encoding": "gzip"}
        self._send(status, kind, body, headers)

    def _takes_gzip(self) -> bool:
        return "gzip" in self.headers.get("Accept-Encoding", "")

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, kind, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing: a request every few seconds is no news."""


def _arguments(query: str) -> dict[str, Any]:
    """What a query asks for; what does not parse is left out."""
    found: dict[str, Any] = {}
    try:
        given = {name: values[-1] for name, values in parse_qs(query, max_num_fields=8).items()}
    except ValueError:
        return found
    if "key" in given:
        found["key"] = given["key"]
    for name in ("target", "lead"):
        if given.get(name, "").isascii() and given.get(name, "").isdecimal() and len(given[name]) < 10:
            found[name] = int(given[name])
    return found
