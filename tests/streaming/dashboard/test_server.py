"""The page over HTTP: what is served, to whom, and what its browser may do."""

from __future__ import annotations

import gzip
import http.client
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.errors import InputError
from streaming.dashboard.board import Board
from streaming.dashboard.server import DashboardServer, page_files
from tests.specs import tiny_spec

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def server() -> Iterator[DashboardServer]:
    spec = tiny_spec(stream={"description": HOSTILE})
    with DashboardServer(Board(spec).document, host="127.0.0.1", port=0, names=["Tides.example"]) as server:
        yield server


def get(server: DashboardServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_all_that_the_page_names_is_served_here(server: DashboardServer) -> None:
    status, headers, page = get(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', page.decode()))
    modules = re.findall(r'from "\./([^"]+)"', "".join(get(server, f"/{one}")[2].decode() for one in named))
    for path in named | set(modules):
        assert get(server, f"/{path}")[0] == 200, path
    assert b"plotly.js" in get(server, "/plotly.js")[2][:100]
    assert not re.search(r"\son\w+=|style=|https?://", page.decode())  # nothing inline, and nothing from elsewhere


def test_files_are_compressed_and_kept(server: DashboardServer) -> None:
    status, headers, body = get(server, "/dashboard.js", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == get(server, "/dashboard.js")[2]
    assert get(server, "/dashboard.js", If_None_Match=headers["ETag"])[0] == 304
    status, headers, body = get(server, "/plotly.js", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1_000_000


@pytest.mark.parametrize("path", ["/", "/api/state", "/healthz", "/plotly.js", "/nothing"])
def test_what_a_browser_may_do(server: DashboardServer, path: str) -> None:
    headers = get(server, path)[1]
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert all(f"{part} 'none'" in policy for part in ("default-src", "frame-ancestors", "base-uri", "form-action"))
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_the_state(server: DashboardServer) -> None:
    status, headers, body = get(server, "/api/state?key=%3Cscript%3E&target=7&lead=x")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
    state = orjson.loads(body)
    assert state["stream"]["description"] == HOSTILE
    assert state["shown"] == {"key": "<script>", "target": 0, "lead": 1}
    long = "x" * 500
    get(server, f"/api/state?key={long}")
    status, headers, body = get(server, f"/api/state?key={long}&lead=2", Accept_Encoding="gzip")
    assert orjson.loads(gzip.decompress(body))["shown"] == {"key": long, "target": 0, "lead": 2}


@pytest.mark.parametrize(
    "path",
    ["/..", "/../pyproject.toml", "/%2e%2e/server.py", "//etc/passwd", "/api", "/api/state/x", "/page/index.html"],
)
def test_only_what_there_is(server: DashboardServer, path: str) -> None:
    assert get(server, path)[0] == 404


@pytest.mark.parametrize("query", ["lead=" + "9" * 400, "target=-1", "lead=%D9%A1", "&".join(["a=1"] * 50), "key=%ff"])
def test_queries_that_ask_for_nothing(server: DashboardServer, query: str) -> None:
    assert get(server, f"/api/state?{query}")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8600", "127.0.0.1.evil.example", "", "["])
def test_a_name_that_somebody_else_points_here(server: DashboardServer, host: str) -> None:
    assert get(server, "/api/state", Host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8600", "10.1.2.3", "tides.EXAMPLE"])
def test_names_that_are_known(server: DashboardServer, host: str) -> None:
    assert get(server, "/", Host=host)[0] == 200


def test_nothing_can_be_changed(server: DashboardServer) -> None:
    assert get(server, "/api/state", "POST")[0] == 501


def test_an_address_that_is_taken(server: DashboardServer) -> None:
    def nothing(**_: Any) -> dict[str, Any]:
        return {}

    with pytest.raises(InputError, match=f"free address, got 127.0.0.1:{server.port}"):
        DashboardServer(nothing, host="127.0.0.1", port=server.port)
    with pytest.raises(InputError, match="--host, --port"):
        DashboardServer(nothing, host="no such name.", port=0)


def test_texts_of_the_data_are_never_markup() -> None:
    """The script has no way to make elements of texts, and no chart is given one as it is."""
    scripts = {path.name: path.read_text() for path in Path("streaming/dashboard/page").glob("*.js")}
    for name, script in scripts.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script), (
            name
        )
    assert "/plotly.js" in page_files()


def test_the_process_is_light() -> None:
    heavy = "{'tensorflow', 'apache_beam', 'plotly', 'pyarrow'}"
    program = f"import sys, streaming.dashboard.dashboard; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
