from pathlib import Path

import pytest

from deploy.local.state import MARKER, claim, default_state_dir, is_claimed
from schemas.errors import LocalStackError


def test_claims_a_new_an_empty_and_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        assert not is_claimed(folder)
        assert claim(folder) == folder
        assert is_claimed(folder)
        (folder / "data").write_text("kept")
        assert claim(folder) == folder
        assert (folder / ".gitignore").read_text() == "*\n"


def test_refuses_a_folder_of_someone_else_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(LocalStackError, match=r"not a Tidegauge state folder.*thesis\.tex"):
        claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_default_folder_may_hold_models_before_anything_was_started(tmp_path: Path) -> None:
    models = tmp_path / ".tidegauge" / "models"
    models.mkdir(parents=True)

    assert is_claimed(claim(models.parent))


def test_refuses_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalStackError, match="cannot be used"):
        claim(tmp_path / "file")
    assert not (tmp_path / MARKER).exists()


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDEGAUGE_HOME", raising=False)
    assert default_state_dir() == tmp_path / ".tidegauge"
    monkeypatch.setenv("TIDEGAUGE_HOME", "elsewhere")
    assert default_state_dir() == tmp_path / "elsewhere"
