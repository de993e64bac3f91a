"""A stack that asks who we are: TLS with certificates of our own making, SASL, and secrets that stay secret."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from deploy.local.ports import free_port
from flows.serving_config import ServerIdentity, write_serving_config
from flows.verify import read_predictions
from pipelines.sources.kafka_source import match_ranges
from schemas.errors import BrokerError, SpecError
from schemas.settings_spec import Kafka as KafkaSection
from schemas.spec import load_spec, parse_spec
from streaming.model_server.config_protos import METRICS_PATH
from streaming.serving_protos import GetModelStatusRequest, ModelServiceStub
from streaming.topics import TopicAdmin, connect
from tests.certificates import Certificates
from tests.conformance.server_process import ServerProcess
from tests.conftest import Kafka
from tests.e2e.conftest import MODEL, LiveStream, Models
from tests.e2e.test_accuracy import score
from tests.e2e.test_stream import assert_exactly_once, history, send
from tests.specs import tiny_spec

PASSWORD = "open sesame"


@pytest.fixture(scope="module")
def secured(kafka: Kafka, certificates: Certificates) -> Callable[..., dict[str, Any]]:
    """Makes `kafka` sections for the secured listener, where the user `alice` has one password everywhere."""
    admin = connect(KafkaAdminClient, kafka.bootstrap)
    mechanisms = (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
    for mechanism in mechanisms:
        [refusal] = admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("alice", mechanism, PASSWORD)]
        ).values()
        assert refusal is None
    admin.close()

    def section(mechanism: str = "SCRAM-SHA-512", **changes: Any) -> dict[str, Any]:
        sasl = {"mechanism": mechanism, "username": "alice", "password": {"env": "ALICE_S_PASSWORD"}}
        return {
            "bootstrap_servers": kafka.secured,
            "security": {"sasl": sasl, "tls": certificates.tls} | changes,
        }

    return section


def kafka_section(document: dict[str, Any]) -> KafkaSection:
    return tiny_spec(kafka=document).kafka


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_mechanisms(secured: Callable[..., dict[str, Any]], mechanism: str, tmp_path: Path) -> None:
    """Each lets us in, and the password is not even in kafka-python's debug log."""
    log, said = logging.getLogger("kafka"), io.StringIO()
    handler = logging.StreamHandler(said)
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.DEBUG)
    document = secured(mechanism)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    document["security"]["sasl"]["password"] = {"file": str(tmp_path / "password")}
    with TopicAdmin(kafka_section(document)) as admin:
        assert admin.describe("no-such-topic") is None
    log.setLevel(before)
    log.removeHandler(handler)
    assert "SaslHandshakeRequest" in said.getvalue()
    assert PASSWORD not in said.getvalue()


@pytest.mark.parametrize(
    ("changes", "password", "why"),
    [
        ({}, "guess", "(?i)password|authenticat"),
        ({"tls": {}}, PASSWORD, "(?i)certificate"),
    ],
    ids=["wrong password", "unknown authority"],
)
def test_who_is_not_let_in(
    secured: Callable[..., dict[str, Any]],
    changes: dict[str, Any],
    password: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALICE_S_PASSWORD", password)
    with pytest.raises(BrokerError, match=why) as caught:
        TopicAdmin(kafka_section(secured(**changes)), timeout_s=2)
    assert password not in str(caught.value)


@pytest.fixture
def secured_models(
    models: Models, certificates: Certificates, tmp_path: Path
) -> Iterator[tuple[ServerProcess, dict[str, Any]]]:
    """A model server by the files made of the spec, which takes nobody without a certificate; the spec's section."""
    section = {"address": f"127.0.0.1:{free_port()}", "model": MODEL, "tls": certificates.tls}
    both = Path(certificates.path("server"))
    config = write_serving_config(
        tiny_spec(serving=section),
        tmp_path / "config",
        models=str(models.folder.parent),
        identity=ServerIdentity(both, both, Path(certificates.path("ca"))),
    )
    flags = [*config.flags, "--rest_api_port=-1"]
    with ServerProcess(tmp_path / "server", *flags) as server:
        yield server, section


def test_the_whole_path(
    live: LiveStream,
    secured: Callable[..., dict[str, Any]],
    secured_models: tuple[ServerProcess, dict[str, Any]],
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SCRAM over TLS to Kafka and certificates on both sides to the model server, in processes of their own.

    The consumer predicts, `tidegauge accuracy` scores; predictions and backfills are read back here. No word that was
    said holds the password or a key.
    """
    server, serving = secured_models
    monkeypatch.setenv("ALICE_S_PASSWORD", PASSWORD)
    send(live, history(40, 200, "xyz"))
    document = yaml.safe_load(live.spec_file.read_text())
    document["kafka"] |= secured()
    document["serving"] = serving
    live.spec_file.write_text(yaml.safe_dump(document))
    command = live.command("--from", "earliest", "--until-end", "--progress")
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["in"] == 200
    spec = load_spec(live.spec_file, {})
    topics = spec.topics
    assert sum(1 for _ in read_predictions(spec, topics.predictions.name)) == counts["predictions"] > 0
    assert len(match_ranges(spec, f"kafka:{topics.input.name}")) > 0
    scored = score(live)
    assert scored["predictions"] == counts["predictions"]
    assert scored["scored"] > 0
    assert_exactly_once(live)
    # The server was asked in batches, and by nobody without a certificate.
    with urllib.request.urlopen(f"{server.rest}{METRICS_PATH}", timeout=10) as page:
        assert ":tensorflow:serving:batching_session:wrapped_run_count" in page.read().decode()
    with grpc.insecure_channel(serving["address"]) as channel, pytest.raises(grpc.RpcError):
        ModelServiceStub(channel).GetModelStatus(GetModelStatusRequest(model_spec={"name": MODEL}), timeout=5)
    said = done.stderr + server.log.read_text() + "".join(server.lines)
    keys = [Path(certificates.path(name)).read_text().splitlines()[1] for name in ("server", "client.key")]
    assert not any(secret in said for secret in (PASSWORD, *keys))


@pytest.mark.parametrize(
    ("security", "why"),
    [
        ({"sasl": {"mechanism": "PLAIN", "username": "a", "password": "hunter2"}}, "and not the secret"),
        ({"sasl": {"mechanism": "PLAIN", "username": "a", "password": {}}}, "expected either env or file"),
        ({"sasl": "PLAIN:a:hunter2"}, r"\$\.kafka\.security\.sasl: "),
        ({"tls": {"certificate": "hunter2"}}, "expected certificate and key together"),
    ],
)
def test_a_secret_in_a_spec_is_refused_and_not_repeated(security: dict[str, Any], why: str) -> None:
    document = tiny_spec().model_dump(mode="json", exclude_defaults=True)
    with pytest.raises(SpecError, match=why) as caught:
        parse_spec(document | {"kafka": {"security": security}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("security", "why"),
    [
        (
            {"sasl": {"mechanism": "PLAIN", "username": "a", "password": {"env": "NOT_SET_HERE"}}},
            r"sasl\.password: expected the secret in the environment variable NOT_SET_HERE, which is not set",
        ),
        (
            {"sasl": {"mechanism": "PLAIN", "username": "a", "password": {"file": "/no/such"}}},
            "expected a file with the secret: .*/no/such",
        ),
        ({"tls": {"ca": "/no/such.pem"}}, r"tls\.ca: expected a PEM file: .*/no/such\.pem"),
        ({"tls": {"ca": __file__}}, "expected PEM files of certificates"),
    ],
)
def test_what_the_spec_names_is_not_there(security: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        TopicAdmin(kafka_section({"security": security}))
