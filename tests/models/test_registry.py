"""Publishing a version: whole or not at all, and each push its own."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models import layout
from models.registry import Registry, push
from models.version_files import check_files, identity_of
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
    assert names_in(tmp_path / "base" / "load") == {"1", "41", "42", "notes", "registry"}
    assert files_of(tmp_path / "base" / "load" / "42") == files_of(trained.run / layout.EXPORT_FOLDER)


def test_pushes_at_once_get_a_version_each(trained: Trained, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: push(trained.run, tmp_path, "load"), range(16)))
    assert sorted(versions) == list(range(1, 17))
    assert names_in(tmp_path / "load") == {str(version) for version in versions} | {"registry"}


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


def names(registry: Registry) -> list[str]:
    return sorted(path.name for path in (registry.folder / "registry").iterdir())


def other_model(trained: Trained, folder: Path) -> Path:
    """A run whose export has learned something else."""
    shutil.copytree(trained.run, folder)
    learned = next((folder / layout.EXPORT_FOLDER / "variables").glob("variables.data*"))
    learned.write_bytes(learned.read_bytes()[:-1] + b"?")
    record = folder / layout.EXPORT_FOLDER / layout.MODEL_FILE
    document = json.loads(record.read_bytes())
    name = learned.relative_to(folder / layout.EXPORT_FOLDER).as_posix()
    document["files"][name] = hashlib.sha256(learned.read_bytes()).hexdigest()
    record.write_text(json.dumps(document))
    return folder


def test_a_push_is_recorded(trained: Trained, tmp_path: Path) -> None:
    push(trained.run, tmp_path, "load")
    registry = Registry(tmp_path, "load")
    [record] = registry.records()
    assert names(registry) == ["000001-pushed.json"]
    assert (record.event, record.version, record.champion, record.reason) == ("pushed", 1, None, "pushed by hand")
    assert record.run == str(trained.run)
    assert record.lineage is not None
    assert record.lineage.dataset == trained.dataset.digest
    evaluation = json.loads((trained.run / layout.EVALUATION_FILE).read_bytes())
    assert record.metrics["mae"] == evaluation["standardised"]["mae"]


def test_a_rollback_brings_the_last_good_files_back_and_condemns_the_bad_ones(trained: Trained, tmp_path: Path) -> None:
    registry, bad = Registry(tmp_path, "load"), other_model(trained, tmp_path / "bad")
    with pytest.raises(ModelError, match="expected a version to roll back, got none"):
        registry.restore(None, reason="worse")
    registry.publish(trained.run, reason="first")
    with pytest.raises(ModelError, match="expected a version before 1 to go back to, got none"):
        registry.restore(None, reason="worse")
    registry.publish(bad, reason="second")
    record = registry.restore(None, reason="worse")
    assert (record.version, record.rollback_of, record.restored) == (3, 2, 1)
    assert registry.champion() == 3
    restored, first = files_of(registry.path(3)), files_of(registry.path(1))
    told = json.loads(restored.pop(layout.MODEL_FILE))["rollback"]
    assert told == {"rollback_of": 2, "restored": 1, "reason": "worse"}
    first.pop(layout.MODEL_FILE)
    assert restored == first
    check_files(registry.path(3))

    with pytest.raises(ModelError, match=r"is the model of version 2 of 'load', which was taken back: worse"):
        registry.publish(bad, reason="again")
    with pytest.raises(ModelError, match="expected a version before 3 to go back to"):
        registry.restore(None, reason="worse too")  # 2 is condemned, and 1 is the same model as 3
    # Asked again for the same version it says what was done; by hand even a condemned version comes back.
    assert registry.restore(None, reason="asked again", bad=2) == record
    with pytest.raises(ModelError, match="expected to roll back the champion, 3, got 1"):
        registry.restore(None, reason="late", bad=1)
    assert registry.restore(2, reason="a mistake").version == 4
    assert set(registry.condemned()) == {identity_of(registry.path(1))}
    assert names(registry)[-1] == "000004-rolled_back.json"


def test_a_rollback_that_was_killed_before_its_record_is_recorded_by_the_next(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path, "load")
    registry.publish(trained.run, reason="first")
    registry.publish(other_model(trained, tmp_path / "bad"), reason="second")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)  # which is how a record appears
        with pytest.raises(KeyboardInterrupt):
            registry.restore(None, reason="worse", bad=2)
    assert (registry.champion(), registry.record_of(3)) == (3, None)
    record = registry.restore(None, reason="worse", bad=2)
    assert (record.version, record.rollback_of, record.restored, record.reason) == (3, 2, 1, "worse")
    assert registry.versions() == [1, 2, 3]
    assert [one.event for one in registry.records()] == ["pushed", "pushed", "rolled_back"]


def test_a_promotion_that_was_killed_before_its_record_is_not_published_twice(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, better = Registry(tmp_path, "load"), other_model(trained, tmp_path / "better")
    registry.publish(trained.run, reason="first")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.publish(better, reason="better", event="promoted", instead_of=1)
    for _ in range(2):
        assert registry.publish(better, reason="better", event="promoted", instead_of=1) == 2
    assert [(one.event, one.version, one.champion) for one in registry.records()] == [
        ("pushed", 1, None),
        ("promoted", 2, 1),
    ]
    with pytest.raises(ModelError, match="expected version 1 to be the champion still, got 2"):
        registry.publish(trained.run, reason="too late", event="promoted", instead_of=1)


def test_a_version_that_never_served_is_withdrawn_and_its_number_is_not_used_again(
    trained: Trained, tmp_path: Path
) -> None:
    registry, broken = Registry(tmp_path, "load"), other_model(trained, tmp_path / "broken")
    registry.publish(trained.run, reason="first")
    registry.publish(broken, reason="second")
    with pytest.raises(ModelError, match="expected to withdraw the champion, got 1"):
        registry.withdraw(1, reason="never loaded")
    record = registry.withdraw(2, reason="never loaded")
    assert registry.withdraw(2, reason="again") == record
    assert registry.versions() == [1]
    with pytest.raises(ModelError, match="taken back: never loaded"):
        registry.publish(broken, reason="again")
    shutil.rmtree(broken)
    assert registry.publish(trained.run, reason="third") == 3


def test_pruning_deletes_and_says_so(trained: Trained, tmp_path: Path) -> None:
    registry = Registry(tmp_path, "load")
    for _ in range(3):
        registry.publish(trained.run, reason="again")
    with pytest.raises(ModelError, match="expected to keep the champion, 3"):
        registry.prune([3], reason="old")
    registry.prune([1], reason="old")
    assert registry.versions() == [2, 3]
    assert names_in(registry.folder) == {"2", "3", "registry"}
    assert (registry.records()[-1].event, registry.records()[-1].version) == ("pruned", 1)


def test_a_record_that_is_none_is_told(trained: Trained, tmp_path: Path) -> None:
    registry = Registry(tmp_path, "load")
    registry.publish(trained.run, reason="first")
    (registry.folder / "registry" / "000002-pushed.json").write_text("{}")
    with pytest.raises(ModelError, match=r"000002-pushed.json: expected a record of the registry"):
        registry.records()
