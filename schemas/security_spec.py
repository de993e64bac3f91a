"""How connections are secured: TLS by files, and who we are. A spec never holds a secret, only where it is."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from schemas.errors import SpecError
from schemas.section import Section


class _Unspoken(str):
    """A text that does not show itself where a client logs its settings."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


class Secret(Section):
    """Where a secret is: in an environment variable or a file, which is read when a connection is opened."""

    env: str | None = None
    """The name of an environment variable."""
    file: str | None = None
    """A file that holds the secret and nothing else; white space around it is not part of it."""

    @model_validator(mode="before")
    @classmethod
    def _no_secret_here(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError("expected where the secret is, {env: NAME} or {file: PATH}, and not the secret")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("expected either env or file")
        return self

    def read(self, where: str) -> str:
        """The secret.

        Args:
          where: the path of this field, for the message.
        Raises:
          SpecError: it is not there.
        """
        if self.env is not None:
            if found := os.environ.get(self.env):
                return found
            raise SpecError(f"{where}: expected the secret in the environment variable {self.env}, which is not set")
        assert self.file is not None
        try:
            return Path(self.file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise SpecError(f"{where}: expected a file with the secret: {exc}") from exc


class Tls(Section):
    """TLS, and our certificate where the other side asks for one. All files are PEM."""

    ca: str | None = None
    """The authorities that are trusted; the machine's when left out."""
    certificate: str | None = None
    """Our certificate, with what leads to its authority behind it."""
    key: str | None = None
    """Its private key, not encrypted."""

    @model_validator(mode="after")
    def _whole_identity(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected certificate and key together")
        return self

    def files(self, where: str) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The contents of `ca`, `key` and `certificate`.

        Raises:
          SpecError: one cannot be read.
        """
        return self._read(where, "ca"), self._read(where, "key"), self._read(where, "certificate")

    def context(self, where: str) -> ssl.SSLContext:
        """A client's context: at least TLS 1.2, the other side's certificate and name are checked.

        Raises:
          SpecError: a file cannot be read, or is not what it should be.
        """
        self.files(where)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as exc:
            raise SpecError(f"{where}: expected PEM files of certificates and their key: {exc}") from exc
        return context

    def _read(self, where: str, name: str) -> bytes | None:
        path = getattr(self, name)
        try:
            return None if path is None else Path(path).read_bytes()
        except OSError as exc:
            raise SpecError(f"{where}.{name}: expected a PEM file: {exc}") from exc


class _WithoutSecrets(logging.Filter):
    """Drops what holds a secret: kafka-python's debug log shows what is sent, and PLAIN sends the password as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()
        for name in ("kafka.protocol.parser", "kafka.net.connection"):
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record may be seen."""
        message = record.getMessage()
        return not any(secret in message for secret in self.secrets)


_WITHOUT_SECRETS = _WithoutSecrets()


class Sasl(Section):
    """Who we are to Kafka."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    username: str
    password: Secret


class KafkaSecurity(Section):
    """TLS, SASL or both; the same for every client that we make."""

    tls: Tls | None = None
    sasl: Sasl | None = None

    def client_settings(self) -> dict[str, Any]:
        """kafka-python's settings. They hold secrets: for its constructors only.

        Raises:
          SpecError: a secret or a file is not there.
        """
        where = "$.kafka.security"
        found: dict[str, Any] = {"security_protocol": f"{'SASL_' if self.sasl else ''}{'SSL' if self.tls else ''}"}
        if self.tls is None:
            found["security_protocol"] += "PLAINTEXT"
        else:
            found["ssl_context"] = self.tls.context(f"{where}.tls")
        if self.sasl is not None:
            password = _Unspoken(self.sasl.password.read(f"{where}.sasl.password"))
            _WITHOUT_SECRETS.secrets.add(password)
            found |= {
                "sasl_mechanism": self.sasl.mechanism,
                "sasl_plain_username": self.sasl.username,
                "sasl_plain_password": password,
            }
        return found
