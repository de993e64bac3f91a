"""Predictions as Avro, and the schema registry that gives the schema its id (a small stand-in here)."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fastavro
import numpy as np
import orjson
import pytest

from schemas.avro_prediction import AvroPredictionWriter, read_avro_prediction
from schemas.errors import BrokerError
from schemas.prediction import ModelVersion, Prediction, PredictionWriter
from streaming.schema_registry import prediction_writer
from tests.specs import tiny_spec

SPEC = tiny_spec()
PREDICTION = Prediction(
    key="zażółć",
    origin_ms=1_700_000_000_000,
    mean=np.array([[1.5], [-2.25]], np.float32),
    last_observed=np.array([0.1], np.float32),
    last_observed_ms=np.array([1_699_999_999_990]),
    observed_fraction=0.875,
    window_digest="7420dc900d16df8e",
    model=ModelVersion("tiny", 3, "f" * 32),
    levels=(0.05, 0.95),
    quantiles=np.array([[[1.0, 2.0]], [[-3.0, 0.1]]], np.float32),
    latency_ms=12.5,
)
SCHEMA = json.loads(Path("schemas/avro/prediction.avsc").read_text())


@pytest.mark.parametrize("schema_id", [None, 1, 77])
def test_avro_says_what_json_says(schema_id: int | None) -> None:
    value = AvroPredictionWriter(SPEC, schema_id).value(PREDICTION)
    wanted = orjson.loads(PredictionWriter(SPEC).value(PREDICTION))
    head = b"" if schema_id is None else b"\0" + struct.pack(">I", schema_id)
    assert value.startswith(head)
    found: Any = fastavro.schemaless_reader(io.BytesIO(value[len(head) :]), SCHEMA, None)
    assert read_avro_prediction(value) == found
    [target], [wanted_target] = found.pop("targets"), wanted.pop("targets")
    assert found == wanted
    # JSON has the fewest digits that give the same float32.
    for name in ("mean", "last_observed"):
        assert np.array_equal(np.float32(target.pop(name)), np.float32(wanted_target.pop(name)))
    quantiles, wanted_quantiles = target.pop("quantiles"), wanted_target.pop("quantiles")
    assert list(quantiles) == list(wanted_quantiles) == ["0.05", "0.95"]
    assert all(np.array_equal(np.float32(quantiles[level]), np.float32(wanted_quantiles[level])) for level in quantiles)
    assert target == wanted_target


def test_a_model_without_quantiles() -> None:
    plain = replace(PREDICTION, levels=(), quantiles=np.zeros((2, 1, 0), np.float32))
    [target] = read_avro_prediction(AvroPredictionWriter(SPEC).value(plain))["targets"]
    assert target["quantiles"] is None


def test_an_old_reader_reads_what_comes_later_and_a_new_one_what_was() -> None:
    later = json.loads(json.dumps(SCHEMA))
    later["fields"].append({"name": "of_tomorrow", "type": ["null", "string"], "default": None})
    value = AvroPredictionWriter(SPEC).value(PREDICTION)
    found: Any = fastavro.schemaless_reader(io.BytesIO(value), SCHEMA, later)
    assert found["of_tomorrow"] is None
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, later, found | {"of_tomorrow": "news"})
    old: Any = fastavro.schemaless_reader(io.BytesIO(buffer.getvalue()), later, SCHEMA)
    assert old == read_avro_prediction(value)


def test_the_content_type_tells_them_apart() -> None:
    for writer, kind in (
        (PredictionWriter(SPEC), b"application/json"),
        (AvroPredictionWriter(SPEC), b"application/avro"),
    ):
        assert dict(writer.headers(PREDICTION))["content-type"] == kind


@pytest.mark.parametrize("value", [b"", b"\0\0", b'{"key": 1}'])
def test_what_is_no_prediction(value: bytes) -> None:
    with pytest.raises(ValueError, match="expected an Avro prediction"):
        read_avro_prediction(value)


@pytest.fixture
def registry() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Gives every schema the id 77, but for subjects that it does not like; and what it was asked."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            bad = "refused" in self.path
            reply = json.dumps({"error_code": 409, "message": "incompatible"} if bad else {"id": 77}).encode()
            self.send_response(409 if bad else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_the_registry_gives_the_id(registry: tuple[str, list[tuple[str, Any]]]) -> None:
    url, asked = registry
    writer = prediction_writer(tiny_spec(kafka={"value_format": "avro", "avro": {"registry": url}}))
    assert writer.value(PREDICTION)[:5] == b"\0\0\0\0\x4d"
    [(path, body)] = asked
    assert path == "/subjects/tiny.predictions-value/versions"
    assert json.loads(body["schema"]) == SCHEMA


def test_a_registry_that_refuses_or_is_away(registry: tuple[str, list[tuple[str, Any]]]) -> None:
    url, _ = registry
    settings = {"value_format": "avro", "predictions": {"name": "refused"}, "avro": {"registry": url}}
    with pytest.raises(BrokerError, match=r"refused-value: expected an id, got 409: .*incompatible"):
        prediction_writer(tiny_spec(kafka=settings))
    settings["avro"] = {"registry": "http://127.0.0.1:1"}
    with pytest.raises(BrokerError, match=r"schema registry http://127\.0\.0\.1:1: .*refused"):
        prediction_writer(tiny_spec(kafka=settings))


def test_formats_by_the_spec() -> None:
    assert type(prediction_writer(SPEC)) is PredictionWriter
    by_id = prediction_writer(tiny_spec(kafka={"value_format": "avro", "avro": {"schema_id": 5}}))
    assert by_id.value(PREDICTION)[:5] == b"\0\0\0\0\x05"
