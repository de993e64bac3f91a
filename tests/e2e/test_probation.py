"""Probation on real parts: the accuracy topic, the registry's files, and a model server that follows them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

import flows.probation
from flows.model_config import config_file, prepare
from flows.model_list import list_models
from flows.probation import ProbationResult, probation
from models.layout import EXPORT_FOLDER, MODEL_FILE
from models.registry import Registry
from schemas.accuracy import AccuracyWriter, ScoredPrediction
from schemas.errors import BrokerError, SpecError
from schemas.prediction import ModelVersion, Role
from schemas.spec import Spec
from streaming.serving_client import ServingClient
from streaming.stream_topics import prepare_topics
from streaming.topics import NewTopic, TopicAdmin, connect
from tests.conftest import Kafka
from tests.e2e.conftest import Models, stream_spec

WANTED = 60
KEYS = ("a", "b", "c")


@pytest.fixture
def spec_with(kafka: Kafka, models: Models) -> Callable[..., Spec]:
    """Specs of a model of their own on the model server that all tests share."""

    def make(*, probation: dict[str, Any] | None = None, **serving: Any) -> Spec:
        name = f"probed-{uuid.uuid4().hex[:8]}"
        spec = stream_spec(
            name,
            kafka={"bootstrap_servers": kafka.bootstrap, "input": {"name": f"{name}.events", "partitions": 3}},
            serving={"address": models.address, "config_file": str(models.folder / "models.config"), **serving},
            paths={"models": str(models.folder.parent)},
            retrain={"probation": {"windows": WANTED} | (probation or {}), "wait": "30s"},
        )
        with TopicAdmin(kafka.bootstrap) as admin:
            prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 1_000_000)
            admin.create([NewTopic(spec.topics.accuracy.name, 3, {"retention.ms": "-1"})])
        return spec

    return make


def publish(spec: Spec, saved_model: Path, tmp_path: Path) -> int:
    """Publishes a model that nobody else has the weights of."""
    run = tmp_path / uuid.uuid4().hex
    export = run / EXPORT_FOLDER
    shutil.copytree(saved_model, export)
    (export / "assets").mkdir(exist_ok=True)
    (export / "assets" / "who.txt").write_text(run.name)
    (export / MODEL_FILE).parent.mkdir(exist_ok=True)
    files = {
        path.relative_to(export).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in export.rglob("*")
        if path.is_file()
    }
    (export / MODEL_FILE).write_text(json.dumps({"files": files, "fingerprint": spec.fingerprint}))
    version = Registry(spec.paths.models, spec.model_name).publish(run, reason="a test", event="promoted")
    prepare(spec)
    return version


def served(spec: Spec, *versions: int) -> None:
    """Waits until the server has these versions, and no other."""
    until, found = time.monotonic() + 60, None
    with ServingClient(spec) as client:
        client.wait_until_available(60)
        while found != list(versions):
            assert time.monotonic() < until, found
            time.sleep(0.1)
            found = client.versions_of_ours()


def score(spec: Spec, origins: Sequence[int], version: int, role: Role, bias: float) -> None:
    """Writes what was scored of all keys at some origins: noise that all versions share, and an own bias."""
    writer, producer = AccuracyWriter(spec), connect(KafkaProducer, spec.kafka)
    for origin in origins:
        for key in KEYS:
            rng = np.random.default_rng([origin, ord(key)])
            actual = rng.normal(50, 5, (2, 1)).astype(np.float32)
            noise = rng.normal(0, 1, (2, 1)).astype(np.float32)
            scored = ScoredPrediction(
                key=key,
                origin_ms=1_700_000_000_000 + 10 * origin,
                model=ModelVersion(spec.model_name, version, spec.window_fingerprint),
                role=role,
                targets=("load",),
                units=("MW",),
                steps=spec.scored_steps,
                actual=actual,
                forecast=actual + noise + np.float32(bias),
                persistence=actual + 4,
            )
            value, headers = writer.value(scored), writer.headers(scored)
            producer.send(
                spec.topics.accuracy.name, value, key=key.encode(), headers=headers, timestamp_ms=scored.origin_ms
            )
    producer.flush(timeout=20)
    producer.close(timeout=5)


def told(result: ProbationResult) -> tuple[str, int | None, int]:
    return result.outcome, result.version, result.windows


def test_a_worse_version_is_taken_back_and_a_good_one_stays(
    spec_with: Callable[..., Spec],
    models: Models,
    shifted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a shadow; the old version stays loaded meanwhile, and the server follows to the one that is restored."""
    spec = spec_with(shadow={"share": 1.0})
    registry = Registry(spec.paths.models, spec.model_name)
    assert probation(spec).outcome == "nothing_to_do"
    publish(spec, models.folder / "1", tmp_path)
    assert told(probation(spec)) == ("nothing_to_do", 1, 0)  # the first one has nothing before it
    served(spec, 1)
    score(spec, range(30), 1, "champion", 0.0)

    publish(spec, shifted, tmp_path)
    assert told(probation(spec)) == ("undecided", 2, 0)
    served(spec, 2, 1)
    score(spec, range(30, 45), 2, "champion", 3.0)
    score(spec, range(30, 40), 1, "shadow", 0.0)
    first = probation(spec)
    assert told(first) == ("undecided", 2, 30)  # as far as both have predicted
    assert first.exit_code == 5
    score(spec, range(40, 60), 1, "shadow", 0.0)
    score(spec, range(45, 60), 2, "champion", 3.0)

    with monkeypatch.context() as killed:
        killed.setattr(flows.probation, "_serve_one", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            probation(spec)
    assert told(probation(spec)) == ("nothing_to_do", 3, 0)
    served(spec, 3)
    [record] = [one for one in registry.records() if one.event == "rolled_back"]
    assert (record.version, record.rollback_of, record.restored) == (3, 2, 1)
    said = re.fullmatch(
        r"probation: its MAE is (\S+)% of persistence's, that of version 1 (\S+)%, "
        r"on 60 windows that both predicted \(p = \S+\)",
        record.reason,
    )
    assert said is not None
    # Persistence errs by 4; the mean absolute value of a normal variable of mean 3, and of mean 0.
    assert [float(share) for share in said.groups()] == pytest.approx([100 * 3.0 / 4, 100 * 0.798 / 4], rel=0.15)
    assert "num_versions" not in config_file(spec).read_text().split(spec.model_name)[-1]

    publish(spec, models.folder / "1", tmp_path)
    assert told(probation(spec)) == ("undecided", 4, 0)
    served(spec, 4, 3)
    score(spec, range(60, 80), 4, "champion", 0.1)
    score(spec, range(60, 80), 3, "shadow", 0.0)
    last = probation(spec)
    assert told(last) == ("confirmed", 4, WANTED)
    assert last.p is not None
    assert last.p > 0.05
    assert (last.before, last.wanted, last.exit_code) == (3, WANTED, 0)
    served(spec, 4)
    assert told(probation(spec)) == ("nothing_to_do", 4, 0)
    said = [one.probation or "" for one in list_models(spec).versions]
    assert [text.partition(" since ")[0] for text in said] == ["", "on probation", "", "confirmed"]


def test_a_version_that_forecasts_no_numbers_is_taken_back(
    spec_with: Callable[..., Spec], models: Models, shifted: Path, tmp_path: Path
) -> None:
    """In canary mode: all keys go back to the old version under its label, which moves on to the restored one."""
    spec = spec_with(label="stable", canary={"label": "canary", "share": 0.5}, shadow={"share": 1.0})
    publish(spec, models.folder / "1", tmp_path)
    assert probation(spec).outcome == "nothing_to_do"
    latest = spec.model_copy(update={"serving": spec.serving.model_copy(update={"label": None, "canary": None})})
    served(latest, 1)
    publish(spec, shifted, tmp_path)
    assert told(probation(spec)) == ("undecided", 2, 0)
    served(latest, 2, 1)
    with ServingClient(latest) as client:
        until = time.monotonic() + 30
        found: tuple[int, ...] = ()
        while found != (1, 2):
            assert time.monotonic() < until
            time.sleep(0.1)
            try:
                found = client.version_of_label("stable"), client.version_of_label("canary")
            except Exception:  # not given yet
                continue
        score(spec, range(2), 2, "canary", 0.0)
        score(spec, range(19), 1, "shadow", 0.0)
        assert told(probation(spec)) == ("undecided", 2, 57)
        score(spec, range(19, 20), 1, "shadow", 0.0)
        result = probation(spec)
        assert told(result) == ("rolled_back", 2, WANTED)
        assert "no number in 54 of 60 windows" in result.reason
        assert result.rollback is not None
        assert result.rollback.version == 3
        assert probation(spec).outcome == "nothing_to_do"
        while client.version_of_label("stable") != 3:
            assert time.monotonic() < until + 30
            time.sleep(0.1)
    served(latest, 3, 2)


def test_without_a_shadow_each_version_is_judged_by_its_skill_on_its_own_windows(
    spec_with: Callable[..., Spec], models: Models, tmp_path: Path
) -> None:
    spec = spec_with(probation={"longest": "3s"})
    publish(spec, models.folder / "1", tmp_path)
    score(spec, range(40), 1, "champion", 1.0)
    publish(spec, models.folder / "1", tmp_path)
    assert told(probation(spec)) == ("undecided", 2, 0)
    score(spec, range(40, 60), 2, "champion", 0.0)
    better = probation(spec)
    assert told(better) == ("confirmed", 2, WANTED)
    assert better.error is not None
    assert better.error_before is not None
    assert better.error < better.error_before
    assert "60 windows of its own" in better.reason

    publish(spec, models.folder / "1", tmp_path)
    assert told(probation(spec)) == ("undecided", 3, 0)
    time.sleep(3)
    assert "nothing to compare after 0 windows, of 60 that were wanted" in probation(spec).reason


def test_many_keys_at_few_origins_do_not_decide(spec_with: Callable[..., Spec], models: Models, tmp_path: Path) -> None:
    """What all keys have in common at one moment is no evidence; the windows of so many origins are all taken."""
    spec = spec_with(probation={"windows": 6, "origins": 12})
    publish(spec, models.folder / "1", tmp_path)
    publish(spec, models.folder / "1", tmp_path)
    assert told(probation(spec)) == ("undecided", 2, 0)
    score(spec, range(11), 2, "champion", 0.0)
    assert told(probation(spec)) == ("undecided", 2, 33)
    score(spec, range(11, 15), 2, "champion", 0.0)
    alone = probation(spec)
    assert told(alone) == ("undecided", 2, 36)
    assert alone.reason == "no window of version 1 is scored"
    score(spec, range(20, 35), 1, "champion", 0.0)
    assert told(probation(spec)) == ("confirmed", 2, 36)


def test_what_is_asked_of_the_user(spec_with: Callable[..., Spec], models: Models, tmp_path: Path) -> None:
    spec = spec_with()
    bare = spec.model_copy(update={"retrain": spec.retrain.model_copy(update={"probation": None})})
    with pytest.raises(SpecError, match=r"\$\.retrain\.probation: expected a section"):
        probation(bare)
    publish(spec, models.folder / "1", tmp_path)
    publish(spec, models.folder / "1", tmp_path)
    nowhere = spec.topics.late.model_copy(update={"name": "nowhere"})
    lost = spec.model_copy(update={"kafka": spec.kafka.model_copy(update={"accuracy": nowhere})})
    del lost.__dict__["topics"]  # as `spec` had them
    with pytest.raises(BrokerError, match="nowhere: expected the topic of `tidegauge accuracy`"):
        probation(lost)
