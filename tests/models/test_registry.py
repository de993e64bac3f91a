"""Publishing a version: whole or not at all, and each push its own."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models import layout
from models.registry import push
from schemas.errors import ModelError
from tests.models.conftest import Trained


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_versions_count_up_from_the_highest(trained: Trained, tmp_path: Path) -> None:
    assert push(trained.run, tmp_path / "base", "load") == 1
    (tmp_path / "base" / "load" / "41").mkdir()
    (tmp_path / "base" / "load" / "notes").mkdir()
    assert push(trained.run, tmp_path / "base", "load") == 42
    assert push(trained.run, tmp_path / "base", "other") == 1
    assert names_in(tmp_path / "base" / "load") == {"1", "41", "42", "notes"}
    assert files_of(tmp_path / "base" / "load" / "42") == files_of(trained.run / layout.EXPORT_FOLDER)


def test_pushes_at_once_get_a_version_each(trained: Trained, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: push(trained.run, tmp_path, "load"), range(16)))
    assert sorted(versions) == list(range(1, 17))
    assert names_in(tmp_path / "load") == {str(version) for version in versions}


def test_a_version_that_another_push_takes_first_is_not_overwritten(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        if target.name == "1":
            target.mkdir()
            (target / "theirs").touch()
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert push(trained.run, tmp_path, "load") == 2
    assert files_of(tmp_path / "load" / "1") == {"theirs": b""}


def test_a_version_is_whole_when_it_appears(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[set[str]] = []
    copy, rename = shutil.copy2, os.rename

    def watched_copy(*args: Any, **kwargs: Any) -> Any:
        before.append(names_in(tmp_path / "load"))
        return copy(*args, **kwargs)

    def watched_rename(source: Path, target: Path) -> None:
        assert files_of(source) == files_of(trained.run / layout.EXPORT_FOLDER)
        rename(source, target)

    # `copytree` took `copy2` as its default when it was defined.
    monkeypatch.setattr(shutil.copytree, "__kwdefaults__", None)
    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, watched_copy, False, False))
    monkeypatch.setattr(os, "rename", watched_rename)
    assert push(trained.run, tmp_path, "load") == 1
    assert len(before) == len(files_of(trained.run / layout.EXPORT_FOLDER))
    assert all(len(names) == 1 and not any(name.isdecimal() for name in names) for names in before)


def test_a_push_that_fails_leaves_nothing(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=r"cannot publish .*No space left"):
        push(trained.run, tmp_path, "load")
    assert names_in(tmp_path / "load") == set()


@pytest.mark.parametrize("name", ["", "../other", "a/b", ".hidden", "two words"])
def test_a_name_is_a_name(trained: Trained, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="expected a model name"):
        push(trained.run, tmp_path / "base", name)
    assert names_in(tmp_path) == set()


def test_only_a_whole_export_is_published(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected an exported model"):
        push(tmp_path, tmp_path / "base", "load")
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    weights = next((run / layout.EXPORT_FOLDER / "variables").glob("variables.data*"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match="sha256 differs"):
        push(run, tmp_path / "base", "load")
    weights.unlink()
    with pytest.raises(ModelError, match="No such file"):
        push(run, tmp_path / "base", "load")
    (run / layout.EXPORT_FOLDER / layout.MODEL_FILE).write_text("[]")
    with pytest.raises(ModelError, match="expected the record of an exported model"):
        push(run, tmp_path / "base", "load")
    assert not (tmp_path / "base").exists()
