"""What is kept, what is listed, and who is told: with models that are a few bytes."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import tidegauge
from flows.model_list import list_models
from flows.notify import notify
from flows.prune import prune
from flows.retrain_folders import run_folder, span_store
from flows.retrain_plan import plan_of
from flows.rollback import roll_back
from flows.run_card import write_card
from flows.span_dataset import store_spec
from models.registry import Registry
from pipelines.ingest import ingest
from schemas.documents import read_document
from schemas.errors import ModelError
from schemas.retrain_spec import Notify
from schemas.spec import Spec, parse_spec
from schemas.split_spec import DateSplit
from schemas.units import iso_to_ms
from tests.specs import tiny_spec

DAY_MS = 86_400_000


def loop_spec(folder: Path, **retraining: Any) -> Spec:
    return tiny_spec(
        grid={"step": "1h"},
        model={"family": "persistence"},
        retrain={"interval": "1d", "range": "2d"} | retraining,
        paths={"state": str(folder / "state"), "models": str(folder / "models")},
    )


def lay_run(folder: Path, weights: str, trained_to: str | None = None) -> Path:
    """A run whose export has these weights."""
    export = folder / "export"
    (export / "variables").mkdir(parents=True)
    (export / "assets.extra").mkdir()
    (export / "variables" / "data").write_text(weights)
    digest = hashlib.sha256(weights.encode()).hexdigest()
    document: dict[str, Any] = {
        "run": str(folder),
        "files": {"variables/data": digest},
        "metrics": {"standardised": {"mae": 0.5}},
    }
    if trained_to is not None:
        document["lineage"] = {"splits": {"train": {"last_origin_ms": iso_to_ms(trained_to)}}}
    (export / "assets.extra" / "model.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return loop_spec(tmp_path, retain={"versions": 1, "runs": 1})


@pytest.fixture
def registry(spec: Spec) -> Registry:
    return Registry(spec.paths.models, "tiny")


def test_pruning_keeps_the_champion_the_one_before_it_and_what_a_rollback_needs(spec: Spec, registry: Registry) -> None:
    for number, weights in enumerate("abcc", start=1):
        folder = run_folder(spec, number * DAY_MS, (number + 1) * DAY_MS)
        registry.publish(lay_run(folder / "run", weights), reason="better", event="promoted")
    newest = run_folder(spec, 9 * DAY_MS, 10 * DAY_MS)
    newest.mkdir(parents=True)
    planned = prune(spec, dry_run=True)
    # 4 is the champion and 3 the same model; 2 is what a rollback would go back to.
    assert (planned.versions, planned.spans) == ((1,), ())
    assert planned.runs == (run_folder(spec, DAY_MS, 2 * DAY_MS).name,)
    assert registry.versions() == [1, 2, 3, 4]
    done = prune(spec)
    assert (done.versions, done.runs) == (planned.versions, planned.runs)
    assert registry.versions() == [2, 3, 4]
    assert not run_folder(spec, DAY_MS, 2 * DAY_MS).exists()
    assert newest.exists()
    assert prune(spec).lines() == ["nothing to delete"]
    found = list_models(spec)
    assert [(one.version, one.state) for one in found.versions] == [
        (1, "gone"),
        (2, "kept"),
        (3, "kept"),
        (4, "champion"),
    ]
    assert roll_back(spec, reason="worse", wait_s=0).restored == 2


def test_pruning_keeps_the_spans_that_the_next_run_trains_on(tmp_path: Path, spec: Spec) -> None:
    events = tmp_path / "events.csv"
    hours = [f"k,{hour * 3_600_000},{hour % 7},1" for hour in range(9 * 24)]
    events.write_text("\n".join(["key,time,load,heat", *hours]) + "\n")
    for interval in (("1970-01-02", "1970-01-03"), ("1970-01-03", "1970-01-05"), ("1970-01-05", "1970-01-08")):
        ingest(store_spec(spec), inputs=[str(events)], output=str(span_store(spec)), interval=interval)
    # The next run is gated on the 8th, after a gap of 5 h and a day of validation, and trained on the 2 days before.
    old = "19700102T000000Z_19700103T000000Z"
    assert prune(spec, dry_run=True).spans == (old,)
    later = spec.retrain.model_copy(update={"retain": spec.retrain.retain.model_copy(update={"spans": 2 * DAY_MS})})
    assert prune(spec.model_copy(update={"retrain": later})).spans == ()
    assert prune(spec).spans == (old,)
    assert len(list((span_store(spec) / "spans").iterdir())) == 2


def test_the_gate_begins_behind_what_the_champion_was_trained_on(
    tmp_path: Path, spec: Spec, registry: Registry
) -> None:
    start_ms, end_ms = iso_to_ms("1970-01-10"), iso_to_ms("1970-01-11")
    first = plan_of(spec, start_ms, end_ms, None)
    assert first.spec is not None
    hour = 3_600_000
    assert isinstance(first.spec.split, DateSplit)
    assert first.spec.split.interval("test") == (start_ms, end_ms)
    assert first.spec.split.interval("validation") == (start_ms - 29 * hour, start_ms - 5 * hour)
    assert first.spec.split.interval("train") == (start_ms - 77 * hour, start_ms - 29 * hour)
    # The champion's last horizon of 2 steps begins at 4:00, and a window is 5 steps long.
    version = registry.publish(lay_run(tmp_path / "one", "a", "1970-01-10T04:00"), reason="by hand")
    moved = plan_of(spec, start_ms, end_ms, version)
    assert moved.spec is not None
    assert isinstance(moved.spec.split, DateSplit)
    assert moved.spec.split.interval("test") == (start_ms + 11 * hour, end_ms)
    assert moved.spec.fingerprint != first.spec.fingerprint
    late = registry.publish(lay_run(tmp_path / "two", "b", "1970-01-10T17:00"), reason="by hand")
    assert plan_of(spec, start_ms, end_ms, late).spec is None


def test_a_card_escapes_what_it_is_told(tmp_path: Path) -> None:
    spec = loop_spec(tmp_path)
    plan = plan_of(spec, 10 * DAY_MS, 11 * DAY_MS, None)
    result = {"outcome": "refused", "reason": "<script>alert('x')</script>", "version": None, "champion": 3}
    write_card(tmp_path / "card.html", spec, plan, {"steps": {}}, result | {"dry_run": True}, None, None)
    card = (tmp_path / "card.html").read_text()
    assert "&lt;script&gt;alert(&#39;x&#39;)" in card
    assert "<script" not in card
    assert "A dry run: nothing was published." in card


class _Hook(BaseHTTPRequestHandler):
    taken: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(json.loads(body))
        self.send_response(500 if self.path == "/broken" else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_and_a_command_are_told(hook: str, tmp_path: Path) -> None:
    command = (sys.executable, "-c", f"import sys; open({str(tmp_path / 'told')!r}, 'w').write(sys.stdin.read())")
    settings = Notify(on=("refused",), webhook=f"{hook}/x", command=command)
    _Hook.taken.clear()
    assert notify(settings, "promoted", {"version": 3})
    assert _Hook.taken == []
    assert notify(settings, "refused", {"reason": "wörse"})
    expected = {"event": "refused", "reason": "wörse"}
    assert _Hook.taken == [expected]
    assert json.loads((tmp_path / "told").read_text()) == expected


@pytest.mark.parametrize(
    "settings",
    [{"webhook": "http://127.0.0.1:9/x"}, {"command": ("false",)}, {"command": ("/no/such/program",)}],
)
def test_that_nobody_could_be_told_is_a_warning(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert not notify(Notify(**settings), "refused", {})
    assert "was not told of 'refused'" in caplog.text


def test_a_webhook_that_fails_is_a_warning(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not notify(Notify(webhook=f"{hook}/broken"), "refused", {})
    assert "500" in caplog.text


def test_the_verbs_tell_what_they_did(
    tmp_path: Path, registry: Registry, spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(json.dumps(spec.model_dump(mode="json", exclude_defaults=True)))
    assert parse_spec(read_document(file, {})) == spec
    assert tidegauge.main(["models", "--spec", str(file)]) == 0
    assert capsys.readouterr().out == "tiny: no versions\n"
    assert tidegauge.main(["rollback", "--spec", str(file), "--reason", "worse"]) == 2
    assert "expected a version to roll back, got none" in capsys.readouterr().err
    for weights in "ab":
        registry.publish(lay_run(tmp_path / weights, weights), reason=f"has <{weights}>")
    assert tidegauge.main(["rollback", "--spec", str(file), "--reason", "worse", "--no-wait", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": "tiny",
        "version": 3,
        "rollback_of": 2,
        "restored": 1,
        "reason": "worse",
    }
    assert tidegauge.main(["models", "--spec", str(file), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["champion"] == 3
    assert [one["state"] for one in listed["versions"]] == ["kept", "taken back", "champion"]
    assert tidegauge.main(["models", "--spec", str(file)]) == 0
    assert "pushed, MAE 0.5: has <a>" in capsys.readouterr().out
    assert tidegauge.main(["prune", "--spec", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out == "would delete version 1\n"  # whose files are version 3's too
    with pytest.raises(ModelError, match="was taken back: worse"):
        registry.publish(tmp_path / "b", reason="again")
