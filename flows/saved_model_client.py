"""A SavedModel asked in this process, with the interface and the checks of the gRPC client."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import FingerprintMismatch, ModelError
from schemas.spec import Spec, served_levels
from schemas.text_spec import TextSpec
from streaming.model_client import Answer, Arrays, Waiting


def resolve_version(model: Path) -> Path:
    """The folder of a version: `BASE/NAME/VERSION` as it is, and of `BASE/NAME` the highest version.

    Raises:
      ModelError: there is no model.
    """
    if model.name.isdecimal() and (model / "saved_model.pb").is_file():
        return model
    versions = sorted(
        (path for path in model.glob("*/") if path.name.isdecimal() and (path / "saved_model.pb").is_file()),
        key=lambda path: int(path.name),
    )
    if not versions:
        raise ModelError(f"{model}: expected BASE/NAME or BASE/NAME/VERSION of a published model, got no version there")
    return versions[-1]


class SavedModelClient:
    """Predicts with one version of a model on disk.

    Args:
      spec: whose windows the model must have been made for.
      version: the folder `BASE/NAME/VERSION`.
    Raises:
      ModelError: the folder holds no SavedModel that can be loaded.
      FingerprintMismatch: the model was made for other windows.
    """

    def __init__(self, spec: Spec | TextSpec, version: Path) -> None:
        import tensorflow as tf

        self.model, self._version = version.absolute().parent.name, int(version.name)
        try:
            # Kept: its variables go with it, and the signatures do not hold it.
            self._loaded = tf.saved_model.load(str(version))
            self._predict = self._loaded.signatures["serving_default"]
            describe = self._loaded.signatures["describe"]
        except KeyError as exc:
            raise FingerprintMismatch(
                f"{version}: the model does not say which windows it was made for: it has no signature {exc}"
            ) from exc
        except (OSError, ValueError, tf.errors.OpError) as exc:
            problem = str(exc).partition("\n")[0]
            raise ModelError(f"{version}: expected a SavedModel that loads, got: {problem:.300}") from exc
        self._names = set(self._predict.structured_input_signature[1])
        described = {name: value.numpy()[0] for name, value in describe(probe=tf.zeros(1, tf.int32)).items()}
        fingerprint = described["window_fingerprint"].decode()
        self._levels = served_levels(described["spec_json"].decode())
        if fingerprint != spec.window_fingerprint:
            raise FingerprintMismatch(
                f"{version}: expected a model of the windows {spec.window_fingerprint} (this spec's), "
                f"got one of {fingerprint}"
            )

        self._classes = described.get("classes", ())

    def classes(self, version: int) -> tuple[str, ...]:  # noqa: ARG002
        """What the scores of a model that classifies texts are of, in their order."""
        return tuple(name.decode() for name in self._classes)

    def ask(self, inputs: Arrays) -> Waiting:
        """Takes one batch; it is predicted when its answer is waited for."""
        return partial(self._answer, inputs)

    def _answer(self, inputs: Arrays) -> Answer:
        """Predicts one batch.

        Raises:
          ModelError: the model takes other inputs, or cannot compute.
        """
        import tensorflow as tf

        began = time.monotonic()
        if inputs.keys() != self._names:
            raise ModelError(f"model '{self.model}': expected the inputs {sorted(self._names)}, got {sorted(inputs)}")
        try:
            outputs = self._predict(**{name: tf.constant(_plain(array)) for name, array in inputs.items()})
        except (ValueError, tf.errors.OpError) as exc:
            problem = str(exc).partition("\n")[0]
            raise ModelError(f"model '{self.model}' version {self._version}: {problem:.300}") from exc
        latency_ms = (time.monotonic() - began) * 1_000
        arrays = {name: output.numpy() for name, output in outputs.items()}
        return Answer(arrays, self._version, latency_ms, self._levels)


def _plain(array: NDArray[Any]) -> Any:
    return array.tolist() if array.dtype == np.object_ else array
