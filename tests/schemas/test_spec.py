"""The spec: what it accepts, what it says of mistakes, and fingerprints that never change by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import SpecError
from schemas.spec import Spec, load_spec, parse_spec, spec_json_schema
from schemas.text_spec import load_any_spec
from tests.specs import tiny_spec

SPECS = Path("deploy/specs")
WEATHER = SPECS / "weather.yaml"


def weather() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(WEATHER.read_text())
    return document


def problems(document: dict[str, Any]) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(document)
    return str(caught.value).splitlines()


# --- fingerprints ---


def test_golden_fingerprints() -> None:
    """A change of these values is a change of every user's windows: all data sets and models would be refused."""
    document = weather()
    document["stream"]["features"].append({"name": "time_of_year", "role": "future", "calendar": "time_of_year"})
    assert parse_spec(document).window_fingerprint == "8545bd20a0469fa31e60e1a4cd9f12d4"
    assert tiny_spec().window_fingerprint == "fe61af31526a089b96782efbc7e837c4"
    assert tiny_spec(model={"family": "lstm", "units": 8}).fingerprint == "ae7e7d64096b299278607f7a542d7c9e"


@pytest.mark.parametrize(
    "change",
    [
        {"stream": {"description": "other words"}},
        {"stream": {"key": "station"}},
        {"stream": {"time": {"field": "t", "format": "epoch_s"}}},
        {"grid": {"lateness": "0s"}},  # written out, but the default
        {"window": {"stride": 1}},
        {"kafka": {"bootstrap_servers": "broker:9092"}},
        {"model": {"family": "lstm"}},
    ],
)
def test_what_does_not_change_windows_does_not_change_their_fingerprint(change: dict[str, Any]) -> None:
    assert tiny_spec(**change).window_fingerprint == tiny_spec().window_fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"grid": {"step": "20ms"}},
        {"grid": {"lateness": "5ms"}},
        {"window": {"past": 4}},
        {"window": {"stride": 2}},
        {"stream": {"time_range": ["2000-01-01", "2001-01-01"]}},
        {"stream": {"features": [{"name": "load", "role": "target", "unit": "kW"}]}},
        {"stream": {"features": [{"name": "load", "role": "target", "type": "integer"}]}},
    ],
)
def test_what_changes_windows_changes_their_fingerprint(change: dict[str, Any]) -> None:
    assert tiny_spec(**change).window_fingerprint != tiny_spec().window_fingerprint


def test_the_embedded_document_gives_the_same_spec() -> None:
    spec = load_spec(WEATHER, {"TIDEGAUGE_KAFKA__BOOTSTRAP_SERVERS": "elsewhere:9092"})
    embedded = spec.semantic_document()
    assert set(embedded) <= {"stream", "grid", "window", "split", "model", "training"}
    assert parse_spec(embedded).fingerprint == spec.fingerprint


# --- mistakes ---


def test_an_unknown_field_is_refused_with_its_path() -> None:
    document = weather()
    document["window"]["horizn"] = 3
    assert problems(document) == ["spec: $.window.horizn: unknown field; did you mean 'horizon'?"]


@pytest.mark.parametrize(
    ("section", "field", "value", "problem"),
    [
        ("window", "horizon", 0, "$.window.horizon: expected greater than or equal to 1, got 0"),
        ("window", "past", "168", "$.window.past: expected a valid integer, got '168'"),
        ("grid", "step", "1 hour", "$.grid.step: expected a duration such as '15min', '1h' or '0s', got '1 hour'"),
        ("grid", "step", 3600, "$.grid.step: expected a duration such as '15min', '1h' or '0s', got 3600"),
        ("grid", "offset", "2h", "$.grid: offset must be shorter than step"),
        ("window", "min_observed", 169, "$.window: min_observed must be at most past (168)"),
        ("split", "test", ["2013-09-02", "2013-12-01"], "$.split: validation and test overlap"),
        ("model", "units", "many", "$.model.units: expected a valid integer, got 'many'"),
        ("stream", "time", {"field": "t", "zone": "Mars"}, "$.stream.time.zone: expected an IANA time zone"),
    ],
)
def test_a_wrong_value_is_named(section: str, field: str, value: Any, problem: str) -> None:
    document = weather()
    document[section][field] = value
    [line] = problems(document)
    assert line.startswith(f"spec: {problem}")


def test_all_problems_come_at_once() -> None:
    document = weather()
    del document["grid"]["step"]
    document["stream"]["features"][2]["role"] = "answer"
    document["window"]["horizon"] = -1
    assert problems(document) == [
        "spec: $.stream.features[2].role: expected 'target', 'past', 'future', 'static' or 'label', got 'answer'",
        "spec: $.grid.step: expected a value, got none",
        "spec: $.window.horizon: expected greater than or equal to 1, got -1",
    ]


@pytest.mark.parametrize(
    ("feature", "problem"),
    [
        ({"role": "future"}, r"features\[1\]: a feature of the role 'future' has a 'calendar' or a 'lead'"),
        ({"role": "future", "calendar": "time_of_day", "lead": 2}, "has a 'calendar' or a 'lead'"),
        ({"role": "past", "lead": 2}, "no other role has one"),
        ({"role": "past", "zone": "Europe/Berlin"}, "only a calendar has a 'zone'"),
        ({"role": "past", "table": {"a": 1.0}}, "only a feature of the role 'static'"),
        (
            {"role": "static", "table": {"a": "one"}},
            "value for 'a' must be of the type 'number', got 'one'",
        ),
        ({"role": "static", "type": "integer", "table": {"a": 1.5}}, "must be of the type 'integer', got 1.5"),
        ({"role": "past", "type": "category"}, "has 'categories' that differ"),
        ({"role": "past", "categories": ["a"]}, "no other type has any"),
        ({"role": "past", "type": "category", "categories": ["a", "a"]}, "has 'categories' that differ"),
        ({"role": "target", "type": "category", "categories": ["a"]}, "a category is no target"),
        ({"role": "past", "type": "category", "categories": ["a"], "aggregate": "mean"}, "'last' or 'count'"),
        ({"role": "past", "type": "category", "categories": ["NA"]}, "'NA' is a category .* spells a missing value"),
        ({"role": "future", "calendar": "time_of_day", "type": "integer"}, "a calendar is a number"),
        ({"role": "future", "lead": 1}, r"\$: the lead of 'other' must be at least horizon \(2\)"),
        ({"role": "future", "lead": 4}, r"at most past \(3\)"),
    ],
)
def test_a_feature_has_what_its_role_and_type_have(feature: dict[str, Any], problem: str) -> None:
    features = [{"name": "load", "role": "target"}, {"name": "other", **feature}]
    with pytest.raises(SpecError, match=problem):
        tiny_spec(stream={"features": features})


LABEL = {"name": "kind", "role": "label", "type": "category", "categories": ["a", "b"]}


def test_a_label_takes_the_place_of_targets() -> None:
    spec = tiny_spec(stream={"features": [LABEL, {"name": "load", "role": "past"}]})
    assert [feature.name for feature in spec.stream.inputs] == ["load"]
    assert spec.classes == ("a", "b")
    assert not spec.targets
    assert tiny_spec().stream.inputs == tiny_spec().stream.features
    assert tiny_spec().classes == ()


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        ([{**LABEL, "type": "number", "categories": []}], "a label is of the type 'category'"),
        ([{**LABEL, "aggregate": "count"}], "a label is of the type 'category', and its aggregate is 'last'"),
        ([LABEL, {"name": "load", "role": "target"}], "no other label and no target"),
        ([LABEL, {**LABEL, "name": "other"}], "no other label and no target"),
        ([LABEL, {"name": "hour", "role": "future", "calendar": "time_of_day"}], "at least one feature of the role"),
        ([{"name": "load", "role": "past"}], "the role 'target', or one the role 'label'"),
    ],
)
def test_a_stream_has_targets_or_a_label(features: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        tiny_spec(stream={"features": features})


def test_one_label_is_enough() -> None:
    with pytest.raises(SpecError, match="min_observed_target is for targets"):
        tiny_spec(stream={"features": [LABEL, {"name": "load", "role": "past"}]}, window={"min_observed_target": 2})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stream: [", "expected YAML"),
        ("- 1", "expected sections"),
        ("grid: {step: 1h}\ngrid: {step: 2h}\n", "the field 'grid' is there twice"),
    ],
)
def test_a_file_that_is_no_spec(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=problem) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file() -> None:
    with pytest.raises(SpecError, match=r"nowhere\.yaml: expected a spec file, got No such file"):
        load_spec("nowhere.yaml")


# --- settings ---


def test_the_environment_overrides_settings_only() -> None:
    environment = {
        "TIDEGAUGE_KAFKA__BOOTSTRAP_SERVERS": "broker:9092",
        "TIDEGAUGE_SERVING__MAX_BATCH": "17",
        "TIDEGAUGE_WINDOW__PAST": "1",
    }
    spec = load_spec(WEATHER, environment)
    assert spec.kafka.bootstrap_servers == "broker:9092"
    assert spec.serving.max_batch == 17
    assert spec.window.past == 168


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(WEATHER.read_text() + "\ndataset: {shards: 2}\n")
    text = path.read_text().replace("learning_rate: 0.002", "learning_rate: 3e-3")
    path.write_text(text)
    assert load_spec(path, {}).training.learning_rate == 0.003


def test_topics_are_named_after_the_stream() -> None:
    topics = tiny_spec(kafka={"input": {"name": "raw", "partitions": 7}}).topics
    assert [topics.input.name, topics.predictions.name, topics.late.name, topics.dead_letters.name] == [
        "raw",
        "tiny.predictions",
        "tiny.late",
        "tiny.dead-letters",
    ]
    assert topics.predictions.partitions == 7


def test_the_json_schema_names_every_section() -> None:
    schema = spec_json_schema()
    assert set(schema["properties"]) == set(Spec.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Grid"]["properties"]["step"]["examples"] == ["15min", "1h"]


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.name)
def test_example_specs_are_valid(path: Path) -> None:
    assert load_any_spec(path).stream.name
