"""TensorFlow Serving's config files, made of a spec: which models, how requests are batched, metrics, TLS.

The stock `tensorflow_model_server` reads them, and the embedded server too.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from flows.model_config import CONFIG_POLL_S, model_entry
from schemas.errors import InputError, SpecError
from schemas.security_spec import Tls
from schemas.spec import Spec
from schemas.text_spec import TextSpec
from streaming.model_server.config_protos import METRICS_PATH, new_config

REST_PORT = 8501
"""Where TensorFlow Serving's image answers REST requests, and Prometheus."""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """PEM files of a model server that speaks TLS.

    Attributes:
      key: its private key, not encrypted.
      certificate: with what leads to its authority behind it.
      client_ca: the authorities of clients, where each must show a certificate.
    """

    key: Path
    certificate: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """Files that were written, by flag, and all flags of a server that is to use them."""

    files: Mapping[str, Path]
    flags: tuple[str, ...]


def write_serving_config(
    spec: Spec | TextSpec,
    folder: Path,
    *,
    models: str = "/models",
    labels: Mapping[str, int] | None = None,
    identity: ServerIdentity | None = None,
) -> ServingConfig:
    """Writes the files of a model server for one stream.

    Args:
      spec: the stream.
      folder: for the files, which replace older ones; made if it is not there. `models.config` is where the spec's
        `serving.config_file` says, if it does, and keeps its other models. `ssl.config` holds the server's key, so only
        its owner may read it.
      models: the models' folder as the server sees it: an absolute path, or an address such as `s3://bucket/models`.
      labels: names that the server gives to versions.
      identity: of the server, where the spec has `serving.tls`.
    Raises:
      SpecError: the spec wants a label or TLS that is not given here, or the other way round.
      InputError: a file cannot be read or written, or is not what it should be.
    """
    encryption = _ssl(spec.serving.tls, identity)
    models_file = Path(spec.serving.config_file or folder / "models.config").absolute()
    _write_models(models_file, spec, models, labels or {})
    texts = {
        "batching_parameters_file": ("batching.config", _batching(spec)),
        "monitoring_config_file": ("monitoring.config", _monitoring()),
    }
    if encryption is not None:
        texts["ssl_config_file"] = ("ssl.config", encryption)
    files = {"model_config_file": models_file}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for flag, (name, message) in texts.items():
            files[flag] = folder.absolute() / name
            _write(files[flag], text_format.MessageToString(message), secret=flag == "ssl_config_file")
    except OSError as exc:
        raise InputError(f"{folder}: expected a folder to write to, got {exc.strerror}") from exc
    port = spec.serving.address.rpartition(":")[2]
    switches = [f"--port={port}", f"--rest_api_port={REST_PORT}", "--enable_batching=true"]
    switches.append(f"--model_config_file_poll_wait_seconds={CONFIG_POLL_S}")
    return ServingConfig(files, (*switches, *(f"--{flag}={path}" for flag, path in files.items())))


def _write_models(path: Path, spec: Spec | TextSpec, models: str, labels: Mapping[str, int]) -> None:
    """The stream's model among those of a file: the latest versions, or those that the spec pins and labels name.

    How many of the latest, and their labels, stay as they are in a file that is there: a probation may be under way.
    """
    if not models.startswith("/") and "://" not in models:
        raise InputError(
            f"--models: expected an absolute path or an address such as s3://bucket/models, got '{models}'"
        )
    wanted = spec.serving.label
    pinned = {*labels.values(), *([spec.serving.version] if spec.serving.version else [])}
    with model_entry(path, spec.model_name) as entry:
        entry.base_path = f"{models.rstrip('/')}/{spec.model_name}"
        if pinned or entry.model_version_policy.HasField("specific"):
            entry.model_version_policy.Clear()
            entry.version_labels.clear()
        if pinned:
            entry.model_version_policy.specific.versions.extend(sorted(pinned))
            entry.version_labels.update(labels)
        if wanted is not None and wanted not in entry.version_labels:
            raise SpecError(f"$.serving.label: expected the version that '{wanted}' names (--label {wanted}=VERSION)")


def _batching(spec: Spec | TextSpec) -> Any:
    """A request of the consumer is one batch, and all that its group can have under way find room.

    Nothing waits for a batch to fill: a busy server fills it by itself, and an idle one should answer.
    """
    message = new_config("BatchingParameters")
    message.max_batch_size.value = spec.serving.max_batch
    message.batch_timeout_micros.value = 0
    message.max_enqueued_batches.value = spec.topics.input.partitions * spec.serving.max_in_flight
    return message


def _monitoring() -> Any:
    message = new_config("MonitoringConfig")
    message.prometheus_config.enable = True
    message.prometheus_config.path = METRICS_PATH
    return message


def _ssl(client: Tls | None, identity: ServerIdentity | None) -> Any | None:
    """The server's side of the spec's `serving.tls`; None where both say nothing."""
    if client is None and identity is None:
        return None
    if client is None:
        raise SpecError("$.serving.tls: expected a section, as the server is to speak TLS")
    if identity is None:
        raise SpecError("$.serving.tls: expected the server's key and certificate (--server-key, --server-certificate)")
    if (client.certificate is None) != (identity.client_ca is None):
        raise SpecError(
            "$.serving.tls.certificate: expected it together with the authority that the server knows clients by "
            "(--client-ca)"
        )
    message = new_config("SSLConfig")
    _check_pem(identity)
    message.server_key = identity.key.read_text(encoding="ascii")
    message.server_cert = identity.certificate.read_text(encoding="ascii")
    if identity.client_ca is not None:
        message.custom_ca = identity.client_ca.read_text(encoding="ascii")
        message.client_verify = True
    return message


def _check_pem(identity: ServerIdentity) -> None:
    """Raises InputError unless the files are PEM, and the key is the certificate's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asked = identity.certificate
    try:
        context.load_cert_chain(identity.certificate, identity.key, password=lambda: b"")
        if identity.client_ca is not None:
            asked = identity.client_ca
            context.load_verify_locations(identity.client_ca)
    except OSError as exc:  # ssl.SSLError is one
        raise InputError(f"{asked}: expected PEM files of a certificate and its key: {exc}") from exc


def _write(path: Path, text: str, *, secret: bool) -> None:
    """Replaces a file at once, so that a server that starts meanwhile reads all of it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as partial:
        partial.write(text)  # for its owner only
    if not secret:
        os.chmod(partial.name, 0o644)
    os.replace(partial.name, path)
