"""A SignatureDef, prepared for serving: names, tensors and defaults in fixed orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from streaming.serving_protos import DataType, SignatureDef
from streaming.tensors import Array, decode_tensor

INIT_OP_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")
"""SignatureDefs that SavedModel keeps for itself: no client can run them."""


class TensorRef(NamedTuple):
    """One input or output of a signature: its alias there, and its tensor in the graph."""

    signature: str
    alias: str
    tensor: str
    dtype: int


@dataclass(frozen=True)
class Signature:
    """One entry point of a model.

    Attributes:
      key: its name, as requests say it.
      definition: the SignatureDef as saved.
      inputs: by alias, in the order of the aliases.
      outputs: by alias, in the order of the aliases.
      defaults: values of inputs that a request may leave out.
      feeds: the inputs, as `Servable.run` takes them.
      fetches: the outputs, likewise.
    """

    key: str
    definition: SignatureDef
    inputs: Mapping[str, TensorRef]
    outputs: Mapping[str, TensorRef]
    defaults: Mapping[str, Array]
    feeds: tuple[TensorRef, ...]
    fetches: tuple[TensorRef, ...]

    @property
    def method_name(self) -> str:
        """What kind of signature it is, such as `tensorflow/serving/predict`."""
        return str(self.definition.method_name)

    @classmethod
    def of(cls, key: str, definition: SignatureDef) -> Signature:
        """Prepares a saved definition.

        Raises:
          ValueError: a default value is no valid tensor.
        """
        inputs = {alias: _ref(key, alias, definition.inputs) for alias in sorted(definition.inputs)}
        outputs = {alias: _ref(key, alias, definition.outputs) for alias in sorted(definition.outputs)}
        return cls(
            key=key,
            definition=definition,
            inputs=inputs,
            outputs=outputs,
            feeds=tuple(inputs.values()),
            fetches=tuple(outputs.values()),
            defaults={alias: decode_tensor(definition.defaults[alias]) for alias in sorted(definition.defaults)},
        )


def _ref(key: str, alias: str, infos: Mapping[str, SignatureDef]) -> TensorRef:
    return TensorRef(key, alias, infos[alias].name, infos[alias].dtype)


def dtype_name(dtype: int) -> str:
    """A DataType as TensorFlow's error messages write it: `float`, `bool`, `string`."""
    if dtype not in DataType.values():
        return f"DataType {dtype}"
    return str(DataType.Name(dtype)).removeprefix("DT_").lower()
