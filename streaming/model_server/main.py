"""`tidegauge-model-server`: TensorFlow Serving's model server from a pip installation."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from streaming.model_server.flags import Flags, parse_flags
from streaming.model_server.logs import set_up_logs
from streaming.model_server.status import StatusError


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, then lets running requests end.

    Args:
      argv: flags; the process's own by default.

    Returns:
      0 after a stop that was asked for, 1 if it cannot start.
    """
    flags = parse_flags(sys.argv[1:] if argv is None else argv)
    set_up_logs(flags.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        _serve(flags, stop)
    except (StatusError, OSError) as error:
        print(f"tidegauge-model-server: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(flags: Flags, stop: threading.Event) -> None:
    # TensorFlow takes seconds to load: a wrong flag or config file is reported before that.
    config = flags.model_server_config()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # TensorFlow's pooling allocator keeps the memory of an unloaded model for ever; the system's gives it back.
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    from streaming.model_server.server import ModelServer

    server = ModelServer(flags, config)
    try:
        addresses = server.start()
        if flags.port_file:
            _write_atomically(flags.port_file, json.dumps({"pid": os.getpid(), **addresses.ports}) + "\n")
        print(f"tidegauge-model-server: listening {addresses}", flush=True)
        while not stop.is_set():
            if server.core.wait_until_ready(0.2):
                print(f"tidegauge-model-server: ready {addresses}", flush=True)
                break
        stop.wait()
    finally:
        server.stop()


def _write_atomically(path: Path, text: str) -> None:
    """Writes a file that a reader finds whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
