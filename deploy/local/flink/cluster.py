"""Apache Flink on this machine: a session cluster with one worker, and Beam's job server for it, on loopback only.

Beam's jars are on the cluster's own class path, so nothing is uploaded with a job. Python code runs in the process that
submits a job (`--environment_type=LOOPBACK`).
"""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.jars import fetch
from deploy.local.java import find_java
from deploy.local.ports import LOOPBACK, free_port, require_free
from deploy.local.process import DetachedProcess, Running

NAME = "flink"
LOCK = Path(__file__).parent / "jgo.lock.toml"
SLOTS = 2

# What Flink's own scripts open to it of the JDK.
_EXPORTS = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5")
_OPENS = (
    *("lang", "lang.reflect", "net", "io", "nio", "text", "time", "util"),
    *("util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"),
)
_JDK = [
    *(f"--add-exports={package}=ALL-UNNAMED" for package in _EXPORTS),
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENS),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
]


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports on loopback; 0 picks a free one."""

    rest: int = 8081
    job: int = 8099
    artifact: int = 8098

    def picked(self) -> Ports:
        """The same with free ports in place of zeros."""
        return Ports(self.rest or free_port(), self.job or free_port(), self.artifact or free_port())


class FlinkCluster:
    """The Flink of a state folder, whether it runs now or not.

    Args:
        state_dir: A claimed state folder (`deploy.local.state`).
        jars_dir: Where the jars are kept: `state_dir/jars/flink` by default.
    """

    def __init__(self, state_dir: Path, *, jars_dir: Path | None = None) -> None:
        self.jars_dir = jars_dir or state_dir / "jars" / NAME
        self._folder = state_dir / NAME
        self._jobmanager = DetachedProcess(f"{NAME}-jobmanager", state_dir)
        self._taskmanager = DetachedProcess(f"{NAME}-taskmanager", state_dir)
        self._jobserver = DetachedProcess(f"{NAME}-jobserver", state_dir)

    def running(self) -> Running | None:
        """Beam's job server, with its endpoints `job` and `artifact`; None if it does not run."""
        return self._jobserver.running()

    def start(
        self, ports: Ports | None = None, *, timeout_s: float = 90.0, report: Callable[[str], None] = lambda _: None
    ) -> Running:
        """Starts the cluster and the job server, and waits until they answer; what runs already is left alone.

        Args:
            ports: Where they listen; the defaults by default.
            timeout_s: How long each may take to answer, in seconds; a first download does not count.
            report: Is told, in words, what takes time.

        Raises:
            LocalStackError: There is no Java or no jars, a port is taken, or something does not start.
        """
        with self._jobserver.lock:
            if running := self.running():
                return running
            self.stop()  # a cluster without its job server
            ports = (ports or Ports()).picked()
            for port, purpose in ((ports.rest, "Flink"), (ports.job, "Beam's jobs"), (ports.artifact, "Beam's files")):
                require_free(port, purpose)
            jars = fetch(LOCK, self.jars_dir, report=report)
            env = os.environ | {"CLASSPATH": os.pathsep.join(map(str, jars))}
            java = str(find_java().executable)
            conf = self._write_config(ports)
            rest = f"{LOOPBACK}:{ports.rest}"
            report("starting Flink")
            entrypoint = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
            try:
                self._jobmanager.start(
                    [java, "-Xmx512m", *_JDK, entrypoint, "--configDir", str(conf), "--executionMode", "cluster"],
                    endpoints={"rest": rest},
                    ready=lambda: _ask(rest, "overview") is not None,
                    timeout_s=timeout_s,
                    env=env,
                )
                worker = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
                self._taskmanager.start(
                    [java, "-Xmx768m", "-XX:MaxDirectMemorySize=640m", *_JDK, worker, "--configDir", str(conf)],
                    endpoints={},
                    ready=lambda: bool((_ask(rest, "overview") or {}).get("slots-total")),
                    timeout_s=timeout_s,
                    env=env,
                )
                return self._start_job_server(java, env, ports, rest, timeout_s)
            except BaseException:
                self.stop()
                raise

    def stop(self, *, timeout_s: float = 20.0) -> bool:
        """Stops everything; returns whether something ran."""
        processes = (self._jobserver, self._taskmanager, self._jobmanager)
        stopped = [process.stop(timeout_s=timeout_s) for process in processes]
        return any(stopped)

    def _start_job_server(self, java: str, env: dict[str, str], ports: Ports, rest: str, timeout_s: float) -> Running:
        options = {
            "--flink-master": rest,
            "--job-host": LOOPBACK,
            "--job-port": ports.job,
            "--artifact-port": ports.artifact,
            "--expansion-port": free_port(),
            "--artifacts-dir": self._folder / "artifacts",
        }
        driver = "org.apache.beam.runners.flink.FlinkJobServerDriver"
        return self._jobserver.start(
            [java, "-Xmx512m", *_JDK, driver, *(str(part) for option in options.items() for part in option)],
            endpoints={"job": f"{LOOPBACK}:{ports.job}", "artifact": f"{LOOPBACK}:{ports.artifact}"},
            ready=lambda: _is_open(ports.job) and _is_open(ports.artifact),
            timeout_s=timeout_s,
            env=env,
        )

    def _write_config(self, ports: Ports) -> Path:
        conf = self._folder / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        settings = {
            "jobmanager.rpc.address": LOOPBACK,
            "jobmanager.rpc.port": free_port(),
            "jobmanager.bind-host": LOOPBACK,
            "rest.address": LOOPBACK,
            "rest.bind-address": LOOPBACK,
            "rest.port": ports.rest,
            "taskmanager.host": LOOPBACK,
            "taskmanager.bind-host": LOOPBACK,
            "taskmanager.numberOfTaskSlots": SLOTS,
            "taskmanager.resource-id": "worker",
            "io.tmp.dirs": self._folder,
            # Beam is on the cluster's class path, and must be the same classes there and in jobs.
            "classloader.resolve-order": "parent-first",
            # Flink's scripts work these out; here they are said.
            "taskmanager.cpu.cores": f"{SLOTS}.0",
            "taskmanager.memory.task.heap.size": "512mb",
            "taskmanager.memory.task.off-heap.size": "0b",
            "taskmanager.memory.framework.heap.size": "128mb",
            "taskmanager.memory.framework.off-heap.size": "128mb",
            "taskmanager.memory.network.min": "256mb",
            "taskmanager.memory.network.max": "256mb",
            "taskmanager.memory.managed.size": "256mb",
            "taskmanager.memory.jvm-metaspace.size": "256mb",
            "taskmanager.memory.jvm-overhead.min": "192mb",
            "taskmanager.memory.jvm-overhead.max": "192mb",
        }
        (conf / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        return conf


def beam_options(running: Running) -> list[str]:
    """Beam's options that submit a job to a running cluster."""
    return [
        "--runner=PortableRunner",
        f"--job_endpoint={running.endpoints['job']}",
        f"--artifact_endpoint={running.endpoints['artifact']}",
        "--environment_type=LOOPBACK",
        f"--parallelism={SLOTS}",
    ]


def _ask(rest: str, path: str) -> dict[str, int] | None:
    try:
        with urllib.request.urlopen(f"http://{rest}/{path}", timeout=2) as answer:
            found: dict[str, int] = json.load(answer)
            return found
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _is_open(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True
