"""Loopback ports: one that is free, and who holds one that is not."""

from __future__ import annotations

import errno
import socket

import psutil  # type: ignore[import-untyped]

from schemas.errors import LocalStackError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free(port: int, purpose: str) -> None:
    """Checks that `port` can be listened on.

    Args:
        port: 1 to 65535.
        purpose: What it is for, as the message calls it ("Kafka's broker").

    Raises:
        LocalStackError: It is taken (the message says by whom, where the system tells), or no port at all.
    """
    try:
        with socket.socket() as probe:
            # As servers do: connections of an earlier run that still linger do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
    except (OSError, OverflowError) as exc:
        if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
            raise LocalStackError(
                f"port {port} for {purpose} is taken{_by_whom(port)}: stop that process or choose another port"
            ) from exc
        raise LocalStackError(f"port {port} for {purpose} cannot be used: {exc}") from exc


def _by_whom(port: int) -> str:
    """` by NAME (pid N)`, or nothing: the system tells only about processes that we may look at."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
