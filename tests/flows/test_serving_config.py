"""TensorFlow Serving's files: what they say of a spec, read back by the messages that the server reads them with."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format

from flows.model_config import serve_versions
from flows.serving_config import ServerIdentity, write_serving_config
from schemas.errors import InputError, SpecError
from streaming.model_server.batching_parameters import batching_parameters
from streaming.model_server.config_protos import read_config
from streaming.model_server.flags import parse_flags
from streaming.serving_protos import ModelConfig, ModelServerConfig
from tests.certificates import Certificates
from tests.specs import tiny_spec
from tidegauge import main


def model_of(path: Path) -> ModelConfig:
    """The one model of a file, as TensorFlow Serving's own message reads it."""
    [entry] = text_format.Parse(path.read_text(), ModelServerConfig()).model_config_list.config
    return entry


def written(folder: Path, *, serving: dict[str, Any] | None = None, **options: Any) -> ModelConfig:
    write_serving_config(tiny_spec(serving=serving or {}), folder, **options)
    return model_of(folder / "models.config")


def identity(certificates: Certificates, *, of_clients: bool = True) -> ServerIdentity:
    """That file has both the key and the certificate."""
    both = Path(certificates.path("server"))
    return ServerIdentity(both, both, Path(certificates.path("ca")) if of_clients else None)


def test_the_latest_version_of_the_streams_model(tmp_path: Path) -> None:
    entry = written(tmp_path)
    assert (entry.name, entry.base_path, entry.model_platform) == ("tiny", "/models/tiny", "tensorflow")
    assert entry.model_version_policy.WhichOneof("policy_choice") is None  # the latest one
    assert written(tmp_path, models="s3://bucket/models/").base_path == "s3://bucket/models/tiny"


def test_pinned_and_labelled_versions_are_all_served(tmp_path: Path) -> None:
    entry = written(tmp_path, serving={"model": "loads", "label": "stable"}, labels={"stable": 7, "canary": 9})
    assert entry.name == "loads"
    assert list(entry.model_version_policy.specific.versions) == [7, 9]
    assert dict(entry.version_labels) == {"stable": 7, "canary": 9}
    entry = written(tmp_path / "other", serving={"version": 3})
    assert list(entry.model_version_policy.specific.versions) == [3]
    with pytest.raises(SpecError, match=r"\$\.serving\.label: expected the version that 'stable' names"):
        written(tmp_path, serving={"label": "stable"})


def test_a_file_that_is_there_keeps_its_other_models_and_a_probation(tmp_path: Path) -> None:
    """And no longer a version that is no longer pinned."""
    path = tmp_path / "shared" / "models.config"
    spec = tiny_spec(serving={"config_file": str(path)}, paths={"models": str(tmp_path)})
    serve_versions(tiny_spec(stream={"name": "other"}, serving={"config_file": str(path)}), 1)
    serve_versions(spec, 2, {"canary": 2})
    write_serving_config(spec, tmp_path / "config")
    assert not (tmp_path / "config" / "models.config").exists()
    other, mine = text_format.Parse(path.read_text(), ModelServerConfig()).model_config_list.config
    assert (other.name, mine.base_path) == ("other", "/models/tiny")
    assert mine.model_version_policy.latest.num_versions == 2
    assert dict(mine.version_labels) == {"canary": 2}
    write_serving_config(spec, tmp_path / "config", labels={"stable": 1})
    write_serving_config(spec, tmp_path / "config")
    _, mine = text_format.Parse(path.read_text(), ModelServerConfig()).model_config_list.config
    assert (mine.model_version_policy.WhichOneof("policy_choice"), dict(mine.version_labels)) == (None, {})


def test_batches_hold_what_a_group_can_have_under_way(tmp_path: Path) -> None:
    spec = tiny_spec(
        serving={"max_batch": 64, "max_in_flight": 3}, kafka={"input": {"name": "events", "partitions": 5}}
    )
    write_serving_config(spec, tmp_path)
    found = batching_parameters(read_config("BatchingParameters", tmp_path / "batching.config"))
    assert (found.max_batch_size, found.max_enqueued_batches, found.batch_timeout_s) == (64, 15, 0.0)


def test_tls_holds_the_texts_and_is_for_its_owner_only(tmp_path: Path, certificates: Certificates) -> None:
    spec = tiny_spec(serving={"tls": certificates.tls})
    path = write_serving_config(spec, tmp_path, identity=identity(certificates)).files["ssl_config_file"]
    config = read_config("SSLConfig", path)
    server, ca = (Path(certificates.path(name)).read_text() for name in ("server", "ca"))
    assert (config.server_key, config.server_cert, config.custom_ca) == (server, server, ca)
    assert config.client_verify
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    spec = tiny_spec(serving={"tls": {"ca": certificates.path("ca")}})
    write_serving_config(spec, tmp_path, identity=identity(certificates, of_clients=False))
    assert not read_config("SSLConfig", path).client_verify


def test_tls_on_one_side_only_is_refused(tmp_path: Path, certificates: Certificates) -> None:
    both, mine = tiny_spec(serving={"tls": certificates.tls}), tiny_spec(serving={"tls": {}})
    for spec, given, why in (
        (both, None, "the server's key"),
        (tiny_spec(), identity(certificates), "expected a section"),
        (both, identity(certificates, of_clients=False), "--client-ca"),
        (mine, identity(certificates), "--client-ca"),
    ):
        with pytest.raises(SpecError, match=why):
            write_serving_config(spec, tmp_path, identity=given)


def test_files_that_are_no_certificates(tmp_path: Path, certificates: Certificates) -> None:
    spec, good = tiny_spec(serving={"tls": certificates.tls}), identity(certificates)
    foreign_key = Path(certificates.path("client.key"))
    for wrong in (
        ServerIdentity(foreign_key, good.certificate, good.client_ca),
        ServerIdentity(good.key, tmp_path / "none.pem", good.client_ca),
        ServerIdentity(good.key, good.certificate, Path(__file__)),
    ):
        with pytest.raises(InputError, match="expected PEM files"):
            write_serving_config(spec, tmp_path, identity=wrong)


def test_the_verb_prints_flags_that_the_server_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(tiny_spec(serving={"address": "models:9000"}).model_dump(mode="json")))
    verb = ["serving-config", "--spec", str(spec), "--output", str(tmp_path / "config")]
    assert main([*verb, "--label", "stable=2", "--json"]) == 0
    flags = parse_flags(json.loads(capsys.readouterr().out)["flags"])
    assert (flags.port, flags.rest_api_port, flags.enable_batching) == (9000, 8501, True)
    assert dict(model_of(flags.model_config_file or tmp_path).version_labels) == {"stable": 2}
    assert main([*verb, "--label", "stable"]) == 2
    assert main([*verb, "--models", "here"]) == 2
    said = capsys.readouterr().err
    assert "NAME=VERSION" in said
    assert "tidegauge: --models: expected an absolute path" in said
