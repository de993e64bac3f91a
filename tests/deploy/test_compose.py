"""compose.yaml: by the Compose specification, hardened throughout, and in agreement with the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.images.build import IMAGES
from deploy.local.jars import fetch
from deploy.local.java import find_java
from deploy.local.kafka import LOCK
from flows.serving_config import write_serving_config
from schemas.spec import Spec, load_spec
from streaming.model_server.config_protos import METRICS_PATH
from tests.deploy.commands import check_command

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SETTINGS = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env").read_text(), re.MULTILINE))


def filled_in(text: str) -> str:
    """As Compose does it."""
    return re.sub(r"\$(?:\$|\{(\w+)\})", lambda found: SETTINGS[found[1]] if found[1] else "$", text)


DOCUMENT: dict[str, Any] = yaml.safe_load(filled_in(COMPOSE.read_text()))
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
ENVIRONMENT: dict[str, str] = SERVICES["consumer"]["environment"]


@pytest.fixture(scope="module")
def spec() -> Spec:
    """The stream's spec as containers read it."""
    return load_spec(DEPLOY / SETTINGS["SPEC"], ENVIRONMENT)


def program_of(name: str) -> list[str]:
    """The command line of a container of ours, with the entry point of its image and without a shell around it."""
    service = SERVICES[name]
    if service.get("entrypoint", [])[:1] == ["/bin/sh"]:
        [line] = service["command"]
        return shlex.split(line.removeprefix("exec "))
    return [*service.get("entrypoint", ["tidegauge"]), *service["command"]]


def test_compose_specification() -> None:
    """Its JSON Schema is in check-jsonschema (Apache-2.0)."""
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(DOCUMENT, json.loads(schema.read_text()))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].partition(":")[0] not in ("", "0", "root")
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    if service["restart"] != "no":
        assert "healthcheck" in service
    image = service["image"]
    assert re.search(r":[\w.]+$", image)
    if image.startswith("localhost/tidegauge-"):
        assert image.removeprefix("localhost/tidegauge-").partition(":")[0] in IMAGES
        dockerfile = Path(service["build"]["dockerfile"])
        assert f"tidegauge-{dockerfile.suffix[1:]}" in image
        assert (COMPOSE.parent / service["build"]["context"] / dockerfile).is_file()


def test_everything_that_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in DOCUMENT["volumes"]
    for config in DOCUMENT["configs"].values():
        assert (DEPLOY / config["file"]).is_file()


@pytest.mark.parametrize(
    "name", ["serving-config", "tensorflow-serving", "consumer", "accuracy", "dashboard", "scheduler", "batch"]
)
def test_commands_are_ones_that_our_programs_take(name: str) -> None:
    check_command(program_of(name))


def test_settings_reach_the_spec_and_the_services(spec: Spec) -> None:
    assert all(name.startswith("TIDEGAUGE_") for name in ENVIRONMENT)
    assert spec.kafka.bootstrap_servers == "kafka:9092"
    host, _, port = spec.serving.address.partition(":")
    assert host in SERVICES and f":{port}" in SERVICES[host]["ports"][0]  # noqa: PT018
    assert SERVICES["tensorflow-serving"]["networks"]["default"]["aliases"] == [host]
    assert spec.model_name == SETTINGS["MODEL"]
    assert spec.paths.models == "/models"
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert set(SETTINGS["COMPOSE_PROFILES"].split(",")) < profiles


def test_the_model_servers_flags_are_those_of_serving_config(spec: Spec, tmp_path: Path) -> None:
    """Both servers', of the files where the service before them has written them."""
    shared = spec.model_copy(
        update={"serving": spec.serving.model_copy(update={"config_file": str(tmp_path / "models.config")})}
    )
    flags = write_serving_config(shared, tmp_path / "config").flags
    wanted = [flag.replace(f"{tmp_path}/models", "/models/models").replace(str(tmp_path), "") for flag in flags]
    assert program_of("serving-config")[-2:] == ["--output", "/config"]
    for server in ("tensorflow-serving", "model-server"):
        assert SERVICES[server]["command"] == wanted


def test_prometheus_scrapes_what_the_services_tell() -> None:
    *ours, servers = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    for name, job in zip(("consumer", "accuracy"), ours, strict=True):
        [found] = job["dns_sd_configs"]
        program = program_of(name)
        assert found["names"] == [name]
        assert str(found["port"]) == program[program.index("--metrics-port") + 1] == SERVICES[name]["expose"][0]
    [found] = servers["dns_sd_configs"]
    assert found["names"] == ["model-server"]
    assert f"--rest_api_port={found['port']}" in SERVICES["model-server"]["command"]
    assert servers["metrics_path"] == METRICS_PATH


def test_the_dashboard_reads_what_the_services_tell() -> None:
    program = program_of("dashboard")
    assert program[program.index("--metrics") + 1] == f"consumer:{SERVICES['consumer']['expose'][0]}"
    [port] = SERVICES["dashboard"]["ports"]
    assert port == f"127.0.0.1:{program[program.index('--port') + 1]}:8600"


def test_no_secret_is_in_the_files() -> None:
    text = COMPOSE.read_text() + (DEPLOY / ".env").read_text()
    secrets = [
        line
        for line in text.splitlines()
        if re.search(r"(?i)password|secret", line) and not line.lstrip().startswith("#")
    ]
    assert all(
        "GRAFANA_ADMIN_PASSWORD" in line or "grafana_admin_password" in line or line == "secrets:" for line in secrets
    )


def test_kafka_is_the_tested_one_and_takes_its_settings(jars_dir: Path, tmp_path: Path) -> None:
    coordinates = tomllib.loads(LOCK.with_name("jgo.toml").read_text())["dependencies"]["coordinates"]
    [version] = {name.rpartition(":")[2] for name in coordinates if name.startswith("org.apache.kafka:")}
    assert SERVICES["kafka"]["image"].endswith(f":{version}")
    [script] = SERVICES["kafka"]["command"]
    format_line = script.replace("\\\n", " ").splitlines()[0]
    properties = (DEPLOY / "kafka" / "server.properties").read_text()
    settings = tmp_path / "server.properties"
    settings.write_text(properties.replace("/var/lib/kafka/data", str(tmp_path)))
    arguments = shlex.split(format_line.replace("/etc/tidegauge/server.properties", str(settings)))
    assert arguments[0] == "/opt/kafka/bin/kafka-storage.sh"
    jars = ":".join(map(str, fetch(LOCK, jars_dir, report=print)))
    java = [str(find_java().executable), "-cp", jars, "kafka.tools.StorageTool"]
    done = subprocess.run([*java, *arguments[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "kraft" / "meta.properties").is_file()
