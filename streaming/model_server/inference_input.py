"""The `Input` of Classify, Regress and MultiInference: tf.Examples, as the serialised strings that a model takes."""

from __future__ import annotations

import numpy as np

from streaming.model_server.signature import Signature, TensorRef
from streaming.model_server.status import failed_precondition, invalid_argument
from streaming.serving_protos import DataType, Input
from streaming.tensors import Array

INPUTS = "inputs"


def serialized_examples(request_input: Input) -> Array:
    """The examples of a request.

    A context is laid before each example: in a message that is read twice the later value of a feature counts, so that
    an example's own features override the context's.

    Returns:
      bytes (object), `(example,)`.

    Raises:
      StatusError: INVALID_ARGUMENT if there are none.
    """
    kind = request_input.WhichOneof("kind")
    prefix = b""
    if kind == "example_list":
        examples = request_input.example_list.examples
    elif kind == "example_list_with_context":
        examples = request_input.example_list_with_context.examples
        prefix = request_input.example_list_with_context.context.SerializeToString()
    else:
        examples = ()
    if not examples:
        raise invalid_argument("Input is empty.")
    serialized = np.empty(len(examples), dtype=object)
    serialized[:] = [prefix + example.SerializeToString() for example in examples]
    return serialized


def examples_input(signature: Signature) -> TensorRef:
    """The one input of a classify or regress signature.

    Raises:
      StatusError: FAILED_PRECONDITION if the signature has another number of inputs, or none of that name;
        INVALID_ARGUMENT if it takes no strings.
    """
    if len(signature.inputs) != 1:
        raise failed_precondition(f"Expected one input Tensor, got {len(signature.inputs)} in {signature.key}")
    ref = signature.inputs.get(INPUTS)
    if ref is None:
        raise failed_precondition(f"No {signature.method_name.rpartition('/')[2]} inputs found in SignatureDef")
    if ref.dtype != DataType.DT_STRING:
        # The graph takes floats where tf.Examples are strings; the runtime would say so too.
        raise invalid_argument("Expects arg[0] to be float but string is provided")
    return ref
