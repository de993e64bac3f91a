"""The live path as the processes that it is in production, and how far they have come."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import CoordinatorNotAvailableError, GroupIdNotFoundError
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.ports import free_port
from deploy.local.process import DetachedProcess
from deploy.local.state import claim
from schemas.errors import BrokerError, LocalStackError
from schemas.spec import Spec
from streaming.topics import broker_errors, connect

PATIENCE_S = 180.0
LOOK_S = 0.1


class LiveProcesses:
    """The live path of a stream, in the background. A context manager; `deploy.local.stack.down` ends the processes.

    Args:
      spec: the stream.
      spec_file: where processes read it from.
      environment: of the processes.
      state_dir: of the local stack that they belong to; their logs are in it.
    Raises:
      BrokerError: no broker answers.
    """

    def __init__(self, spec: Spec, spec_file: Path, environment: Mapping[str, str], state_dir: Path) -> None:
        self._spec, self._spec_file, self._environment = spec, spec_file, {**os.environ, **environment}
        self._state_dir = claim(state_dir)
        self._admin = connect(KafkaAdminClient, spec.kafka)
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admin.close()

    def start(self, verb: str, *options: str) -> None:
        """Starts a verb that goes on until it is stopped.

        Raises:
          LocalStackError: it has ended.
        """
        port = self._ports[verb] = free_port()
        DetachedProcess(verb, self._state_dir).start(
            self._command(verb, *options, "--metrics-port", str(port)),
            endpoints={"metrics": f"127.0.0.1:{port}"},
            ready=lambda: self._page(verb, "healthz") is not None,
            timeout_s=PATIENCE_S,
            env=self._environment,
        )

    def run(self, verb: str, *options: str, fine: Sequence[int] = (0,)) -> None:
        """Runs a verb to its end; what it says is in the log.

        Args:
          verb: of `tidegauge`.
          options: its options.
          fine: the exit codes that are no failure.
        Raises:
          LocalStackError: it has failed.
        """
        with (self._state_dir / "log" / f"{verb}.log").open("ab") as log:
            command = self._command(verb, *options)
            done = subprocess.run(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
        if done.returncode not in fine:
            raise LocalStackError(f"tidegauge {verb} ended with {done.returncode}: see {log.name}")

    def counts(self, verb: str, family: str) -> dict[str, float]:
        """The samples of a metric of a process that `start` started, by the value of their only label."""
        page = self._page(verb, "metrics") or ""
        return {
            next(iter(sample.labels.values()), ""): sample.value
            for found in text_string_to_metric_families(page)
            if found.name == family
            for sample in found.samples
        }

    def addresses(self) -> list[str]:
        """Where the metrics are of what `start` started."""
        return [f"127.0.0.1:{port}" for port in self._ports.values()]

    def wait_until_caught_up(self) -> None:
        """Waits until every event is predicted from and every prediction that can be is scored.

        Raises:
          BrokerError: that takes too long.
        """
        topics = self._spec.topics
        groups = (self._spec.group, f"{self._spec.group}-accuracy")
        until = time.monotonic() + PATIENCE_S
        with broker_errors(topics.input.name):
            while (waiting := self._behind(groups, topics.input.name, topics.input.partitions)) is not None:
                if time.monotonic() > until:
                    raise BrokerError(
                        f"{waiting} was not at the end of {topics.input.name} after {PATIENCE_S:g} s: "
                        f"see {self._state_dir / 'log'}"
                    )
                time.sleep(LOOK_S)

    def _behind(self, groups: Sequence[str], topic: str, partitions: int) -> str | None:
        """A group that has not committed the end of a topic; None where there is none."""
        places = [TopicPartition(topic, number) for number in range(partitions)]
        ends = self._admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        for group in groups:
            try:
                committed = self._admin.list_group_offsets({group: places})[group]
            except (GroupIdNotFoundError, CoordinatorNotAvailableError):  # of a new broker: not yet
                return group
            if any(place not in committed or committed[place].offset < end.offset for place, end in ends.items()):
                return group
        return None

    def _command(self, verb: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "tidegauge", verb, "--spec", str(self._spec_file), *options]

    def _page(self, verb: str, page: str) -> str | None:
        """What a process serves over HTTP; None where it does not answer."""
        try:
            with urlopen(f"http://127.0.0.1:{self._ports[verb]}/{page}", timeout=5) as answer:
                found: str = answer.read().decode()
        except (URLError, OSError):
            return None
        return found
