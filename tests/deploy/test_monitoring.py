"""Alarms, dashboard and scrape config: what they name is what the code tells, by Prometheus' own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from deploy.local.ports import free_port
from streaming.accuracy.metrics import AccuracyCollector
from streaming.metrics import LiveCollector, MetricsServer
from streaming.model_server.config_protos import METRICS_PATH
from streaming.model_server.metrics import Metrics
from tests.streaming.accuracy.test_metrics import scoring
from tests.streaming.test_metrics import busy

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
OPERATIONS = (DEPLOY.parent / "docs" / "operations.md").read_text()
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "tidegauge.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"].replace("$__rate_interval", "1m") for panel in PANELS for target in panel["targets"]]
TOLD = [*LiveCollector(busy()).collect(), *AccuracyCollector(scoring()).collect()]
SERVER_METRICS = re.findall(r"^# TYPE (\S+) (\w+)$", Metrics().text(), re.MULTILINE)


def samples() -> dict[str, set[str]]:
    """The names of all samples that our processes tell, and the labels of each."""
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in TOLD:
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, set()) | {*sample.labels, "instance", "job"}
    for metric in vars(Metrics()).values():
        name = re.sub(r"[^a-zA-Z0-9_]", ":", metric.name)
        ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        found |= {f"{name}{end}": {*metric.labels, "le", "instance", "job"} for end in ends}
    return found


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not on this machine (Debian's package prometheus has it)")
    return found


def run(promtool: str, *arguments: object) -> None:
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("query", [*(alert["expr"] for alert in ALERTS), *QUERIES])
def test_every_name_in_a_query_is_told(query: str) -> None:
    known = samples()
    names = re.findall(r":tensorflow[\w:]+|tidegauge_\w+|\bup\b", query)
    assert names
    assert set(names) <= set(known)
    labels = {label for name in names for label in known[name]}
    used = {label for part in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)(?:=|!=)", part)}
    used |= {label.strip() for part in re.findall(r"by \(([^)]*)\)", query) for label in part.split(",")}
    assert used <= labels


def test_dashboard_tells_everything() -> None:
    """Each metric of consumers and of `tidegauge accuracy` is in a panel."""
    shown = " ".join(QUERIES)
    assert all(re.search(rf"\b{family.name}", shown) for family in TOLD if family.name != "tidegauge_events_in")
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_alarm_and_server_metric_is_documented_and_no_other() -> None:
    alarms = re.findall(r"^\| `([A-Z]\w+)` \| (\w+) \|", OPERATIONS, re.MULTILINE)
    assert alarms == [(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS]
    metrics = re.findall(r"^\| `(:tensorflow\S+|process\w+)` \| (\w+) \|", OPERATIONS, re.MULTILINE)
    assert sorted(metrics) == sorted(SERVER_METRICS)


def test_rules_and_scrapes_are_prometheus_own(promtool: str) -> None:
    run(promtool, "check", "config", "--lint=all", DEPLOY / "prometheus" / "prometheus.yml")


def test_queries_of_the_dashboard_parse(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(QUERIES)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run(promtool, "check", "rules", file)


def test_each_alarm_sounds_when_it_should(promtool: str, tmp_path: Path) -> None:
    tests = Path(__file__).with_name("rules_test.yml")
    tested = {
        one["alertname"] for test in yaml.safe_load(tests.read_text())["tests"] for one in test["alert_rule_test"]
    }
    assert tested == {alert["alert"] for alert in ALERTS}
    for file in (tests, RULES):
        shutil.copy(file, tmp_path)
    run(promtool, "test", "rules", tmp_path / tests.name)


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus with our config, which finds a consumer here in place of compose's."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not on this machine")
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["tidegauge", "accuracy", "model-server"]
    assert config["scrape_configs"][2]["metrics_path"] == METRICS_PATH
    port = free_port()
    with MetricsServer(LiveCollector(busy()), 0) as server:
        for job in config["scrape_configs"]:
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        shutil.copy(RULES, tmp_path)
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'db'}",
        ]
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        yield f"http://127.0.0.1:{port}/api/v1"
        process.terminate()
        process.wait(timeout=20)


def test_a_real_prometheus_scrapes_a_consumer_and_loads_the_rules(scraped: str) -> None:
    def asked(path: str) -> Any:
        with urllib.request.urlopen(f"{scraped}/{path}", timeout=5) as response:
            return json.load(response)["data"]

    query = "sum by (job) (tidegauge_events_total) == sum by (job) (tidegauge_events_in_total)"
    give_up, results = time.monotonic() + 30, []
    while not results:
        assert time.monotonic() < give_up
        time.sleep(0.2)
        try:
            results = asked(f"query?query={quote(query)}")["result"]
        except OSError:
            continue
    assert {found["value"][1] for found in results} == {"10"}
    groups = asked("rules")["groups"]
    assert sum(len(group["rules"]) for group in groups) == len(ALERTS)
