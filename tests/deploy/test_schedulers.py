"""The files for schedulers: they are what Kubernetes and Airflow take, and call the command line as it is."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows import probation, retrain
from tests.deploy.commands import check_command

DEPLOY = Path(__file__).parents[2] / "deploy"
CRON_JOBS = DEPLOY / "k8s" / "retrain" / "cronjobs.yaml"
DAGS = DEPLOY / "airflow" / "tidegauge_retrain.py"
EXIT_CODES = {"retrain": set(retrain.EXIT_CODES.values()), "probation": set(probation.EXIT_CODES.values())}


def cron_jobs() -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in yaml.safe_load_all(CRON_JOBS.read_text())}


def container(job: dict[str, Any]) -> dict[str, Any]:
    [found] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def bash_commands() -> dict[str, tuple[str, list[int]]]:
    """The commands of the DAGs' tasks by task, as Airflow would run them, and the exit codes that skip the task."""
    tree = ast.parse(DAGS.read_text())
    values: dict[str, Any] = {"os": os}
    for node in tree.body:
        if isinstance(node, ast.Assign) and "datetime" not in ast.dump(node):
            exec(compile(ast.Module([node], []), str(DAGS), "exec"), values)
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "BashOperator":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            task, command, codes = (
                eval(compile(ast.Expression(given[name]), str(DAGS), "eval"), values)
                for name in ("task_id", "bash_command", "skip_on_exit_code")
            )
            found[task] = (command.replace("{{ dag_run.run_after.isoformat() }}", "2025-06-02T03:00:00+00:00"), codes)
    return found


def checked(command: str) -> str:
    """The verb of a command that the command line takes."""
    return check_command(shlex.split(command.removeprefix("exec ")))


@pytest.mark.parametrize("name", ["tidegauge-retrain", "tidegauge-probation"])
@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_cron_jobs_are_what_kubernetes_takes(name: str, version: str) -> None:
    kubernetes_validate.validate(cron_jobs()[name], version, strict=True)


def shell_commands(text: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(r"(tidegauge [a-z]+(?: --[a-z-]+(?:=\S+?)?)*)(?=[;&\s]|$)", text))


def test_cron_jobs_call_the_verbs() -> None:
    found = {
        name: [checked(command) for command in shell_commands(container(job)["args"][0])]
        for name, job in cron_jobs().items()
    }
    assert found == {"tidegauge-retrain": ["retrain"], "tidegauge-probation": ["probation"]}


@pytest.mark.parametrize(("verb", "succeeds"), [("retrain", {0, 3, 4}), ("probation", {0, 3, 4, 5})])
def test_a_job_has_succeeded_where_nothing_is_to_be_done_about_it(
    verb: str, succeeds: set[int], tmp_path: Path
) -> None:
    """The script of the container itself, with a program that ends with each exit code."""
    [script] = container(cron_jobs()[f"tidegauge-{verb}"])["args"]
    program = tmp_path / "tidegauge"
    program.write_text(f'#!/bin/sh\n[ "$1" = {verb} ] && exit $CODE\nexit 99\n')
    program.chmod(0o755)
    for code in {1, 2, 130, *EXIT_CODES[verb]}:
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code)}
        done = subprocess.run(["/bin/sh", "-c", script], env=environment, timeout=20)
        assert done.returncode == (0 if code in succeeds else code)


def test_a_pod_that_is_evicted_lets_the_run_end(tmp_path: Path) -> None:
    [script] = container(cron_jobs()["tidegauge-retrain"])["args"]
    program = tmp_path / "tidegauge"
    program.write_text("#!/bin/sh\ntrap 'echo ended; exit 130' TERM\necho began\nwhile :; do sleep 0.05; done\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(["/bin/sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.terminate()
    assert process.communicate(timeout=20)[0] == "ended\n"
    assert process.returncode == 130


def test_dags_call_the_verbs() -> None:
    found = bash_commands()
    assert {task: checked(command) for task, (command, _) in found.items()} == {
        "retrain": "retrain",
        "probation": "probation",
    }
    assert {task: codes for task, (_, codes) in found.items()} == {"retrain": [3, 4], "probation": [3, 5]}


@pytest.mark.skipif(importlib.util.find_spec("airflow") is None, reason="Airflow is not installed")
def test_airflow_loads_the_dags(tmp_path: Path) -> None:
    load = (
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(DAGS.parent)!r}, include_examples=False)\n"
        "assert not bag.import_errors, bag.import_errors\n"
        "assert sorted(bag.dags) == ['tidegauge_probation', 'tidegauge_retrain'], bag.dags\n"
    )
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", load], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
