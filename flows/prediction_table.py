"""Predictions as an Arrow table, one row each: what batch scoring writes.

| column | type | |
|---|---|---|
| `id` | string | the `ce_id` that the live path gives the same prediction |
| `key`, `origin_ms`, `role` | string, int64, string | what it is about |
| `<target>_mean` | fixed_size_list<float>[horizon] | the forecast, in the field's metadata `unit` |
| `<target>_q<level>` | fixed_size_list<float>[horizon] | its quantiles, such as `temp_q0.05`, where the model has any |
| `<target>_last_observed`, `<target>_last_observed_ms` | float, int64 | the last really observed value and its step |
| `label`, `scores` | string, fixed_size_list<float>[class] | of a stream with a label, in place of its targets |
| `observed_fraction`, `window_digest` | double, string | as in the predictions topic |
| `model_name`, `model_version`, `window_fingerprint` | string, int64, string | who answered |
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from schemas.class_prediction import ClassPrediction
from schemas.prediction import Prediction, WindowPrediction, level_name
from schemas.spec import Spec


def prediction_schema(spec: Spec, levels: Sequence[float]) -> pa.Schema:
    """The table's columns; the schema's metadata names the stream, its step in ms, and its classes as JSON."""
    fields = [pa.field("id", pa.string()), pa.field("key", pa.string()), pa.field("origin_ms", pa.int64())]
    if spec.classes:
        fields += [pa.field("label", pa.string()), pa.field("scores", pa.list_(pa.float32(), len(spec.classes)))]
    for target in spec.targets:
        unit = {"unit": target.unit}
        fields += [
            pa.field(f"{target.name}_mean", pa.list_(pa.float32(), spec.window.horizon), metadata=unit),
            *(
                pa.field(
                    f"{target.name}_q{level_name(level)}", pa.list_(pa.float32(), spec.window.horizon), metadata=unit
                )
                for level in levels
            ),
            pa.field(f"{target.name}_last_observed", pa.float32(), metadata=unit),
            pa.field(f"{target.name}_last_observed_ms", pa.int64()),
        ]
    fields += [
        pa.field("observed_fraction", pa.float64()),
        pa.field("window_digest", pa.string()),
        pa.field("model_name", pa.string()),
        pa.field("model_version", pa.int64()),
        pa.field("window_fingerprint", pa.string()),
        pa.field("role", pa.string()),
    ]
    metadata = {"stream": spec.stream.name, "step_ms": str(spec.grid.step)}
    return pa.schema(fields, metadata | ({"classes": json.dumps(spec.classes)} if spec.classes else {}))


def prediction_table(spec: Spec, predictions: Sequence[WindowPrediction]) -> pa.Table:
    """The rows of some predictions of one version, in their order; at least one."""
    stream = spec.stream.name
    columns: dict[str, object] = {
        "id": [prediction.id(stream) for prediction in predictions],
        "key": [prediction.key for prediction in predictions],
        "origin_ms": [prediction.origin_ms for prediction in predictions],
        "observed_fraction": [prediction.observed_fraction for prediction in predictions],
        "window_digest": [prediction.window_digest for prediction in predictions],
        "model_name": [prediction.model.name for prediction in predictions],
        "model_version": [prediction.model.version for prediction in predictions],
        "window_fingerprint": [prediction.model.window_fingerprint for prediction in predictions],
        "role": [prediction.role for prediction in predictions],
    }
    levels: tuple[float, ...] = ()
    if spec.classes:
        columns |= _of_classes([found for found in predictions if isinstance(found, ClassPrediction)])
    else:
        forecasts = [found for found in predictions if isinstance(found, Prediction)]
        levels = forecasts[0].levels
        columns |= _of_targets(spec, forecasts)
    return pa.table(columns, schema=prediction_schema(spec, levels))


def _of_classes(predictions: Sequence[ClassPrediction]) -> dict[str, object]:
    scores = pa.array(np.concatenate([prediction.scores for prediction in predictions]))
    return {
        "label": [prediction.label for prediction in predictions],
        "scores": pa.FixedSizeListArray.from_arrays(scores, len(predictions[0].classes)),
    }


def _of_targets(spec: Spec, predictions: Sequence[Prediction]) -> dict[str, object]:
    columns: dict[str, object] = {}
    for index, target in enumerate(spec.targets):
        mean = np.concatenate([prediction.mean[:, index] for prediction in predictions])
        columns[f"{target.name}_mean"] = pa.FixedSizeListArray.from_arrays(pa.array(mean), spec.window.horizon)
        for number, level in enumerate(predictions[0].levels):
            of_level = np.concatenate([prediction.quantiles[:, index, number] for prediction in predictions])
            name = f"{target.name}_q{level_name(level)}"
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(of_level), spec.window.horizon)
        columns[f"{target.name}_last_observed"] = [prediction.last_observed[index] for prediction in predictions]
        columns[f"{target.name}_last_observed_ms"] = [prediction.last_observed_ms[index] for prediction in predictions]
    return columns
