"""PredictionService.MultiInference: several classifications and regressions of the same examples, in one run."""

from __future__ import annotations

from streaming.model_server.call import Call
from streaming.model_server.classifier import CLASSIFY_METHOD, classification_outputs, fill_classifications
from streaming.model_server.inference_input import examples_input, serialized_examples
from streaming.model_server.predict import DEFAULT_SIGNATURE, fill_model_spec
from streaming.model_server.regressor import REGRESS_METHOD, fill_regressions, regression_output
from streaming.model_server.servable import Servable
from streaming.model_server.server_core import ServerCore
from streaming.model_server.signature import Signature, TensorRef
from streaming.model_server.status import Code, StatusError, failed_precondition, invalid_argument
from streaming.serving_protos import MultiInferenceRequest, MultiInferenceResponse


def multi_inference(core: ServerCore, request: MultiInferenceRequest, call: Call) -> MultiInferenceResponse:
    """Answers one request.

    Raises:
      StatusError, tf.errors.OpError: with TensorFlow Serving's codes and texts.
    """
    if not request.tasks or not request.tasks[0].HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    with core.servable(request.tasks[0].model_spec) as servable:
        signatures = _signatures(servable, request)
        fetches = tuple(_fetches(signature) for signature in signatures)
        feed = examples_input(signatures[0])
        if any(examples_input(signature).tensor != feed.tensor for signature in signatures):
            raise failed_precondition("Input tensor must be the same for all Signatures.")
        examples = serialized_examples(request.input)
        flat = tuple(ref for refs in fetches for ref in refs)
        arrays = iter(servable.run((feed,), [examples], flat, call))
        response = MultiInferenceResponse()
        for signature, refs in zip(signatures, fetches, strict=True):
            results = [next(arrays) for _ in refs]
            result = response.results.add()
            fill_model_spec(result.model_spec, servable, signature.key)
            if signature.method_name == CLASSIFY_METHOD:
                fill_classifications(result.classification_result, refs, results, len(examples))
            else:
                fill_regressions(result.regression_result, refs[0], results[0], len(examples))
    return response


def _signatures(servable: Servable, request: MultiInferenceRequest) -> list[Signature]:
    """The signature of each task.

    Raises:
      StatusError: the tasks are of several models or name one signature twice (INVALID_ARGUMENT), or name a method that
        is neither classify nor regress (UNIMPLEMENTED).
    """
    signatures: dict[str, Signature] = {}
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != servable.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        key = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if key in signatures:
            raise invalid_argument(f"Duplicate evaluation of signature: {key}")
        signature = servable.signatures.get(key)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {key}")
        method = task.method_name
        if method not in (CLASSIFY_METHOD, REGRESS_METHOD):
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")
        if method != signature.method_name:
            raise invalid_argument(f"Expected signature {key} of method {method}. Was: {signature.method_name}")
        signatures[key] = signature
    return list(signatures.values())


def _fetches(signature: Signature) -> tuple[TensorRef, ...]:
    if signature.method_name == CLASSIFY_METHOD:
        return classification_outputs(signature)
    return (regression_output(signature),)
