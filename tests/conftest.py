"""What tests of several rooms share: a real Kafka, started once for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.kafka import KafkaNode, Listener, Ports
from deploy.local.ports import free_port
from deploy.local.process import Running
from deploy.local.state import claim
from tests.certificates import Certificates

SHARED_STATE = Path(__file__).parents[1] / ".tidegauge"


@dataclass(frozen=True)
class Kafka:
    """A running node on free ports."""

    node: KafkaNode
    ports: Ports
    secured: str
    """Another listener: TLS with client certificates, and SASL."""

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.ports.broker}"

    def start(self) -> Running:
        return self.node.start(self.ports)

    def restart(self) -> Running:
        """Stops and starts the node; ports and data stay."""
        self.node.stop()
        return self.start()


@pytest.fixture(scope="session")
def jars_dir() -> Path:
    """Kafka's jars, downloaded by the first run only."""
    return claim(SHARED_STATE) / "jars" / "kafka"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, jars_dir: Path, certificates: Certificates) -> Iterator[Kafka]:
    secured = Listener(free_port(), "SASL_SSL", secured_settings(certificates))
    state = claim(tmp_path_factory.mktemp("kafka"))
    node = KafkaNode(state, jars_dir=jars_dir, listeners={"SECURED": secured})
    kafka = Kafka(node, Ports(0, 0).picked(), f"127.0.0.1:{secured.port}")
    kafka.start()
    yield kafka
    node.stop()


def secured_settings(certificates: Certificates) -> dict[str, str]:
    """Kafka's settings of a listener for clients with a certificate and a password."""
    module = "org.apache.kafka.common.security"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": certificates.path("server"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": certificates.path("ca"),
        "ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "plain.sasl.jaas.config": f'{module}.plain.PlainLoginModule required user_alice="open sesame";',
        "scram-sha-256.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        "scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
    }
