"""PredictionService.Regress: one number for each example."""

from __future__ import annotations

from streaming.model_server.call import Call
from streaming.model_server.classifier import inference_signature
from streaming.model_server.inference_input import examples_input, serialized_examples
from streaming.model_server.predict import fill_model_spec
from streaming.model_server.server_core import ServerCore
from streaming.model_server.signature import Signature, TensorRef
from streaming.model_server.status import failed_precondition, invalid_argument
from streaming.serving_protos import DataType, RegressionRequest, RegressionResponse, RegressionResult
from streaming.tensors import Array

REGRESS_METHOD = "tensorflow/serving/regress"
_OUTPUTS = "outputs"


def regress(core: ServerCore, request: RegressionRequest, call: Call) -> RegressionResponse:
    """Answers one request.

    Raises:
      StatusError, tf.errors.OpError: with TensorFlow Serving's codes and texts.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    with core.servable(request.model_spec) as servable:
        signature = inference_signature(servable, request.model_spec, REGRESS_METHOD)
        examples = serialized_examples(request.input)
        output = regression_output(signature)
        (values,) = servable.run((examples_input(signature),), [examples], (output,), call)
        response = RegressionResponse()
        fill_model_spec(response.model_spec, servable, signature.key)
        fill_regressions(response.result, output, values, len(examples))
    return response


def regression_output(signature: Signature) -> TensorRef:
    """The one output of a regress signature.

    Raises:
      StatusError: FAILED_PRECONDITION if there are others, or none of that name.
    """
    if len(signature.outputs) != 1:
        raise failed_precondition(f"Expected one output Tensor, got {len(signature.outputs)} in {signature.key}")
    output = signature.outputs.get(_OUTPUTS)
    if output is None:
        raise failed_precondition("No regression outputs found in SignatureDef")
    return output


def fill_regressions(result: RegressionResult, output: TensorRef, values: Array, examples: int) -> None:
    """Writes values, float32 `(example,)` or `(example, 1)`, into a result.

    Raises:
      StatusError: FAILED_PRECONDITION for an array of another form.
    """
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
        raise failed_precondition(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(values.shape)}"
        )
    if len(values) != examples:
        raise failed_precondition(f"Expected output batch size to be {examples}. Got: {len(values)}")
    if output.dtype != DataType.DT_FLOAT:
        raise failed_precondition("Expected output Tensor of DT_FLOAT")
    for value in values.ravel().tolist():
        result.regressions.add(value=value)
