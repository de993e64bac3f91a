"""Apache Kafka on this machine: one KRaft node, on loopback only, without Docker.

It is the real broker, so transactions, fencing, retention and time stamps behave as on a cluster.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.jars import fetch
from deploy.local.java import Java, find_java
from deploy.local.ports import LOOPBACK, free_port, require_free
from deploy.local.process import DetachedProcess, Running
from schemas.errors import LocalStackError

NAME = "kafka"
LOCK = Path(__file__).parent / "kafka_jars" / "jgo.lock.toml"
LOG_CONFIG = Path(__file__).parent / "log4j2.properties"
CLUSTER_ID = "VGlkZWdhdWdlIGxvY2FsIA"
"""A node of its own needs no id of its own: 16 bytes in base64url, as Kafka wants it."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The node's two ports on loopback; 0 picks a free one."""

    broker: int = 19092
    controller: int = 19093

    def picked(self) -> Ports:
        """The same with free ports in place of zeros."""
        return Ports(self.broker or free_port(), self.controller or free_port())


@dataclass(frozen=True, slots=True)
class Listener:
    """A further address of the node: its port on loopback, its security protocol, and Kafka's settings of it alone."""

    port: int
    protocol: str
    settings: Mapping[str, str]


class KafkaNode:
    """The Kafka of a state folder, whether it runs now or not.

    Args:
        state_dir: A claimed state folder (`deploy.local.state`).
        jars_dir: Where Kafka's jars are kept: `state_dir/jars/kafka` by default.
        listeners: Further listeners, such as one with TLS and SASL: each one's name, and its address and settings.
    """

    def __init__(
        self, state_dir: Path, *, jars_dir: Path | None = None, listeners: Mapping[str, Listener] | None = None
    ) -> None:
        self.jars_dir = jars_dir or state_dir / "jars" / NAME
        self._listeners = dict(listeners or {})
        self._folder = state_dir / NAME
        self._data_dir = self._folder / "data"
        self._process = DetachedProcess(NAME, state_dir)

    def running(self) -> Running | None:
        """The node's process, with its endpoint `bootstrap`; None if it does not run."""
        return self._process.running()

    def start(
        self, ports: Ports | None = None, *, timeout_s: float = 60.0, report: Callable[[str], None] = lambda _: None
    ) -> Running:
        """Starts the node and waits until it answers; if it runs already, nothing happens.

        Args:
            ports: Where it listens. None: the default ports, or where it runs already.
            timeout_s: How long Kafka may take to answer, in seconds; a first download does not count.
            report: Is told, in words, what takes time.

        Raises:
            LocalStackError: There is no Java or no jars, a port is taken, it runs on another port, or does not start.
        """
        with self._process.lock:
            if running := self.running():
                _require_same_port(running, ports)
                return running
            ports = (ports or Ports()).picked()
            require_free(ports.broker, "Kafka's broker")
            require_free(ports.controller, "Kafka's controller")
            java = find_java()
            # In the environment rather than in the command, which stays readable in the list of processes.
            env = os.environ | {"CLASSPATH": os.pathsep.join(map(str, fetch(LOCK, self.jars_dir, report=report)))}
            self._format(java, env)
            report("starting Kafka")
            return self._process.start(
                [
                    java.executable,
                    "-Xmx512m",
                    "-XX:+ExitOnOutOfMemoryError",
                    "-Djava.awt.headless=true",
                    f"-Dlog4j2.configurationFile={LOG_CONFIG}",
                    "kafka.Kafka",
                    self._write_properties("server.properties", ports, self._data_dir),
                ],
                endpoints={"bootstrap": f"{LOOPBACK}:{ports.broker}"},
                ready=lambda: _answers(ports.broker),
                timeout_s=timeout_s,
                env=env,
            )

    def stop(self, *, timeout_s: float = 20.0) -> bool:
        """Stops the node; its data stays. Returns whether it ran."""
        return self._process.stop(timeout_s=timeout_s)

    def _format(self, java: Java, env: dict[str, str]) -> None:
        """Prepares the data folder once. It is renamed when it is whole, so one that is there is whole."""
        if self._data_dir.exists():
            return
        partial = self._folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        properties = self._write_properties("format.properties", Ports(), partial)
        arguments = ["format", "--standalone", "--cluster-id", CLUSTER_ID, "--config", str(properties)]
        done = subprocess.run(
            [java.executable, "kafka.tools.StorageTool", *arguments], env=env, capture_output=True, text=True
        )
        if done.returncode:
            raise LocalStackError(f"Kafka cannot format {partial}: {done.stderr.strip() or done.stdout.strip()}")
        properties.unlink()
        partial.rename(self._data_dir)

    def _write_properties(self, filename: str, ports: Ports, data_dir: Path) -> Path:
        path = self._folder / filename
        text = "".join(f"{key}={value}\n" for key, value in self._properties(ports, data_dir).items())
        path.write_text(text, encoding="latin-1", errors="backslashreplace")  # how Java reads a properties file
        return path

    def _properties(self, ports: Ports, data_dir: Path) -> dict[str, object]:
        """The broker's settings; what is not named keeps Kafka's default, as on a cluster."""
        broker, controller = f"{LOOPBACK}:{ports.broker}", f"{LOOPBACK}:{ports.controller}"
        further = self._listeners.items()
        ours = {
            f"listener.name.{name.lower()}.{key}": value
            for name, listener in further
            for key, value in listener.settings.items()
        }
        addresses = [f"PLAINTEXT://{broker}", *(f"{name}://{LOOPBACK}:{one.port}" for name, one in further)]
        protocols = [
            "CONTROLLER:PLAINTEXT",
            "PLAINTEXT:PLAINTEXT",
            *(f"{name}:{one.protocol}" for name, one in further),
        ]
        return ours | {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": controller,
            "listeners": ",".join([*addresses, f"CONTROLLER://{controller}"]),
            "advertised.listeners": ",".join(addresses),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(protocols),
            "log.dirs": data_dir,
            # A topic is made on purpose, with its retention, or not at all.
            "auto.create.topics.enable": "false",
            # One node: no replicas, and few partitions of the internal topics, which it opens at every start.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 5,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 5,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 5,
            # The first consumer of a group need not wait for others.
            "group.initial.rebalance.delay.ms": 0,
            # A node that was killed may not come back before its old session has ended: 3 s, not 9.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            # The default of 128 MB would be a quarter of the heap.
            "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,
        }


def _require_same_port(running: Running, ports: Ports | None) -> None:
    bootstrap = running.endpoints["bootstrap"]
    if ports and ports.broker and bootstrap != f"{LOOPBACK}:{ports.broker}":
        raise LocalStackError(f"Kafka runs already, on {bootstrap}; stop it first to have it on port {ports.broker}")


def _answers(port: int) -> bool:
    """Whether the broker answers a metadata request. Until its port is open, kafka-python is not bothered with it."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError
    from kafka.net.compat import KafkaNetClient

    clients = []

    def client(**configs: object) -> KafkaNetClient:
        clients.append(KafkaNetClient(**configs))
        return clients[-1]

    with _kafka_python_silent():
        try:
            with KafkaAdminClient(
                bootstrap_servers=f"{LOOPBACK}:{port}", bootstrap_timeout_ms=2000, kafka_client=client
            ) as admin:
                return bool(admin.describe_cluster()["brokers"])
        except KafkaError:
            return False
        finally:
            for started in clients:  # a client that fails to bootstrap leaves its thread and sockets behind
                started.close()


@contextmanager
def _kafka_python_silent() -> Iterator[None]:
    """It logs an error for each try to reach a broker that is not ready yet, which is expected here."""
    log = logging.getLogger("kafka")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)
