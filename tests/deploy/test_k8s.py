"""The Kubernetes manifests: by Kubernetes' own schemas, hardened throughout, and in agreement with the code."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.images.build import IMAGES
from flows.serving_config import ServerIdentity, write_serving_config
from schemas.spec import Spec, load_spec
from streaming.live_status import LiveStatus
from streaming.metrics import LiveCollector, MetricsServer
from streaming.model_server.config_protos import METRICS_PATH
from tests.certificates import Certificates
from tests.deploy.commands import check_command
from tests.streaming.test_metrics import get

DEPLOY = Path(__file__).parents[2] / "deploy"
K8S = DEPLOY / "k8s"
OVERLAYS = ("local", "production")
VERSIONS = ("1.31", kubernetes_validate.latest_version())
"""The oldest (pod-index labels are older) and the newest that the schemas are there for."""
FOREIGN = ("keda.sh/v1alpha1", "kustomize.config.k8s.io/v1beta1", "kustomize.config.k8s.io/v1alpha1")
"""API groups that are not Kubernetes' own."""

Manifest = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def manifests(overlay: str) -> list[Manifest]:
    """What an overlay puts into a cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, whose kustomize puts the overlays together, is not on this machine")
    command = ["kubectl", "kustomize", str(K8S / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def settings(manifests: list[Manifest]) -> dict[str, str]:
    data: dict[str, str] = one(manifests, "ConfigMap", "tidegauge-settings-")["data"]
    return data


@pytest.fixture(scope="module")
def spec(manifests: list[Manifest], settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """The stream's spec as containers read it."""
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(one(manifests, "ConfigMap", "tidegauge-spec-")["data"]["spec.yaml"])
    return load_spec(path, settings)


def one(manifests: list[Manifest], kind: str, prefix: str) -> Manifest:
    [found] = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].startswith(prefix)]
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each workload, and the template of its pods."""
    for each in manifests:
        if each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield each, each["spec"]["template"]
        elif each["kind"] == "CronJob":
            yield each, each["spec"]["jobTemplate"]["spec"]["template"]


def containers(manifests: list[Manifest]) -> Iterator[Manifest]:
    for _, pod in pods(manifests):
        yield from (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])


def container(manifests: list[Manifest], name: str) -> Manifest:
    [found] = [each for each in containers(manifests) if each["name"] == name]
    return found


def program_of(found: Manifest) -> list[str]:
    """The command line of a container of ours, with the entry point of its image."""
    if found.get("command") == ["/bin/sh", "-c"]:
        [line] = re.findall(r"tidegauge [^&;\n]+", found["args"][0])
        return shlex.split(line)
    image = found["image"].rpartition("/")[2].partition(":")[0]
    entry = found.get("command", ["tidegauge-model-server" if image == "tidegauge-model-server" else "tidegauge"])
    return [*entry, *(argument.replace("$(MEMBER)", "0") for argument in found.get("args", ()))]


def selected(manifests: list[Manifest], selector: Manifest) -> list[str]:
    """The names of the workloads whose pods a selector takes."""
    wanted = selector.get("matchLabels", {})
    among = {part["key"]: part["values"] for part in selector.get("matchExpressions", ())}
    return [
        each["metadata"]["name"]
        for each, pod in pods(manifests)
        if all(pod["metadata"]["labels"].get(label) == value for label, value in wanted.items())
        and all(pod["metadata"]["labels"].get(label) in values for label, values in among.items())
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas_of_kubernetes(manifests: list[Manifest], version: str) -> None:
    for each in manifests:
        if each["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(each, version, strict=True)


def test_files_are_whole_without_kubectl() -> None:
    """Each document but patches, which are parts."""
    for file in (
        file for part in ("base", "ingest", "retrain", "accuracy", "dashboard") for file in (K8S / part).glob("*.yaml")
    ):
        for each in yaml.safe_load_all(file.read_text()):
            if each["apiVersion"] not in FOREIGN:
                kubernetes_validate.validate(each, VERSIONS[-1], strict=True)


def test_every_pod_is_hardened(manifests: list[Manifest]) -> None:
    for _, pod in pods(manifests):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for each in containers(manifests):
        context = each["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in each["resources"]["limits"]


def test_images_are_named_whole_and_ours_are_built(manifests: list[Manifest]) -> None:
    for each in containers(manifests):
        registry, name, tag = re.fullmatch(r"(.+)/([\w.-]+):([\w.-]+)", each["image"]).groups()  # type: ignore[union-attr]
        assert registry
        assert tag
        if name.startswith("tidegauge-"):
            assert name.removeprefix("tidegauge-") in IMAGES


def test_commands_are_ones_that_our_programs_take(manifests: list[Manifest], overlay: str) -> None:
    found = {each["name"]: program_of(each) for each in containers(manifests) if "tidegauge" in each["image"]}
    found.setdefault("model-server", program_of(container(manifests, "model-server")))
    if overlay == "production":
        pool = found.pop("workers")
        assert pool[:3] == ["python3", "-m", "apache_beam.runners.worker.worker_pool_main"]
        [environment] = [word for word in found["ingest"] if word.startswith("--environment_config=localhost:")]
        assert pool[3] == f"--service_port={environment.rpartition(':')[2]}"
        found["ingest"] = found["ingest"][: found["ingest"].index("--")]
    verbs = {name: check_command(argv) for name, argv in found.items()}
    wanted = {"stream": "stream", "serving-config": "serving-config"}
    wanted |= {"accuracy": "accuracy", "dashboard": "dashboard"} if overlay == "production" else {}
    assert verbs.items() >= wanted.items()


def test_what_is_mounted_and_named_is_there(manifests: list[Manifest]) -> None:
    """But for secrets, which no file holds."""
    there = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    assert not any(kind == "Secret" for kind, _ in there)
    for _, pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            assert {mount["name"] for mount in each["volumeMounts"]} <= set(volumes)
            for source in each.get("envFrom", ()):
                assert ("ConfigMap", source["configMapRef"]["name"]) in there
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there


def test_selectors_take_pods(manifests: list[Manifest]) -> None:
    for each in manifests:
        name, body = each["metadata"]["name"], each.get("spec", {})
        if each["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            assert selected(manifests, body["selector"]), name
        if each["kind"] == "Service":
            assert selected(manifests, {"matchLabels": body["selector"]}), name
        if each["kind"] == "NetworkPolicy":
            assert selected(manifests, body["podSelector"]), name
    guarded = [
        found
        for each in manifests
        if each["kind"] == "PodDisruptionBudget"
        for found in selected(manifests, each["spec"]["selector"])
    ]
    assert {"tidegauge-stream", "tidegauge-model-server"} <= set(guarded)


def test_a_pods_ordinal_is_its_member_name(manifests: list[Manifest]) -> None:
    found = container(manifests, "stream")
    [member] = [each for each in found["env"] if each["name"] == "MEMBER"]
    assert member["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert "--member=$(MEMBER)" in found["args"]


@pytest.mark.parametrize("name", ["stream", "accuracy"])
def test_processes_answer_where_they_are_asked(manifests: list[Manifest], overlay: str, name: str) -> None:
    """By the real server of metrics, health and readiness."""
    if (overlay, name) == ("local", "accuracy"):
        assert not any(each["name"] == name for each in containers(manifests))
        return
    stateful, found = one(manifests, "StatefulSet", f"tidegauge-{name}"), container(manifests, name)
    notes = stateful["spec"]["template"]["metadata"]["annotations"]
    probes = [found[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {"metrics"} == {port["name"] for port in found["ports"]}
    port = str(found["ports"][0]["containerPort"])
    assert f"--metrics-port={port}" in found["args"]
    assert notes["prometheus.io/port"] == port
    status = LiveStatus(joined=True)
    with MetricsServer(LiveCollector(status), 0) as server:
        for path in (*(probe["path"] for probe in probes), notes["prometheus.io/path"]):
            assert get(server.port, path)[0] == 200


def test_the_dashboard_asks_pods_that_answer(manifests: list[Manifest], overlay: str) -> None:
    if overlay == "local":
        assert not any(each["name"] == "dashboard" for each in containers(manifests))
        return
    found = container(manifests, "dashboard")
    asked = [argument.removeprefix("--metrics=") for argument in found["args"] if argument.startswith("--metrics=")]
    assert len(asked) == 2
    for address in asked:
        pod, service, port = re.fullmatch(r"([\w-]+)-0\.([\w-]+):(\d+)", address).groups()  # type: ignore[union-attr]
        assert one(manifests, "StatefulSet", pod)["spec"]["serviceName"] == service
        assert str(container(manifests, pod.removeprefix("tidegauge-"))["ports"][0]["containerPort"]) == port
    [port] = found["ports"]
    assert f"--port={port['containerPort']}" in found["args"]
    assert {found[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")} == {"/healthz"}


def test_scaling_is_by_the_specs_group_and_topic(manifests: list[Manifest], spec: Spec) -> None:
    scaled = one(manifests, "ScaledObject", "tidegauge-stream")["spec"]
    assert (scaled["scaleTargetRef"]["kind"], scaled["scaleTargetRef"]["name"]) == ("StatefulSet", "tidegauge-stream")
    assert scaled["maxReplicaCount"] == spec.topics.input.partitions
    [trigger] = scaled["triggers"]
    wanted = {
        "bootstrapServers": spec.kafka.bootstrap_servers,
        "consumerGroup": spec.group,
        "topic": spec.topics.input.name,
    }
    assert trigger["metadata"].items() >= wanted.items()
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    sasl = spec.kafka.security.sasl
    assert ("authenticationRef" in trigger) == (sasl is not None)
    if sasl is not None:
        assert trigger["metadata"]["sasl"] == sasl.mechanism.lower().replace("sha-", "sha").replace("-", "_")
        login = one(manifests, "TriggerAuthentication", trigger["authenticationRef"]["name"])
        assert {each["parameter"] for each in login["spec"]["secretTargetRef"]} == {"username", "password", "ca"}


def test_settings_reach_services_and_policies(manifests: list[Manifest], settings: dict[str, str], spec: Spec) -> None:
    host, _, port = spec.serving.address.partition(":")
    assert int(port) in [each["port"] for each in one(manifests, "Service", host)["spec"]["ports"]]
    assert settings["MODEL"] == spec.model_name
    [egress] = [each for each in manifests if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "kafka"]
    [rule] = egress["spec"]["egress"]
    assert rule["ports"][0]["port"] == int(spec.kafka.bootstrap_servers.rpartition(":")[2])


def test_paths_of_secrets_are_mounted_where_the_spec_looks(manifests: list[Manifest], spec: Spec) -> None:
    security, paths = spec.kafka.security, []
    if security.sasl is not None:
        paths += [security.sasl.password.file]
    for tls in (security.tls, spec.serving.tls):
        paths += [] if tls is None else [path for path in (tls.ca, tls.certificate, tls.key) if path]
    for each in containers(manifests):
        if each["name"] in ("stream", "accuracy", "dashboard", "retrain", "probation"):
            mounts = {mount["mountPath"] for mount in each["volumeMounts"]}
            assert {str(Path(path).parent) for path in paths if path} <= mounts


def test_the_model_servers_flags_are_those_of_serving_config(
    manifests: list[Manifest], spec: Spec, certificates: Certificates, tmp_path: Path
) -> None:
    server, configured = container(manifests, "model-server"), container(manifests, "serving-config")
    both = Path(certificates.path("server"))
    identity = ServerIdentity(both, both, Path(certificates.path("ca"))) if spec.serving.tls else None
    moved = spec.serving.model_copy(update={"config_file": str(tmp_path / "models.config")})
    shared = spec.model_copy(update={"serving": moved})
    flags = write_serving_config(shared, tmp_path / "config", identity=identity).flags
    wanted = [flag.replace(f"{tmp_path}/models", "/models/models").replace(str(tmp_path), "") for flag in flags]
    assert server["args"] == wanted
    assert any(word in ("/config", "--output=/config") for word in configured["args"])
    assert any(word.startswith("--client-ca=") for word in configured["args"]) == (identity is not None)
    notes = one(manifests, "Deployment", "tidegauge-model-server")["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/path"] == METRICS_PATH
    assert f"--rest_api_port={notes['prometheus.io/port']}" in server["args"]


def test_flink_is_the_tested_one() -> None:
    jars = tomllib.loads((DEPLOY / "local" / "flink" / "jgo.toml").read_text())["dependencies"]["coordinates"]
    [(flink, beam)] = [
        found.groups()
        for jar in jars
        if (found := re.fullmatch(r"org\.apache\.beam:beam-runners-flink-([\d.]+):([\d.]+)", jar))
    ]
    images = {
        image["name"]: image for image in yaml.safe_load((K8S / "ingest" / "kustomization.yaml").read_text())["images"]
    }
    assert images["flink"]["newTag"] == flink
    assert (images["beam-job-server"]["newName"], images["beam-job-server"]["newTag"]) == (
        f"docker.io/apache/beam_flink{flink}_job_server",
        beam,
    )
