"""A served model without training: every horizon step is the last observed value plus `shift`.

python -m tests.e2e.persistence_model FOLDER SHIFT < spec.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from schemas.spec import Spec, parse_spec

REFUSED = 1e30
"""The model refuses windows with such a value, or a greater one."""


def write_persistence_model(spec: Spec, folder: Path, shift: float) -> None:
    import tensorflow as tf

    past, horizon, width = spec.window.past, spec.window.horizon, len(spec.stream.features)
    future = sum(feature.calendar is not None for feature in spec.stream.features)
    targets = [index for index, feature in enumerate(spec.stream.features) if feature.role == "target"]

    class Persistence(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, past, width], tf.float32, name="past_values"),
                tf.TensorSpec([None, past, width], tf.bool, name="past_observed"),
                tf.TensorSpec([None, horizon, future], tf.float32, name="future_values"),
            ]
        )
        def predict(self, past_values, past_observed, future_values):
            largest = tf.reduce_max(tf.where(past_observed, past_values, 0.0))
            tf.debugging.assert_less(largest, REFUSED, message="a value that I do not take")
            steps = []
            for target in targets:
                seen = tf.where(past_observed[:, :, target], tf.range(past)[None], -1)
                steps.append(tf.gather(past_values[:, :, target], tf.reduce_max(seen, axis=1), batch_dims=1))
            last = tf.stack(steps, axis=1)[:, None] + shift
            return {"mean": tf.tile(last, [1, horizon, 1])}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="probe")])
        def describe(self, probe):
            text = json.dumps(spec.semantic_document())
            return {
                "window_fingerprint": tf.fill(tf.shape(probe), spec.window_fingerprint),
                "spec_json": tf.fill(tf.shape(probe), text),
            }

    module = Persistence()
    signatures = {"serving_default": module.predict, "describe": module.describe}
    unfinished = folder.with_name(f"unfinished-{folder.name}")
    tf.saved_model.save(module, str(unfinished), signatures=signatures)
    unfinished.rename(folder)


if __name__ == "__main__":
    write_persistence_model(parse_spec(json.load(sys.stdin)), Path(sys.argv[1]), float(sys.argv[2]))
