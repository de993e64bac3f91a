"""Where retraining keeps what it makes, and the lock that lets one run of a stream work at a time.

<paths.state>/retrain/<stream>/
windows-<fingerprint>/spans/     what each interval has added, for all coming runs
<interval>/journal.json          finished steps, and what came of the run
<interval>/dataset/              the run's own splits, cut from the spans
<interval>/run/                  the candidate's training run
<interval>/champion/             the champion's evaluation on the same slice
<interval>/card.html             the run card
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import ModelError
from schemas.spec import Spec
from schemas.units import ms_to_iso

CARD_FILE = "card.html"

_RUN = re.compile(r"\d{4,}T[\d.]+Z_\d{4,}T[\d.]+Z")


def stream_folder(spec: Spec) -> Path:
    """The folder of a stream's runs and spans."""
    return Path(spec.paths.state) / "retrain" / spec.stream.name


def span_store(spec: Spec) -> Path:
    """The dataset that a stream's spans are in: one for each kind of windows."""
    return stream_folder(spec) / f"windows-{spec.window_fingerprint[:12]}"


def run_folder(spec: Spec, start_ms: int, end_ms: int) -> Path:
    """The folder of an interval's run; their names sort by time."""
    name = "_".join(ms_to_iso(ms).replace("-", "").replace(":", "") for ms in (start_ms, end_ms))
    return stream_folder(spec) / name


def run_folders(spec: Spec) -> list[Path]:
    """The folders of all runs, oldest interval first."""
    folder = stream_folder(spec)
    return sorted(path for path in (folder.iterdir() if folder.is_dir() else ()) if _RUN.fullmatch(path.name))


@contextmanager
def locked(spec: Spec) -> Iterator[bool]:
    """Whether this process may work on the stream's runs and spans: no other one does meanwhile.

    Raises:
      ModelError: the folder cannot be made.
    """
    folder = stream_folder(spec)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as exc:
        raise ModelError(f"{folder}: expected a folder to retrain in: {exc.strerror}") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
