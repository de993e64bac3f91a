"""Predict: a forecast from a file of recent events, by the same grid, windows and gRPC call as the live path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flows.history import History
from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import Windowing, Windows
from schemas.class_prediction import ClassPrediction
from schemas.errors import InputError
from schemas.prediction import Prediction, WindowPrediction
from schemas.spec import Spec
from schemas.units import format_duration, ms_to_iso
from streaming.predictor import Predictor
from streaming.schema_registry import json_writer
from streaming.serving_client import ServingClient


def predict(spec: Spec, inputs: Sequence[str], *, key: str | None = None) -> WindowPrediction:
    """Forecasts from the newest window of a key, or classifies it.

    Args:
      spec: the stream; its `serving` section says where the model is.
      inputs: files with the key's recent events.
      key: may be left out where the files hold one key only.
    Raises:
      InputError: the files hold no such key, or too few events for a window.
      ServingError: the server has not the model, or refuses.
    """
    history = History.read(spec, inputs)
    keys = sorted(set(history.key))
    if key is None and len(keys) == 1:
        key = keys[0]
    if key is None or key not in keys:
        raise InputError(f"{', '.join(inputs)}: expected a key of {_some(keys)}, got {key!r} (--key)")
    mine = history.key == key
    events = Events(history.time_ms[mine], history.position[mine], history.values[mine])
    windowing = Windowing(spec)
    _, runs, _ = windowing.push(windowing.empty(), events)
    found = [run for run in runs if len(run)]
    if not found:
        window = spec.window
        raise InputError(
            f"{', '.join(inputs)}: key {key} has {len(events)} events, which make no window: expected the target "
            f"observed in at least {window.min_observed} of {window.past} steps, and in the newest "
            f"{spec.grid.max_gap + 1}"
        )
    newest = Windows(found[-1].steps, found[-1].end[-1:], windowing.past, windowing.inputs)
    with ServingClient(spec) as client:
        client.wait_until_available(0)
        predictor = Predictor(spec, windowing, client)
        [prediction] = predictor.predict([(key, newest)])
    return prediction


def document(spec: Spec, prediction: WindowPrediction) -> dict[str, Any]:
    """The prediction as the predictions topic would have it."""
    found: dict[str, Any] = orjson.loads(json_writer(spec).value(prediction))
    return found


def lines(spec: Spec, prediction: WindowPrediction) -> list[str]:
    """The prediction in words."""
    if isinstance(prediction, ClassPrediction):
        return _class_lines(prediction)
    assert isinstance(prediction, Prediction)
    return _forecast_lines(spec, prediction)


def _class_lines(prediction: ClassPrediction) -> list[str]:
    """The class, and the score of each, the greatest first."""
    model, seen = prediction.model, ms_to_iso(prediction.origin_ms)
    head = f"{prediction.key}: {prediction.label} at {seen}, model {model.name} version {model.version}"
    scores = sorted(zip(prediction.classes, prediction.scores.tolist(), strict=True), key=lambda scored: -scored[1])
    width = max(map(len, prediction.classes))
    return [head, *(f"{name:<{width}}  {score:.4f}" for name, score in scores)]


def _forecast_lines(spec: Spec, prediction: Prediction) -> list[str]:
    """A table: the start of each horizon step, and each target in its unit.

    Where the model has quantiles, the bounds of the widest interval stand beside each target.
    """
    names = [f"{target.name} ({target.unit})" if target.unit else target.name for target in spec.targets]
    columns = [(name, prediction.mean[:, index]) for index, name in enumerate(names)]
    if prediction.levels:
        shown = [(prediction.levels[end], prediction.quantiles[..., end]) for end in (0, -1)]
        columns = [
            column
            for index, mean in enumerate(columns)
            for column in (mean, *((f"{level:.4g} quantile", values[:, index]) for level, values in shown))
        ]
    model = prediction.model
    steps = f"{spec.window.horizon} steps of {format_duration(spec.grid.step)} from {ms_to_iso(prediction.origin_ms)}"
    head = [f"{prediction.key}: {steps}, model {model.name} version {model.version}"]
    for index, name in enumerate(names):
        seen = ms_to_iso(int(prediction.last_observed_ms[index]))
        head.append(f"last observed {name}: {prediction.last_observed[index]:g} at {seen}")
    width = max(len(name) for name, _ in columns) + 2
    table = [f"{'step starts':<22}" + "".join(f"{name:>{width}}" for name, _ in columns)]
    for step in range(spec.window.horizon):
        start = ms_to_iso(prediction.origin_ms + step * spec.grid.step)
        table.append(f"{start:<22}" + "".join(f"{values[step]:>{width}.2f}" for _, values in columns))
    return head + table


def predict_raw(spec: Spec, tensors: Path) -> dict[str, Any]:
    """Sends the arrays of an `.npz` file (one for each input of the model) as they are.

    Returns:
      The answering version, and the outputs as nested lists.
    Raises:
      InputError: the file cannot be read.
      ServingError: the server refuses the tensors.
    """
    try:
        with np.load(tensors, allow_pickle=False) as arrays:
            inputs = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as exc:
        raise InputError(f"{tensors}: expected an .npz file of arrays, got {exc}") from exc
    with ServingClient(spec) as client:
        client.wait_until_available(0)
        answer = client.ask(inputs)()
    return {"version": answer.version, "outputs": {name: array.tolist() for name, array in answer.outputs.items()}}


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
