"""What is logged to MLflow: with its real client, and its store of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.mlflow_log import log_run
from schemas.registry_record import Lineage, Record
from schemas.retrain_spec import Mlflow

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

REFUSED = Record(
    event="refused",
    time="2013-03-15T00:00:00Z",
    reason="its MAE is 1.2 times the champion's",
    champion=2,
    interval=("2013-03-07T00:00:00Z", "2013-03-14T00:00:00Z"),
    lineage=Lineage(spec="aa", windows="bb", dataset="cc", spans=("x@1", "y@2"), code="1.0"),
    metrics={"mae": 1.5, "skill_linear": None, "broken": float("nan"), "champion": {"mae": 1.25}},
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Mlflow(tracking_uri=(tmp_path / "mlruns").as_uri())


def logged(settings: Mlflow, experiment: str) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def test_a_run_is_logged_once_with_its_scores_origins_and_card(settings: Mlflow, tmp_path: Path) -> None:
    card = tmp_path / "card.html"
    card.write_text("<html>")
    assert log_run(settings, "weather", REFUSED, card)
    assert log_run(settings, "weather", REFUSED, card)
    promoted = REFUSED.model_copy(update={"event": "promoted", "version": 3, "lineage": None})
    assert log_run(settings, "weather", promoted, card)

    third, first = logged(settings, "weather")
    assert first.data.metrics == {"mae": 1.5, "champion/mae": 1.25}
    expected = {"spec": "aa", "windows": "bb", "dataset": "cc", "spans": "x@1 y@2", "code": "1.0", "champion": "2"}
    assert first.data.params == expected
    assert first.data.tags["tidegauge.outcome"] == "refused"
    assert first.data.tags["mlflow.note.content"] == REFUSED.reason
    assert first.info.status == "FINISHED"
    client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri)
    assert [file.path for file in client.list_artifacts(first.info.run_id)] == ["card.html"]
    assert third.data.tags["tidegauge.version"] == "3"


def test_a_run_that_was_logged_by_half_is_logged_again(settings: Mlflow, tmp_path: Path) -> None:
    assert not log_run(settings, "weather", REFUSED, tmp_path / "missing.html")
    (tmp_path / "card.html").write_text("<html>")
    assert log_run(settings, "weather", REFUSED, tmp_path / "card.html")
    assert sorted(run.info.status for run in logged(settings, "weather")) == ["FINISHED", "RUNNING"]


def test_a_server_that_is_away_is_a_warning(settings: Mlflow, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = Mlflow(tracking_uri="http://127.0.0.1:9", experiment="x")
    assert not log_run(away, "weather", REFUSED, tmp_path / "card.html")
    assert "was not logged" in caplog.text
