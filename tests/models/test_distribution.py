"""Training over two devices and over two processes: the same losses and the same model as on one device."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from models import layout
from models.distribution import KINDS, Distribution, kind_of
from models.train import train
from schemas.dataset import DatasetFolder
from schemas.errors import ModelError
from tests.models.conftest import easy_spec
from tests.models.text.conftest import lay_moods, moods_spec


def start(strategy: str, spec: Path, data: Path, output: Path, environment: Mapping[str, str] | None = None) -> Any:
    command = [sys.executable, "-m", "tests.models.distributed", strategy, spec, data, output]
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def epochs_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / layout.METRICS_FILE).read_text().splitlines()]


@pytest.mark.slow
def test_two_devices_and_two_processes_learn_what_one_device_learns(
    easy_dataset: DatasetFolder, tmp_path: Path
) -> None:
    # All kinds of inputs, and batches that two do not share evenly.
    spec = easy_spec(model={"scaling": "per_key"}, training={"epochs": 2, "windows_per_epoch": 192})
    summary = train(spec, data=easy_dataset.path, output=tmp_path / "one", quiet=True)
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    tasks = [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})}
        for index in range(2)
    ]
    file, data = tmp_path / "spec.yaml", easy_dataset.path
    file.write_text(yaml.safe_dump(spec.semantic_document()))
    processes = {
        "mirrored": start("mirrored", file, data, tmp_path / "mirrored"),
        "chief": start("multi-worker", file, data, tmp_path / "chief", tasks[0]),
        "other": start("multi-worker", file, data, tmp_path / "other", tasks[1]),
    }
    told = {}
    for name, process in processes.items():
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, f"{name}: {err[-3000:]}"
        told[name] = json.loads(out)
    assert not (tmp_path / "other").exists()  # only the chief writes

    expected = epochs_of(tmp_path / "one")
    for name in ("mirrored", "chief"):
        found = epochs_of(tmp_path / name)
        assert len(found) == len(expected) == 2
        for left, right in zip(expected, found, strict=True):
            for number in ("loss", "mae", "val_loss", "val_mae"):
                assert right[number] == pytest.approx(left[number], rel=1e-4)
        assert told[name]["skill"] == pytest.approx(summary.skill, rel=1e-3)
        assert (tmp_path / name / layout.EXPORT_FOLDER).is_dir()
    assert told["other"]["mae"] == pytest.approx(told["chief"]["mae"])


@pytest.mark.slow
def test_two_devices_learn_of_texts_what_one_device_learns(tmp_path: Path) -> None:
    spec = moods_spec(model={"family": "cnn", "embedding": 8, "filters": 4, "dropout": 0.0, "bigrams": {}})
    data, file = lay_moods(tmp_path, spec).path, tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(spec.semantic_document()))
    told = {}
    for name in ("one", "mirrored"):
        process = start(name, file, data, tmp_path / name)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, f"{name}: {err[-3000:]}"
        told[name] = json.loads(out)
    # The documents of an epoch are the same; which n-grams are left out is not, so only what does not hang on it is.
    assert told["mirrored"]["accuracy_bigrams"] == told["one"]["accuracy_bigrams"]
    assert told["mirrored"]["accuracy"] == pytest.approx(told["one"]["accuracy"], abs=0.1)
    losses = [[epoch["val_loss"] for epoch in epochs_of(tmp_path / name)] for name in ("one", "mirrored")]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_what_there_is_not() -> None:
    assert [kind_of(name) for name in KINDS] == list(KINDS)
    with pytest.raises(ModelError, match="--strategy: expected one of one, mirrored, multi-worker, tpu, got 'two'"):
        kind_of("two")


@pytest.mark.parametrize(
    "config", [None, "{}", "nothing", '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}']
)
def test_a_cluster_is_named_by_tf_config(config: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ModelError, match="TF_CONFIG"):
        Distribution("multi-worker")
