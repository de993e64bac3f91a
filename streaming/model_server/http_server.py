"""HTTP/1.1 for the REST interface: one event loop for all connections, and threads for the requests that run models."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from urllib.parse import urlsplit

import orjson

from streaming.model_server.http_rest_api import HttpRequest, HttpResponse, HttpRestApi

_log = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 64 * 2**10
_MAX_BODY_BYTES = 512 * 2**20
_IDLE_TIMEOUT_S = 300.0
_HEAD_END = b"\r\n\r\n"


class _BadRequest(Exception):
    """What came is no request that can be answered; the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HttpServer:
    """Serves an `HttpRestApi` from a thread of its own."""

    def __init__(self, api: HttpRestApi, *, host: str, port: int, threads: int, timeout_s: float) -> None:
        """Binds, but does not serve yet.

        Args:
          api: answers.
          host: address to listen on.
          port: 0 takes a free one.
          threads: requests that are worked on at the same time.
          timeout_s: that a client may take to send a request.

        Raises:
          OSError: the address cannot be bound.
        """
        self._api = api
        self._timeout_s = timeout_s
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._stopping = False
        try:
            self._server = self._loop.run_until_complete(
                asyncio.start_server(self._serve_connection, host, port, limit=_MAX_HEAD_BYTES, start_serving=False)
            )
        except OSError as error:
            self._loop.close()
            raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Takes no new requests, and waits for the running ones for at most `grace_s` seconds."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._shut_down(grace_s), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._server.close()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.start_serving())
        self._loop.run_forever()

    async def _shut_down(self, grace_s: float) -> None:
        self._stopping = True
        self._server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._busy:
                    await asyncio.sleep(0.01)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._connections.add(task)
        try:
            while not self._stopping and await self._serve_request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, asyncio.CancelledError):
            pass  # the client went away, was too slow, or the server stops
        except Exception:
            _log.exception("unexpected error on a connection")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request. False if the connection is to be closed."""
        try:
            async with asyncio.timeout(_IDLE_TIMEOUT_S):
                head = await reader.readuntil(_HEAD_END)
        except asyncio.LimitOverrunError:
            _write(writer, "GET", HttpResponse(431, _error("the header is too large")), keep_alive=False)
            await writer.drain()
            return False
        self._busy += 1
        try:
            try:
                method, target, version, headers = _parse_head(head)
                if headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                async with asyncio.timeout(self._timeout_s):
                    body = await _read_body(reader, headers)
            except _BadRequest as error:
                _write(writer, "GET", HttpResponse(error.status, _error(str(error))), keep_alive=False)
                await writer.drain()
                return False
            connection = headers.get("connection", "").lower()
            keep_alive = connection != "close" and (version == "HTTP/1.1" or connection == "keep-alive")
            request = HttpRequest(method, urlsplit(target).path if target[:1] == "/" else target, headers, body)
            response = await self._loop.run_in_executor(self._workers, self._answer, request)
            keep_alive = keep_alive and not self._stopping
            _write(writer, method, response, keep_alive=keep_alive)
            await writer.drain()
            return keep_alive
        finally:
            self._busy -= 1

    def _answer(self, request: HttpRequest) -> HttpResponse:
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding == "gzip":
            try:
                body = _gunzip(request.body)
            except _BadRequest as error:
                return HttpResponse(error.status, _error(str(error)))
            request = HttpRequest(request.method, request.path, request.headers, body)
        elif encoding not in ("", "identity"):
            return HttpResponse(415, _error(f"Expected Content-Encoding gzip, got {encoding[:64]}"))
        return self._api.answer(request)


def _parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    """Method, target, version and headers (names in lower case)."""
    lines = head[: -len(_HEAD_END)].decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise _BadRequest(400, "expected METHOD TARGET HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise _BadRequest(400, "expected NAME: VALUE in the header")
        name = name.lower()
        if name in headers and name in ("content-length", "transfer-encoding"):
            raise _BadRequest(400, f"expected one {name}")
        headers[name] = value.strip()
    return words[0], words[1], words[2], headers


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    length = headers.get("content-length")
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked" or length is not None:
            raise _BadRequest(400, "expected Transfer-Encoding: chunked, or a Content-Length")
        return await _read_chunks(reader)
    if length is None:
        return b""
    if not (length.isascii() and length.isdigit()):
        raise _BadRequest(400, "expected Content-Length to be a number")
    if len(length) > 12 or int(length) > _MAX_BODY_BYTES:
        raise _BadRequest(413, f"expected at most {_MAX_BODY_BYTES} bytes of body")
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0].strip() or b"x", 16)
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise _BadRequest(400, "expected the size of a chunk") from error
        if size < 0 or len(body) + size > _MAX_BODY_BYTES:
            raise _BadRequest(413, f"expected at most {_MAX_BODY_BYTES} bytes of body")
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return bytes(body)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise _BadRequest(400, "expected the end of a chunk")


def _gunzip(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, _MAX_BODY_BYTES)
    except zlib.error as error:
        raise _BadRequest(400, "Expected a gzip body") from error
    if unpacker.unconsumed_tail:
        raise _BadRequest(413, f"expected at most {_MAX_BODY_BYTES} bytes of body")
    if not unpacker.eof:
        raise _BadRequest(400, "Expected a whole gzip body")
    return unpacked


def _write(writer: asyncio.StreamWriter, method: str, response: HttpResponse, *, keep_alive: bool) -> None:
    # 499 is not among the registered ones.
    phrase = "Client Closed Request" if response.status == 499 else HTTPStatus(response.status).phrase
    lines = [
        f"HTTP/1.1 {response.status} {phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    if not keep_alive:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    writer.write(head + (b"" if method == "HEAD" else response.body))


def _error(message: str) -> bytes:
    return orjson.dumps({"error": message})
