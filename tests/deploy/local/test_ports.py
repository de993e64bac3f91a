import os
import socket

import pytest

from deploy.local.ports import free_port, require_free
from schemas.errors import LocalStackError


def test_a_free_port_is_free() -> None:
    require_free(free_port(), "a test")


def test_says_who_holds_a_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(LocalStackError, match=rf"port {port} for a test is taken by \S+ \(pid {os.getpid()}\)"):
            require_free(port, "a test")


@pytest.mark.parametrize("port", [-1, 65536])
def test_refuses_what_is_no_port(port: int) -> None:
    with pytest.raises(LocalStackError, match=f"port {port} for a test cannot be used"):
        require_free(port, "a test")
