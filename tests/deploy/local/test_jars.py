import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.local import jars, kafka
from deploy.local.jars import Jar, fetch, read_lock
from schemas.errors import LocalStackError

CONTENTS = {"alpha": b"the first jar", "beta": b"the second jar"}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "jgo.lock.toml"
    path.write_text(
        "".join(
            f'[[dependencies]]\ngroupId = "org.example"\nartifactId = "{name}"\nversion = "1.0"\n'
            f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n'
            for name, content in CONTENTS.items()
        )
    )
    return path


class Repository:
    """Stands where jgo's downloads are: writes what it has, remembers what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.contents = dict(CONTENTS)
        self.asked: list[str] = []
        monkeypatch.setattr(jars, "_download_one", self.download)

    def download(self, jar: Jar, context: SimpleNamespace) -> Path:
        name = jar.coordinate.split(":")[1]
        self.asked.append(name)
        if name not in self.contents:
            raise LocalStackError(f"cannot download {jar.filename}")
        arrived = Path(context.repo_cache, jar.filename)
        arrived.write_bytes(self.contents[name])
        return arrived


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository(monkeypatch)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_downloads_once(lock: Path, tmp_path: Path, repository: Repository) -> None:
    said: list[str] = []
    expected = [tmp_path / "jars" / "alpha-1.0.jar", tmp_path / "jars" / "beta-1.0.jar"]
    assert fetch(lock, tmp_path / "jars", report=said.append) == expected
    assert fetch(lock, tmp_path / "jars", report=said.append) == expected
    assert repository.asked == ["alpha", "beta"]
    assert len(said) == 1
    assert files(tmp_path / "jars") == ["alpha-1.0.jar", "beta-1.0.jar"]


def test_goes_on_where_a_download_broke_off(lock: Path, tmp_path: Path, repository: Repository) -> None:
    repository.contents["beta"] = CONTENTS["beta"][:5]
    with pytest.raises(LocalStackError, match=r"beta-1\.0\.jar is not the locked org\.example:beta:1\.0"):
        fetch(lock, tmp_path / "jars", report=print)
    assert files(tmp_path / "jars") == ["alpha-1.0.jar"]
    repository.contents["beta"] = CONTENTS["beta"]
    fetch(lock, tmp_path / "jars", report=print)
    assert repository.asked == ["alpha", "beta", "beta"]


def test_names_a_jar_that_cannot_be_had(lock: Path, tmp_path: Path, repository: Repository) -> None:
    del repository.contents["beta"]
    with pytest.raises(LocalStackError, match=r"cannot download beta-1\.0\.jar"):
        fetch(lock, tmp_path / "jars", report=print)


def test_refuses_a_jar_that_was_changed(lock: Path, tmp_path: Path, repository: Repository) -> None:
    changed = fetch(lock, tmp_path / "jars", report=print)[0]
    changed.write_bytes(b"something else")
    with pytest.raises(LocalStackError, match=r"alpha-1\.0\.jar is not the locked .*delete the file"):
        fetch(lock, tmp_path / "jars", report=print)


def test_jgos_errors_are_ours(tmp_path: Path) -> None:
    from jgo.maven import MavenContext

    nowhere = MavenContext(repo_cache=tmp_path, remote_repos={"nowhere": "http://127.0.0.1:1"})
    empty = MavenContext(repo_cache=tmp_path, remote_repos={})
    for context in (nowhere, empty):
        with pytest.raises(LocalStackError, match=r"cannot download alpha-1\.0\.jar \(org\.example:alpha:1\.0\)"):
            jars._download_one(Jar("org.example:alpha:1.0", "alpha-1.0.jar", ""), context)


def test_kafkas_lock_is_whole_and_tells_no_place() -> None:
    locked = read_lock(kafka.LOCK)
    assert len({jar.filename for jar in locked}) == len(locked) > 40
    assert all(len(jar.sha256) == 64 for jar in locked)
    asked_for = ["org.apache.kafka:kafka_2.13:4.1.1", "org.apache.kafka:kafka-clients:4.1.1"]
    assert [jar.coordinate for jar in locked][:2] == asked_for
    assert "//" not in kafka.LOCK.read_text()
