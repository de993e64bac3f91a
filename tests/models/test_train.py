"""A training run: what it learns, what it leaves, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from models import layout, stored
from models.answers import answer_of
from models.checkpoint import Checkpoint
from models.evaluation import evaluate_forecasts, evaluate_model
from models.forecaster import build_forecaster
from models.forms import input_forms
from models.progress import EpochLines
from models.reader import windows
from models.train import train
from models.yardsticks import yardsticks
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, ModelError, TidegaugeError
from tests.models.conftest import Trained, easy_series, easy_spec
from tests.models.datasets import lay_dataset
from tidegauge import main


def epochs_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / layout.METRICS_FILE).read_text().splitlines()]


def test_the_loss_falls_and_the_model_beats_persistence(trained: Trained) -> None:
    epochs = epochs_of(trained.run)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 2
    summary = trained.summary
    assert summary.skill is not None
    assert summary.skill > 0.5
    evaluation = json.loads((trained.run / layout.EVALUATION_FILE).read_text())
    assert summary.skill == evaluation["standardised"]["skill"]
    assert summary.mae == {"load": evaluation["targets"]["load"]["mae"]}
    assert summary.mae_persistence == {"load": evaluation["targets"]["load"]["mae_persistence"]}
    assert summary.windows == {name: split.windows for name, split in trained.dataset.manifest.splits.items()}


def test_the_run_folder(trained: Trained) -> None:
    run = json.loads((trained.run / layout.RUN_FILE).read_text())
    assert run["spec"] == trained.spec.semantic_document()
    assert run["outcome"]["best_epoch"] == trained.summary.best_epoch
    assert {"python", "tensorflow", "keras", "numpy", "tidegauge"} <= set(run["environment"])
    assert (trained.run / layout.CURVE_FILE).read_bytes().startswith(b"\x89PNG")
    for part in ("train", "validation"):
        board = EventAccumulator(str(trained.run / layout.LOGS_FOLDER / part))
        board.Reload()
        assert "epoch_loss" in board.Tags()["tensors"]


def test_the_evaluation_is_of_the_best_weights(trained: Trained) -> None:
    model = build_forecaster(trained.spec, trained.dataset.statistics)
    model.load_weights(trained.run / layout.WEIGHTS_FILE)
    stored = json.loads((trained.run / layout.EVALUATION_FILE).read_text())
    beside = yardsticks(trained.spec, trained.dataset)
    forecast = answer_of(model)
    assert stored == evaluate_forecasts(trained.spec, trained.dataset, "test", forecast, beside).document
    assert list(trained.summary.skills) == ["persistence", "seasonal", "linear"]
    assert trained.summary.skills["linear"] == stored["standardised"]["skill_linear"]
    best = min(epochs_of(trained.run), key=lambda epoch: float(epoch["val_loss"]))
    validation = evaluate_model(trained.spec, trained.dataset, "validation", model)["standardised"]
    assert validation["mae"] == pytest.approx(best["val_mae"], rel=1e-4)
    assert validation["skill"] == pytest.approx(best["val_skill"], rel=1e-3)


def test_the_same_seed_gives_the_same_model_and_quiet_is_quiet(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def epochs(name: str, *, quiet: bool, **training: int) -> list[dict[str, Any]]:
        spec = trained.spec.model_copy(update={"training": trained.spec.training.model_copy(update=training)})
        train(spec, data=trained.dataset.path, output=tmp_path / name, quiet=quiet)
        return epochs_of(tmp_path / name)

    first = [epoch["val_loss"] for epoch in epochs_of(trained.run)]
    capfd.readouterr()
    again = epochs("again", quiet=False)
    told = capfd.readouterr()
    assert [epoch["val_loss"] for epoch in again] == first
    assert told.out == ""
    assert [line[:10] for line in told.err.splitlines() if "epoch" in line] == [f"epoch {n}/3 " for n in (1, 2, 3)]

    [other] = epochs("other", quiet=True, seed=trained.spec.training.seed + 1, epochs=1)
    assert other["val_loss"] != first[0]
    told = capfd.readouterr()
    assert "epoch" not in told.out + told.err


@pytest.mark.slow
def test_a_run_that_was_killed_and_interrupted_ends_as_an_undisturbed_one(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, run = tmp_path / "spec.yaml", tmp_path / "run"
    spec.write_text(yaml.safe_dump(trained.spec.semantic_document()))
    arguments = ["train", "--spec", str(spec), "--data", str(trained.dataset.path), "--output", str(run), "--resume"]

    # Killed without a word, within an epoch that is not the first.
    command = [sys.executable, "-m", "tidegauge", *arguments, "--checkpoint-every", "0s", "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if (run / layout.CHECKPOINT_FILE).exists():
                state = Checkpoint.read(run / layout.CHECKPOINT_FILE)
                if state.records and state.step:
                    process.kill()
                    break
            time.sleep(0.01)
    assert process.returncode == -signal.SIGKILL
    assert not (run / layout.EXPORT_FOLDER).exists()

    # Then Ctrl-C, in the same epoch or the next.
    move = EpochLines.move

    def moved(self: EpochLines, step: int) -> None:
        if step == 20:
            signal.raise_signal(signal.SIGINT)
        move(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(EpochLines, "move", moved)
        assert main(arguments) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        rf"tidegauge: {run}: interrupted in epoch [23], after 20 of \d+ batches; --resume goes on", last
    )

    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    whole = asdict(trained.summary)
    for told in (summary, whole):
        del told["run"], told["seconds"]
    assert summary == whole
    expected, found = (stored.load(folder).model.get_weights() for folder in (trained.run, run))
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not (run / layout.CHECKPOINT_FILE).exists()

    # A run that is complete is left as it is; one of another spec is no run to resume.
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == summary["epochs"]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    spec.write_text(yaml.safe_dump(easy_spec().semantic_document()))
    assert main(arguments) == 2
    assert "expected a run of this spec and dataset to resume, got one with another spec" in capsys.readouterr().err


def test_bfloat16_computes_in_it_and_gives_float32(easy_dataset: DatasetFolder, tmp_path: Path) -> None:
    spec = easy_spec(training={"precision": "bfloat16", "windows_per_epoch": 256})
    inputs = next(windows(easy_dataset, "test", batch_size=8).as_numpy_iterator())
    model = build_forecaster(spec, easy_dataset.statistics, precision="bfloat16")
    assert {layer.compute_dtype for layer in model.layers if layer.weights} == {"bfloat16"}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model.predict_on_batch({name: inputs[name] for name in input_forms(spec)})["mean"].dtype == np.float32

    summary = train(spec, data=easy_dataset.path, output=tmp_path / "run", quiet=True)
    epochs = epochs_of(tmp_path / "run")
    assert epochs[-1]["val_loss"] < epochs[0]["val_loss"]
    assert summary.skill is not None
    assert {layer.compute_dtype for layer in stored.load(tmp_path / "run").model.layers} == {"float32"}


def refusal(error: type[TidegaugeError], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(error) as refused:
        train(*args, **kwargs, quiet=True)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_folder_in_use_is_refused(trained: Trained, tmp_path: Path) -> None:
    message = refusal(ModelError, trained.spec, data=trained.dataset.path, output=trained.run)
    assert message == f"{trained.run}: expected a new or empty folder for the run, got one with files in it"
    file = tmp_path / "file"
    file.touch()
    assert "expected a folder" in refusal(ModelError, trained.spec, data=trained.dataset.path, output=file)


def test_another_dataset_is_refused(easy_dataset: DatasetFolder, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert "expected windows" in refusal(
        DatasetError, easy_spec(window={"past": 25}), data=easy_dataset.path, output=output
    )
    split = {"train": ["1970-01-01", "1970-01-20"]}
    other = easy_spec(split=easy_spec().model_dump(mode="json")["split"] | split)
    assert "($.split)" in refusal(DatasetError, other, data=easy_dataset.path, output=output)
    assert "is no complete dataset" in refusal(DatasetError, easy_spec(), data=tmp_path, output=output)
    assert not output.exists()


def test_a_spec_without_a_model_is_refused(easy_dataset: DatasetFolder, tmp_path: Path) -> None:
    spec = easy_spec().model_copy(update={"model": None})
    assert "$.model" in refusal(ModelError, spec, data=easy_dataset.path, output=tmp_path / "run")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    folder = lay_dataset(tmp_path / "dataset", easy_spec(), easy_series(days=35))
    message = refusal(DatasetError, easy_spec(), data=folder.path, output=tmp_path / "run")
    assert message == f"{folder.path}: expected windows in the split 'test', got none"


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = lay_dataset(tmp_path / "dataset", easy_spec(), easy_series())
    shard = folder.shard_paths("validation")[0]
    shard.write_bytes(shard.read_bytes()[:-9])
    message = refusal(DatasetError, easy_spec(), data=folder.path, output=tmp_path / "run")
    assert message == f"{shard}: is not the file that was ingested (its sha256 differs); ingest again"
    shard.unlink()
    message = refusal(DatasetError, easy_spec(), data=folder.path, output=tmp_path / "run")
    assert message == f"{shard}: cannot be read: No such file or directory"


def test_a_loss_that_is_no_number_stops_the_run(easy_dataset: DatasetFolder, tmp_path: Path) -> None:
    spec = easy_spec(training={"learning_rate": 1e30})
    message = refusal(ModelError, spec, data=easy_dataset.path, output=tmp_path / "run")
    assert message.startswith("epoch 1: expected a finite loss, got ")
    assert not (tmp_path / "run" / layout.EXPORT_FOLDER).exists()


def test_training_goes_on_from_the_weights_of_another_run(trained: Trained, tmp_path: Path) -> None:
    once = trained.spec.training.model_copy(update={"epochs": 1})
    spec = trained.spec.model_copy(update={"training": once})
    warm = train(spec, data=trained.dataset.path, output=tmp_path / "warm", quiet=True, warm_from=trained.run)
    cold_epochs = [json.loads(line) for line in (trained.run / layout.METRICS_FILE).read_text().splitlines()]
    [warm_epoch] = [json.loads(line) for line in (tmp_path / "warm" / layout.METRICS_FILE).read_text().splitlines()]
    # The same first epoch of batches, from where the last one of the other run ended.
    assert warm_epoch["val_loss"] < 0.5 * cold_epochs[0]["val_loss"]
    record = json.loads((tmp_path / "warm" / layout.RUN_FILE).read_bytes())
    assert len(record["started_from"]["weights_sha256"]) == 64
    again = train(
        spec, data=trained.dataset.path, output=tmp_path / "warm", quiet=True, warm_from=trained.run, resume=True
    )
    assert again == warm
    with pytest.raises(ModelError, match="expected a run of this spec and dataset to resume"):
        train(spec, data=trained.dataset.path, output=tmp_path / "warm", quiet=True, resume=True)


def test_only_weights_of_the_same_model_are_gone_on_from(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a run of this spec's model and windows to start from"):
        train(easy_spec(), data=trained.dataset.path, output=tmp_path / "run", quiet=True, warm_from=trained.run)
    fitted = easy_spec(model={"family": "linear"})
    with pytest.raises(ModelError, match="'linear' is fitted in one go, and starts from no weights"):
        train(fitted, data=trained.dataset.path, output=tmp_path / "run", quiet=True, warm_from=trained.run)
    assert not (tmp_path / "run").exists()
