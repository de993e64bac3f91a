"""What tests of several rooms share: a real Kafka, started once for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.kafka import KafkaNode, Ports
from deploy.local.process import Running
from deploy.local.state import claim

SHARED_STATE = Path(__file__).parents[1] / ".tidegauge"


@dataclass(frozen=True)
class Kafka:
    """A running node on free ports."""

    node: KafkaNode
    ports: Ports

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
def kafka(tmp_path_factory: pytest.TempPathFactory, jars_dir: Path) -> Iterator[Kafka]:
    node = KafkaNode(claim(tmp_path_factory.mktemp("kafka")), jars_dir=jars_dir)
    kafka = Kafka(node, Ports(0, 0).picked())
    kafka.start()
    yield kafka
    node.stop()
