"""Java libraries by coordinates and sha256: downloaded once, checked at every use.

A folder such as `kafka_jars/` holds `jgo.toml`, the coordinates that we ask for, and `jgo.lock.toml`, every jar that
they resolve to with its sha256. To move to another version, edit the first and write the second anew:

    cd deploy/local/kafka_jars && jgo --resolver python lock

At run time nothing is resolved: exactly the locked jars are fetched, and a class path holds nothing else.
"""

from __future__ import annotations

import hashlib
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import LocalStackError

if TYPE_CHECKING:
    from jgo.maven import MavenContext


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar: `group:artifact:version`, its file name, and the sha256 of its bytes in hexadecimal."""

    coordinate: str
    filename: str
    sha256: str


def read_lock(lock: Path) -> list[Jar]:
    """The jars of a `jgo.lock.toml`, in class path order."""
    entries = tomllib.loads(lock.read_text())["dependencies"]
    return [
        Jar(
            coordinate=f"{entry['groupId']}:{entry['artifactId']}:{entry['version']}",
            filename=f"{entry['artifactId']}-{entry['version']}.jar",
            sha256=entry["sha256"],
        )
        for entry in entries
    ]


def fetch(lock: Path, folder: Path, *, report: Callable[[str], None]) -> list[Path]:
    """Brings the locked jars into `folder` and checks every one; what is there already is not downloaded again.

    A jar is moved into the folder only after its sum was found right, so an interrupted download is begun anew and
    never used. Several processes may call this at once.

    Args:
        lock: A `jgo.lock.toml`.
        folder: Where the jars lie; made if it does not exist.
        report: Is told, in words, before a download begins.

    Returns:
        The jars' paths, in class path order.

    Raises:
        LocalStackError: A jar cannot be downloaded, or its bytes are not the locked ones.
    """
    from filelock import FileLock

    jars = read_lock(lock)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            missing = [jar for jar in jars if not (folder / jar.filename).exists()]
            if missing:
                report(f"downloading {len(missing)} jars to {folder}")
                _download(missing, folder)
            for jar in jars:
                _check(jar, folder / jar.filename)
    except OSError as exc:
        raise LocalStackError(f"the jars in {folder} cannot be used: {exc}") from exc
    return [folder / jar.filename for jar in jars]


def _download(jars: list[Jar], folder: Path) -> None:
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as incoming:
        context = MavenContext(repo_cache=Path(incoming))
        context.remote_repos.update(GlobalSettings.load().repositories)  # a mirror, where the user's jgo.conf has one
        for jar in jars:
            arrived = _download_one(jar, context)
            _check(jar, arrived)
            arrived.replace(folder / jar.filename)


def _download_one(jar: Jar, context: MavenContext) -> Path:
    try:
        return Path(context.create_dependency(jar.coordinate).artifact.resolve())
    except (OSError, RuntimeError) as exc:  # jgo lets requests' errors (OSErrors) through, and says "not found" itself
        raise LocalStackError(f"cannot download {jar.filename} ({jar.coordinate}): {exc}") from exc


def _check(jar: Jar, path: Path) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != jar.sha256:
        raise LocalStackError(
            f"{path} is not the locked {jar.coordinate}: expected sha256 {jar.sha256}, got {actual}; "
            "delete the file to download it again"
        )
