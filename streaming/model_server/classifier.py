"""PredictionService.Classify: labels and scores for each example."""

from __future__ import annotations

from collections.abc import Sequence

from streaming.model_server.call import Call
from streaming.model_server.inference_input import examples_input, serialized_examples
from streaming.model_server.predict import DEFAULT_SIGNATURE, fill_model_spec
from streaming.model_server.servable import Servable
from streaming.model_server.server_core import ServerCore
from streaming.model_server.signature import Signature, TensorRef
from streaming.model_server.status import failed_precondition, invalid_argument
from streaming.serving_protos import (
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
    DataType,
    ModelSpec,
)
from streaming.tensors import Array

CLASSIFY_METHOD = "tensorflow/serving/classify"
_CLASSES = "classes"
_SCORES = "scores"


def classify(core: ServerCore, request: ClassificationRequest, call: Call) -> ClassificationResponse:
    """Answers one request.

    Raises:
      StatusError, tf.errors.OpError: with TensorFlow Serving's codes and texts.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    with core.servable(request.model_spec) as servable:
        signature = inference_signature(servable, request.model_spec, CLASSIFY_METHOD)
        examples = serialized_examples(request.input)
        fetches = classification_outputs(signature)
        results = servable.run((examples_input(signature),), [examples], fetches, call)
        response = ClassificationResponse()
        fill_model_spec(response.model_spec, servable, signature.key)
        fill_classifications(response.result, fetches, results, len(examples))
    return response


def inference_signature(servable: Servable, spec: ModelSpec, method: str) -> Signature:
    """The signature that a Classify or Regress request names.

    Raises:
      StatusError: INVALID_ARGUMENT if there is none of that name, or it is of another method.
    """
    key = spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(key)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {key}")
    if signature.method_name != method:
        kind = "classification" if method == CLASSIFY_METHOD else "regression"
        raise invalid_argument(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    return signature


def classification_outputs(signature: Signature) -> tuple[TensorRef, ...]:
    """The outputs that make a classification: classes, scores, or both.

    Raises:
      StatusError: FAILED_PRECONDITION if there is neither, or something else.
    """
    fetches = tuple(ref for alias, ref in signature.outputs.items() if alias in (_CLASSES, _SCORES))
    if not fetches or len(fetches) != len(signature.outputs):
        raise failed_precondition(
            f"Expected classification signature outputs to contain only {_CLASSES} and {_SCORES}. "
            f"Signature has outputs: {', '.join(signature.outputs)}"
        )
    return fetches


def fill_classifications(
    result: ClassificationResult, fetches: Sequence[TensorRef], results: Sequence[Array], examples: int
) -> None:
    """Writes classes and scores into a result.

    Args:
      result: is filled.
      fetches: which output each array is.
      results: classes bytes and scores float32, each `(example, class)`.
      examples: in the request.

    Raises:
      StatusError: FAILED_PRECONDITION for arrays of another form.
    """
    columns: dict[str, Array] = {}
    for ref, array in zip(fetches, results, strict=True):
        expected = DataType.DT_STRING if ref.alias == _CLASSES else DataType.DT_FLOAT
        if ref.dtype != expected:
            raise failed_precondition(f"Expected {ref.alias} Tensor of {DataType.Name(expected)}")
        if array.ndim != 2:
            raise failed_precondition(f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}")
        if len(array) != examples:
            raise failed_precondition(f"Expected {ref.alias} output batch size of {examples}. Got: {len(array)}")
        columns[ref.alias] = array
    classes, scores = columns.get(_CLASSES), columns.get(_SCORES)
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise failed_precondition(
            f"Tensors class and score should match in shape[1]. Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    width = next(iter(columns.values())).shape[1]
    for row in range(examples):
        classification = result.classifications.add()
        for column in range(width):
            classification.classes.add(
                label=b"" if classes is None else classes[row, column],
                score=0.0 if scores is None else scores[row, column],
            )
